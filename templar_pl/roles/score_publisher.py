"""What a validator tells the others: records, the list of peers, and weights. What fails is tried again later."""

from __future__ import annotations

import logging
from dataclasses import replace

from templar_pl.chain import Chain
from templar_pl.config import ScoringConfig
from templar_pl.errors import ChainError, DocumentError, StoreError
from templar_pl.exchange import Bucket, Retention, publish_peer_list, standing_peer_list
from templar_pl.exchange.window_values import Identity
from templar_pl.protocol import PeerListFile, score_keys
from templar_pl.roles.score_journal import Journal, Knowledge
from templar_pl.scoring import PeerList
from templar_pl.units import Window

log = logging.getLogger(__name__)


def are_weights_due(window: Window, weights_window: Window, period: int) -> bool:
    """Tell whether weights are to be set after a window: once in each `period` of windows that has ended.

    Args:
        window: that was judged last.
        weights_window: last one whose weights the chain took, or the one before the run.
        period: windows_per_weights, at least 1.
    """
    return (window + 1) // period > (weights_window + 1) // period


class ScorePublisher:
    """Publishes what follows from the windows that were judged."""

    def __init__(self, bucket: Bucket, chain: Chain, own: Identity, *, journal: Journal, keep_windows: int) -> None:
        """Store the parts.

        Args:
            bucket: the own bucket.
            chain: takes the weights.
            own: name of the run, the first part of all keys, and the own hotkey.
            journal: knows what is to be published.
            keep_windows: windows that records stay in the bucket, and lists are told of.
        """
        self._bucket, self._chain, self._own = bucket, chain, own
        self._journal, self._keep_windows = journal, keep_windows
        self._retention = Retention(bucket, {score_keys(own.run): keep_windows})
        self._listed: PeerList | None = None

    def publish(self, knowledge: Knowledge, scoring: ScoringConfig) -> Knowledge:
        """Publish all that is to be; return the knowledge with the window of the last weights.

        Args:
            knowledge: as the journal has it.
            scoring: how weights are made and when they are set.

        Raises:
            StoreError: the own disk failed; a bucket that fails is asked again the next time.
        """
        window = knowledge.scoring.window
        for judged, record in list(self._journal.unpublished(window)):
            if not self._put_record(judged, record):
                break  # in their order, so that what is there has no gaps
        self._put_list(knowledge)
        if not are_weights_due(window, knowledge.weights_window, scoring.windows_per_weights):
            return knowledge
        return self._set_weights(knowledge, scoring)

    def close(self, timeout_s: float) -> None:
        """Finish the deletion of old records, for so many seconds at most."""
        self._retention.close(timeout_s)

    def _put_record(self, window: Window, record: bytes) -> bool:
        try:
            self._bucket.put_once(score_keys(self._own.run).key(window), record)
        except StoreError as error:
            log.warning("window %d: its record is published later: %s", window, error)
            return False
        self._journal.published(window)
        self._retention.request(window)
        return True

    def _put_list(self, knowledge: Knowledge) -> None:
        window, peers = knowledge.scoring.window, knowledge.scoring.peer_list
        if not peers.uids or peers == self._listed:
            return
        listed = PeerListFile(run=self._own.run, window=window, effective_from=peers.effective_from, uids=peers.uids)
        try:
            listed = listed.after(self._standing(), Window(window - self._keep_windows))
            publish_peer_list(self._bucket, listed, self._own.signer)
        except StoreError as error:
            log.warning("window %d: the list of peers is published later: %s", window, error)
            return
        self._listed = peers
        uids = ", ".join(map(str, peers.uids))
        log.info("window %d: from window %d on, peers are uids %s", window, peers.effective_from, uids)

    def _standing(self) -> PeerListFile | None:
        """Return the list that was published last, also in an earlier life. Raises `StoreError`."""
        own = self._own
        try:
            return standing_peer_list(self._bucket, own.run, own.signer.public_key, own.verify)
        except DocumentError as error:
            log.warning("the own list of peers is replaced, and those before it are forgotten: %s", error)
            return None

    def _set_weights(self, knowledge: Knowledge, scoring: ScoringConfig) -> Knowledge:
        """Set weights; as long as nobody has earned any, what is set stays, and they stay due."""
        window, weights = knowledge.scoring.window, knowledge.scoring.weights(scoring)
        if not weights:
            return knowledge
        try:
            self._chain.set_weights(weights)
        except ChainError as error:
            log.warning("window %d: weights are set later: %s", window, error)
            return knowledge
        knowledge = replace(knowledge, weights_window=window)
        self._journal.keep(knowledge)
        shares = ", ".join(f"{uid} {share:.3f}" for uid, share in weights.items())
        log.info("window %d: weights are set, uid by uid: %s", window, shares)
        return knowledge
