"""Any loader becomes windowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from templar_pl.errors import ConfigError
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.training.window_loader import NO_PAGES, WindowLoader
from templar_pl.units import Uid, Window


class Assigned(IterableDataset[int]):
    """Two numbers a window."""

    window = -1

    def begin_window(self, uid: Uid, window: Window) -> bytes:
        self.window = window
        return bytes([uid, window]) * 16

    def __iter__(self) -> Iterator[int]:
        return iter((10 * self.window, 10 * self.window + 1))


class Loader:
    """As much of a DataLoader as is used."""

    def __init__(self, dataset: Iterable[int]) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        return iter(self.dataset)


class Windows:
    """Begins windows 0, 1, ... of uid 7; each has time for so many batches."""

    def __init__(self, batches: int = 1000, last: int = 1000) -> None:
        self.begun, self.batches, self.last = 0, batches, last

    def begin(self) -> tuple[Uid, Window] | None:
        if self.begun > self.last:
            return None
        self.begun += 1
        return Uid(7), Window(self.begun - 1)

    def has_time(self, fetched: int) -> bool:
        return fetched < self.batches


def windowed(
    loader: Any, windows: Windows, phases: PhaseClock | None = None, max_batches: int | None = None
) -> WindowLoader:
    return WindowLoader(
        loader,
        phases or PhaseClock(),
        begin=windows.begin,
        has_time=windows.has_time,
        seed=torch.manual_seed,
        max_batches=max_batches,
    )


def test_a_dataset_that_knows_windows_is_told_each_one() -> None:
    loader = windowed(Loader(Assigned()), Windows())

    assert [list(loader) for _ in range(3)] == [[0, 1], [10, 11], [20, 21]]
    assert loader.pages == bytes([7, 2]) * 16


def test_any_other_loader_gives_one_pass_a_window() -> None:
    loader = windowed(Loader(range(3)), Windows())

    assert [list(loader) for _ in range(2)] == [[0, 1, 2], [0, 1, 2]]
    assert loader.pages == NO_PAGES


def test_a_window_that_ends_by_time_goes_on_where_it_stopped() -> None:
    loader = windowed(Loader(range(5)), Windows(batches=2))

    assert [list(loader) for _ in range(4)] == [[0, 1], [2, 3], [4], [0, 1]]


def test_a_window_has_one_batch_even_if_there_is_no_time() -> None:
    loader = windowed(Loader(Assigned()), Windows(batches=0))

    assert list(loader) == [0]


def test_a_limit_of_batches_holds_although_a_window_may_have_fewer() -> None:
    windows = Windows()
    loader = windowed(Loader(range(5)), windows, max_batches=3)

    assert [list(loader) for _ in range(3)] == [[0, 1, 2], [3, 4], [0, 1, 2]]


def test_a_run_that_is_over_yields_nothing() -> None:
    loader = windowed(Loader(range(3)), Windows(last=0))

    assert [list(loader) for _ in range(2)] == [[0, 1, 2], []]


def test_fetching_counts_as_data_loading_and_the_rest_as_training() -> None:
    now = 0.0

    def slow() -> Iterator[int]:
        nonlocal now
        for i in range(2):
            now += 3.0
            yield i

    class Slow:
        def __iter__(self) -> Iterator[int]:
            return slow()

    phases = PhaseClock(lambda: now)
    phases.start(Phase.DATA_LOADING)
    for _ in windowed(Slow(), Windows(), phases):
        now += 10.0

    seconds = phases.stop()
    assert seconds[Phase.DATA_LOADING] == 6.0
    assert seconds[Phase.TRAINING] == 20.0


def test_a_window_that_ends_with_the_last_batch_is_followed_by_a_new_pass() -> None:
    loader = windowed(Loader(range(4)), Windows(), max_batches=2)

    assert [list(loader) for _ in range(4)] == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_a_loader_that_is_a_generator_is_used_up_before_it_starts_over() -> None:
    class Generated:
        def __iter__(self) -> Iterator[int]:
            yield from range(3)

    loader = windowed(Generated(), Windows(), max_batches=2)

    assert [list(loader) for _ in range(4)] == [[0, 1], [2], [0, 1], [2]]


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no batches"):
        list(windowed(Loader([]), Windows()))


def shuffled() -> DataLoader[int]:
    return DataLoader(list(range(10)), batch_size=1, shuffle=True)  # type: ignore[arg-type]  # a list is a dataset


def numbers(loader: WindowLoader, windows: int) -> list[list[int]]:
    return [[int(batch) for batch in loader] for _ in range(windows)]


def test_a_loader_goes_on_at_a_place_of_an_earlier_life_in_the_same_shuffled_order() -> None:
    whole = numbers(windowed(shuffled(), Windows(), max_batches=4), 9)
    first_life, later = windowed(shuffled(), Windows(), max_batches=4), Windows()
    parts = numbers(first_life, 4)
    later.begun = 4
    second_life = windowed(shuffled(), later, max_batches=4)
    second_life.go_to(first_life.place)

    assert parts + numbers(second_life, 5) == whole
    assert sorted(whole[0] + whole[1] + whole[2]) == list(range(10))


def test_a_window_that_is_begun_twice_begins_at_the_same_batch() -> None:
    windows = Windows()
    loader = windowed(shuffled(), windows, max_batches=4)
    first = numbers(loader, 1)
    abandoned = next(iter(loader))
    windows.begun -= 1

    again = numbers(loader, 1)

    assert again[0][0] == int(abandoned)
    assert first[0] != again[0]
