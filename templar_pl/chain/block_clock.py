"""Which block it is on a public chain, between two heads and without a connection.

While heads arrive, the newest block is the newest head. When the connection is lost, blocks are counted on from the
last head by monotonic time, as long as the chain says a block takes. That can only run ahead: a chain skips slots but
makes no block early. What was counted too far is held until the heads have caught up, since a window that was once open
must not open again.
"""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable

from templar_pl.units import Block

NUM_REMEMBERED = 512
"""Heads whose arrival is remembered: an hour and a half of blocks of 12 s."""

NUM_INTERVALS = 32
"""Intervals between heads that the uncertainty is taken from."""

STALLED_BLOCKS = 5
"""Lengths of a block without a newer head after which a chain counts as lost although it answers: the endpoint may
stand still while others go on. Several skipped slots in a row are no such thing yet."""

SOON_S = 0.05
"""What is left at least until a block that has not come, in seconds."""

LEAST_DRIFT = 1e-3
"""Share of the time without heads by which the count of blocks may be wrong at least."""


class BlockClock:
    """Counts blocks. Safe to use from several threads; nothing here waits."""

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        """Start without knowing any block.

        Args:
            elapsed: monotonic seconds.
        """
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._block_s = math.nan
        self._heads: deque[tuple[Block, float]] = deque(maxlen=NUM_REMEMBERED)
        self._is_lost = False
        self._said = Block(0)

    def start(self, block_s: float) -> None:
        """Learn how many seconds a block takes, above 0. What was said before still holds."""
        with self._lock:
            self._block_s = block_s

    @property
    def block_s(self) -> float:
        """Seconds a block takes; NaN before `start`."""
        return self._block_s

    @property
    def is_lost(self) -> bool:
        """Whether blocks are counted without heads."""
        return self._is_lost

    def see(self, head: Block) -> bool:
        """Learn that a head has arrived just now; return whether it is a newer one.

        Repeated and older heads tell nothing new but that the chain can be reached, and not even that of one that
        stands still (`STALLED_BLOCKS`). Heads that were left out are taken to have come evenly since the last one.
        """
        with self._lock:
            now = self._elapsed()
            is_newer = not self._heads or head > self._heads[-1][0]
            if is_newer:
                self._fill_gap(head, now)
                self._heads.append((head, now))
            self._is_lost = self._is_lost and self._is_stalled(now)
            return is_newer

    def stalled_s(self) -> float | None:
        """Return the seconds since the newest head if those are more than `STALLED_BLOCKS` blocks take, else None."""
        with self._lock:
            now = self._elapsed()
            return now - self._heads[-1][1] if self._is_stalled(now) else None

    def newest(self) -> Block | None:
        """Return the newest head that was seen; None before the first."""
        with self._lock:
            return self._heads[-1][0] if self._heads else None

    def lose(self) -> None:
        """Learn that no heads will arrive until further notice; from here on blocks are counted by time."""
        with self._lock:
            self._is_lost = True

    def block(self) -> Block:
        """Return the newest block; never one before another that was said. 0 before the first head."""
        with self._lock:
            return self._now()

    def seconds_until(self, block: Block) -> float:
        """Return the seconds until a block is there: above 0 if it is not there yet, else 0 or less: since when."""
        with self._lock:
            if not self._heads:
                return math.inf
            now, (head, seen_at) = self._elapsed(), self._heads[-1]
            left_s = (block - head) * self._block_s - (now - seen_at)
            if block > self._now():
                return max(left_s, SOON_S)
            if block > head:
                return min(left_s, 0.0)  # counted on
            return min(self._seen_at(block) - now, 0.0)

    def uncertainty_s(self) -> float:
        """Return by how many seconds the next block may come earlier or later than expected.

        While heads arrive: the largest deviation among the last intervals. Without them it grows with the time, by the
        share the chain was late on the whole, for slots it skips cannot be seen.
        """
        with self._lock:
            if not self._heads:
                return math.inf
            intervals = self._intervals()
            spread_s = max((abs(interval - self._block_s) for interval in intervals), default=self._block_s)
            if not self._is_lost:
                return spread_s
            drift = abs(statistics.fmean(intervals) / self._block_s - 1) if intervals else 0.0
            return spread_s + (self._elapsed() - self._heads[-1][1]) * max(drift, LEAST_DRIFT)

    def _now(self) -> Block:
        if not self._heads:
            return self._said
        head, seen_at = self._heads[-1]
        counted = math.floor((self._elapsed() - seen_at) / self._block_s) if self._is_lost else 0
        self._said = Block(max(self._said, head + counted))
        return self._said

    def _is_stalled(self, now: float) -> bool:
        return bool(self._heads) and now - self._heads[-1][1] > STALLED_BLOCKS * self._block_s

    def _fill_gap(self, head: Block, now: float) -> None:
        if not self._heads:
            return
        last, seen_at = self._heads[-1]
        step_s = (now - seen_at) / (head - last)
        for missed in range(max(last + 1, head - NUM_REMEMBERED), head):
            self._heads.append((Block(missed), seen_at + (missed - last) * step_s))

    def _seen_at(self, block: Block) -> float:
        """Return the monotonic second at which a block up to the newest head arrived; older ones are reckoned."""
        oldest, seen_at = self._heads[0]
        if block < oldest:
            return seen_at - (oldest - block) * self._block_s
        return self._heads[block - oldest][1]

    def _intervals(self) -> list[float]:
        recent = list(self._heads)[-NUM_INTERVALS - 1 :]
        return [later[1] - earlier[1] for earlier, later in itertools.pairwise(recent)]
