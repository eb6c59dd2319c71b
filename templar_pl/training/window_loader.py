"""Makes any training loader windowed: one iteration is one window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from templar_pl.data import WindowedDataset
from templar_pl.errors import ConfigError
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.units import Uid, Window

NO_PAGES = bytes(32)
"""Digest of the assigned pages where the data is not assigned."""

Place = tuple[int, int]
"""(window in which the current pass over a loader began, batches taken since); (-1, 0) before the first pass."""

BEFORE_FIRST: Place = (-1, 0)


class WindowLoader:
    """Yields the batches of one window each time it is iterated; at least one, unless the run is over.

    A loader whose dataset is a `WindowedDataset` is told the window and gives its pages. Any other loader goes on
    where the last window stopped, and starts over when it is exhausted; a window never spans that point.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        phases: PhaseClock,
        *,
        begin: Callable[[], tuple[Uid, Window] | None],
        has_time: Callable[[int], bool],
        seed: Callable[[Window], object],
        max_batches: int | None = None,
    ) -> None:
        """Store the parts.

        Args:
            loader: what the user gave the trainer.
            phases: stopwatch of the window; fetching counts as data loading, all else between batches as training.
            begin: catches up and says for whom and for which window to load; None when the run is over.
            has_time: whether another batch fits into the window after so many that were fetched.
            seed: makes what is random that of a window, so that a pass can be begun again as it was.
            max_batches: batches of a window at most, at least 1; None for no limit.
        """
        self._loader, self._phases, self._begin, self._has_time = loader, phases, begin, has_time
        self._seed, self._max_batches = seed, max_batches
        self._running: Iterator[Any] | None = None
        self._place = BEFORE_FIRST
        self._window: Window | None = None
        self.place_at_start = BEFORE_FIRST
        """Where in the loader the window in training began."""

        self.pages = NO_PAGES
        """32 bytes: digest of the pages of the window."""

    @property
    def place(self) -> Place:
        """Where in the loader the next window begins."""
        return self._place

    def go_to(self, place: Place) -> None:
        """Let the next window begin at a place from an earlier life."""
        self._running, self._place, self._window = None, place, None

    def __iter__(self) -> Iterator[Any]:
        """Catch up, begin a window and yield its batches.

        Raises:
            ConfigError: the loader has no batches.
        """
        begun = self._begin()
        if begun is None:
            return
        self._phases.enter(Phase.DATA_LOADING)
        fetched = 0
        for batch in self._open(*begun):
            fetched += 1
            self._phases.enter(Phase.TRAINING)
            yield batch
            self._phases.enter(Phase.DATA_LOADING)
            if fetched == self._max_batches or not self._has_time(fetched):
                break
        if not fetched:
            raise ConfigError("the training loader has no batches: give it more data, or a smaller batch size")
        self._phases.enter(Phase.TRAINING)

    def _open(self, uid: Uid, window: Window) -> Iterator[Any]:
        dataset = getattr(self._loader, "dataset", None)
        if isinstance(dataset, WindowedDataset):
            self.pages = dataset.begin_window(uid, window)
            return iter(self._loader)
        if window == self._window:  # begun a second time: nothing of it was trained
            self.go_to(self.place_at_start)
        self._window, self.place_at_start = window, self._place
        return self._continue(window)

    def _continue(self, window: Window) -> Iterator[Any]:
        """Yield the rest of the pass that is under way, or a new pass if nothing is left of it."""
        batches = self._running or self._pass(window)
        batch = next(batches, _EXHAUSTED)
        if batch is _EXHAUSTED:  # the last window took the last batch
            self._place = BEFORE_FIRST
            batches = self._pass(window)
            batch = next(batches, _EXHAUSTED)
        while batch is not _EXHAUSTED:
            self._running, self._place = batches, (self._place[0], self._place[1] + 1)
            yield batch
            batch = next(batches, _EXHAUSTED)
        self._running, self._place = None, BEFORE_FIRST

    def _pass(self, window: Window) -> Iterator[Any]:
        """Begin a pass, or begin the one that is under way again and skip what was taken of it."""
        if self._place == BEFORE_FIRST:
            self._place = (window, 0)
        began, taken = self._place
        self._seed(Window(began))
        batches = iter(self._loader)
        # A sampler draws its order at the first batch.
        self._seed(Window(began))
        for _ in range(taken):
            next(batches, None)
        if taken:
            self._seed(window)
        return batches


_EXHAUSTED = object()
"""What no loader yields."""
