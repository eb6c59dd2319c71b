"""What miners published for a window that is over: whose payload counts, and why others' do not."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from templar_pl.chain import Chain
from templar_pl.errors import Fault, PayloadError, StoreError
from templar_pl.exchange import Buckets
from templar_pl.exchange.gather import Interval
from templar_pl.exchange.record import Fetched, PayloadSource
from templar_pl.protocol import payload_key
from templar_pl.protocol.peer import Peer
from templar_pl.scoring import Presence, Upload
from templar_pl.training.patience import Patience
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

_THREADS = 16

DOUBTED_WINDOWS = 5
"""Of a span, for which a validator blames itself at most if most buckets fail; after that each is its owner's duty."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen of one window."""

    window: Window
    presences: tuple[Presence, ...]
    """Of all who may send, in uid order."""

    payloads: Mapping[Uid, Fetched]
    """Of those whose payloads count, in uid order."""

    uploads: Mapping[Uid, Upload]
    """When these landed, where the store told."""


class Lookout:
    """Looks at everybody's buckets, by the clock: no manifest says what those did whom it does not list."""

    def __init__(
        self,
        chain: Chain,
        buckets: Buckets,
        run: str,
        source: PayloadSource,
        patience: Patience,
        *,
        doubt_span: int,
    ) -> None:
        """Store the parts.

        Args:
            chain: knows who may send, and when.
            buckets: of the run.
            run: name of the run, the first part of all keys.
            source: fetches and checks payloads.
            patience: with chain and store.
            doubt_span: windows of which the validator blames itself for DOUBTED_WINDOWS at most, and for half of them.
        """
        self._chain, self._buckets, self._run = chain, buckets, run
        self._source, self._patience = source, patience
        self._reach = _Reach(doubt_span)

    def look(self, window: Window) -> Sighting:
        """Return what was published for a window whose time for uploads is over, and lies not too far back.

        A store that answers for nobody is asked again. Where most buckets that answered before fail, the way to them
        may be what fails: they are asked once more in what is left of the time, and those that fail still are unseen.
        Other buckets that fail, and all after `DOUBTED_WINDOWS`, are missing.

        Raises:
            StoreError: the store answered for nobody.
            ChainError: the chain did not answer.
        """
        registered, interval = self._patience.insist(
            "the chain does not answer",
            lambda: (self._chain.candidates(window), self._chain.upload_interval(window)),
        )
        reachable = {uid: peer for uid, peer in registered.items() if peer.address}

        payloads, skipped = self._patience.insist(
            f"window {window} cannot be judged", lambda: self._fetch(window, reachable, interval)
        )
        unseen = self._reach.unseen(window, _failing(skipped), reachable)
        presences = tuple(
            Presence(
                uid=uid,
                hotkey=peer.hotkey,
                fault=None if uid in payloads else Fault.UNSEEN if uid in unseen else _fault(skipped.get(uid)),
            )
            for uid, peer in registered.items()
        )
        return Sighting(window, presences, payloads, self._uploads(window, payloads, registered))

    def _fetch(
        self, window: Window, reachable: Mapping[Uid, Peer], interval: Interval
    ) -> tuple[dict[Uid, Fetched], dict[Uid, PayloadError | StoreError]]:
        """Return payloads, and why others have none. Raises `StoreError` if the store answers for nobody."""
        deadline = self._source.deadline()
        gathered = self._source.fetch(window, reachable, interval=interval, deadline=deadline)
        silent = [error for error in gathered.skipped.values() if isinstance(error, StoreError)]
        if silent and len(silent) == len(reachable):
            raise StoreError(f"window {window}: the store answers for no miner: {silent[0]}")
        failing = _failing(gathered.skipped)
        if not self._reach.is_doubtful(failing, reachable):
            return gathered.payloads, gathered.skipped
        asked = {uid: reachable[uid] for uid in failing}
        again = self._source.fetch(window, asked, interval=interval, deadline=deadline)
        others = {uid: error for uid, error in gathered.skipped.items() if uid not in failing}
        return dict(sorted((gathered.payloads | again.payloads).items())), others | again.skipped

    def _uploads(self, window: Window, payloads: Mapping[Uid, Fetched], peers: Mapping[Uid, Peer]) -> dict[Uid, Upload]:
        """Return when payloads landed; whoever's store does not tell can be accused of nothing, and accuses nobody."""

        def ask(uid: Uid) -> float | None:
            try:
                return self._buckets.of(peers[uid].address).head(payload_key(self._run, window, uid)).modified
            except StoreError as error:
                log.debug("window %d: when the payload of uid %d landed is not known: %s", window, uid, error)
                return None

        with ThreadPoolExecutor(_THREADS, "uploads") as pool:
            times = dict(zip(payloads, pool.map(ask, payloads), strict=True))
        return {
            uid: Upload(uid=uid, window=window, uploaded_at=time, sha256=payloads[uid].sha256.hex())
            for uid, time in times.items()
            if time is not None
        }


class _Reach:
    """Tells buckets that fail from a validator that cannot reach them."""

    def __init__(self, span: int) -> None:
        self._span, self._most = span, min(DOUBTED_WINDOWS, span // 2)
        self._answered: frozenset[Uid] = frozenset()
        """Those whose stores answered when most did, whatever they said."""

        self._window = Window(-1)
        self._doubted: deque[Window] = deque(maxlen=DOUBTED_WINDOWS)
        """Those in which somebody was unseen."""

    def is_doubtful(self, failing: Collection[Uid], asked: Collection[Uid]) -> bool:
        """Whether most buckets fail of those that answered before, or of all while nobody knows of such.

        Buckets that have failed for long, of which a chain may have many, have no part in it.
        """
        known = self._answered & set(asked) or set(asked)
        return 2 * len(known & set(failing)) > len(known)

    def unseen(self, window: Window, failing: Collection[Uid], asked: Collection[Uid]) -> frozenset[Uid]:
        """Return whose buckets fail through no fault of theirs, as far as can be told."""
        is_doubtful = self.is_doubtful(failing, asked)
        if window <= self._window:  # looked at to compare payloads only
            return frozenset(failing) if is_doubtful else frozenset()
        self._window = window
        # Whoever owns most buckets could let them fail in all windows but a few if those in a row were counted.
        if is_doubtful and sum(doubted > window - self._span for doubted in self._doubted) < self._most:
            self._doubted.append(window)
            log.warning(
                "window %d: %d of %d buckets fail, most of those that answered before: nobody is silent for that",
                window,
                len(failing),
                len(asked),
            )
            return frozenset(failing)
        self._answered = frozenset(asked) - frozenset(failing)
        return frozenset()


def _failing(skipped: Mapping[Uid, PayloadError | StoreError]) -> list[Uid]:
    """Return whose stores did not answer."""
    return [uid for uid, error in skipped.items() if isinstance(error, StoreError)]


def _fault(error: PayloadError | StoreError | None) -> Fault:
    """Return why a payload does not count; a bucket that nobody named, or that does not answer, has none."""
    return error.fault if isinstance(error, PayloadError) else Fault.MISSING
