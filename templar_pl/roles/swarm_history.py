"""What a swarm has done so far, read from the store and the chain alone: nobody is asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from templar_pl.errors import DocumentError, ObjectMissingError, StoreError
from templar_pl.exchange.aggregates import AggregateSource, FileBuckets
from templar_pl.protocol import Manifest, Peer, Verify
from templar_pl.protocol.keys import WindowKeys, debug_keys, score_keys
from templar_pl.protocol.score_document import MAX_SCORE_BYTES, decode_score_record
from templar_pl.units import Hotkey, Uid, Window

log = logging.getLogger(__name__)

MAX_REPORT_BYTES = 2**18
"""A report names each of 512 peers twice at most, with a line of why it was left out."""

FIRST = Window(0)
"""The first window of a local chain."""

_RECENT = 20
"""Windows back from the open one in which a manifest may still come."""


@dataclass(frozen=True, slots=True)
class Report:
    """One window as one miner saw it; what `WindowReport.to_json` says of it."""

    window: Window
    loss: float
    """NaN and infinity included."""

    peers: tuple[Uid, ...]
    """Whose payloads it applied."""

    before: str
    """64 hexadecimal digits: fingerprint of its parameters before the update."""

    put_failed: str
    """Why the own payload is not part of the window; empty if it is."""

    bytes_up: int
    bytes_down: int


def read_report(data: bytes) -> Report:
    """Read the report of a miner. Raises `ValueError` if it is none."""
    try:
        said = json.loads(data)
        return Report(
            Window(int(said["window"])),
            float(said["loss"]),
            tuple(Uid(int(uid)) for uid in said["peers"]),
            str(said["parameters_before"]),
            str(said["put_failed"]),
            int(said["bytes_up"]),
            int(said["bytes_down"]),
        )
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no report of a window: {error!r}") from error


@dataclass(slots=True)
class History:
    """What is known so far."""

    window: Window = FIRST
    """The window that is open."""

    peers: dict[Uid, Peer] = field(default_factory=dict)
    reports: dict[Uid, dict[Window, Report]] = field(default_factory=dict)
    """Of each miner, by window; only those windows in which it took part."""

    manifests: dict[Window, Manifest] = field(default_factory=dict)
    scores: dict[Window, dict[Uid, float]] = field(default_factory=dict)
    """What the validator gave each miner, by the window that was scored."""

    weights: dict[Uid, float] = field(default_factory=dict)
    """What the validator has set on the chain last; shares that sum to 1."""

    def uid_of(self, hotkey: Hotkey) -> Uid | None:
        """Return the number of a hotkey; None if it is not registered yet."""
        return next((uid for uid, peer in self.peers.items() if peer.hotkey == hotkey), None)

    def newest(self, uid: Uid) -> Report | None:
        """Return the last report of a miner; None if there is none."""
        reports = self.reports.get(uid)
        return reports[max(reports)] if reports else None

    def before(self, window: Window) -> str | None:
        """Return the fingerprint that all should hold before a window, by the manifests; None if they do not say."""
        if window in self.manifests:
            return self.manifests[window].before.hex()
        earlier = self.manifests.get(Window(window - 1))
        return None if earlier is None else earlier.after.hex()

    @property
    def last_scores(self) -> dict[Uid, float]:
        """What the validator gave each miner last; empty before it did."""
        return self.scores[max(self.scores)] if self.scores else {}


class WatchedChain(Protocol):
    """What is asked of the chain."""

    def window(self) -> Window:
        """Return the open window."""
        ...

    def peers(self) -> dict[Uid, Peer]:
        """Return everybody who is registered."""
        ...

    def weights(self) -> dict[Uid, dict[Uid, float]]:
        """Return what each validator has set."""
        ...


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Where to look."""

    run: str
    """First part of every object key."""

    digest: bytes
    """32 bytes, of what all nodes of the run share."""

    chain: WatchedChain
    buckets: FileBuckets
    verify: Verify
    aggregator: Hotkey | None
    validator: Hotkey | None


class Watcher:
    """Reads what is new."""

    def __init__(self, watched: Watched) -> None:
        """Store where to look; nothing is read."""
        self._watched = watched
        self.history = History()

    def look(self) -> History:
        """Read what came since the last look, and return all that is known; what a store fails to tell comes later.

        Raises:
            ChainError: the chain does not answer.
        """
        chain, history = self._watched.chain, self.history
        history.window, history.peers = chain.window(), chain.peers()
        for uid, peer in history.peers.items():
            if peer.address:
                self._read_reports(uid, peer)
        self._read_manifests()
        validator = self._peer(self._watched.validator)
        if validator is not None:
            self._read_scores(validator)
            history.weights = chain.weights().get(validator.uid, {})
        return history

    def _peer(self, hotkey: Hotkey | None) -> Peer | None:
        uid = None if hotkey is None else self.history.uid_of(hotkey)
        if uid is None or not self.history.peers[uid].address:
            return None
        return self.history.peers[uid]

    def _read_reports(self, uid: Uid, peer: Peer) -> None:
        known = self.history.reports.setdefault(uid, {})
        for window, data in self._new_objects(peer, debug_keys(self._watched.run, uid), known, MAX_REPORT_BYTES):
            try:
                known[window] = read_report(data)
            except ValueError as error:
                log.debug("uid %d, window %d: %s", uid, window, error)

    def _read_scores(self, validator: Peer) -> None:
        """Read what the validator said of each window, if it was the validator who said it, of this run."""
        known, watched = self.history.scores, self._watched
        for window, data in self._new_objects(validator, score_keys(watched.run), known, MAX_SCORE_BYTES):
            try:
                public_key, record = decode_score_record(data, watched.verify)
            except DocumentError as error:
                log.debug("scores of window %d: %s", window, error)
                continue
            if (public_key, record.digest, record.window) == (validator.public_key, watched.digest, window):
                known[window] = {uid: miner.score for uid, miner in record.miners.items()}

    def _new_objects(
        self, peer: Peer, keys: WindowKeys, known: Mapping[Window, Any], max_bytes: int
    ) -> Iterator[tuple[Window, bytes]]:
        try:
            bucket = self._watched.buckets.of(peer.address)
            for key in bucket.list(keys.prefix):
                window = keys.window_of(key)
                if window is not None and window not in known:
                    yield window, bucket.get(key, max_bytes=max_bytes)
        except StoreError as error:
            log.debug("the bucket of uid %d: %s", peer.uid, error)

    def _read_manifests(self) -> None:
        watched, history = self._watched, self.history
        aggregator = self._peer(watched.aggregator)
        if aggregator is None:
            return
        source = AggregateSource(watched.buckets, aggregator, watched.run, watched.digest, watched.verify)
        for number in range(max(0, history.window - _RECENT), history.window):
            window = Window(number)
            if window in history.manifests:
                continue
            try:
                history.manifests[window] = source.fetch_manifest(window).manifest
            except ObjectMissingError:
                continue
            except (DocumentError, StoreError) as error:
                log.debug("manifest of window %d: %s", window, error)
