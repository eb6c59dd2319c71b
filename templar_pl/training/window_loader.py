"""Makes any training loader windowed: one iteration is one window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from templar_pl.data import WindowedDataset
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.units import Uid, Window

NO_PAGES = bytes(32)
"""Digest of the assigned pages where the data is not assigned."""


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
        has_time: Callable[[], bool],
        max_batches: int | None = None,
    ) -> None:
        """Store the parts.

        Args:
            loader: what the user gave the trainer.
            phases: stopwatch of the window; fetching counts as data loading, all else between batches as training.
            begin: catches up and says for whom and for which window to load; None when the run is over.
            has_time: whether another batch fits into the window.
            max_batches: batches of a window at most, at least 1; None for no limit.
        """
        self._max_batches = max_batches
        self._loader, self._phases, self._begin, self._has_time = loader, phases, begin, has_time
        self._unfinished: Iterator[Any] | None = None
        self.pages = NO_PAGES
        """32 bytes: digest of the pages of the window."""

    def __iter__(self) -> Iterator[Any]:
        """Catch up, begin a window and yield its batches."""
        begun = self._begin()
        if begun is None:
            return
        self._phases.enter(Phase.DATA_LOADING)
        for number, batch in enumerate(self._open(*begun), 1):
            self._phases.enter(Phase.TRAINING)
            yield batch
            self._phases.enter(Phase.DATA_LOADING)
            if number == self._max_batches or not self._has_time():
                break
        self._phases.enter(Phase.TRAINING)

    def _open(self, uid: Uid, window: Window) -> Iterator[Any]:
        dataset = getattr(self._loader, "dataset", None)
        if isinstance(dataset, WindowedDataset):
            self.pages = dataset.begin_window(uid, window)
            return iter(self._loader)
        return self._continue()

    def _continue(self) -> Iterator[Any]:
        if self._unfinished is None:
            self._unfinished = iter(self._loader)
        yield from self._unfinished
        self._unfinished = None
