"""The sequences of one window after the other."""

from __future__ import annotations

import pickle
import queue
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from templar_pl.config import PagesConfig
from templar_pl.data.background import BackgroundCall
from templar_pl.data.packing import PackedSequences, pack_documents
from templar_pl.data.page_set import PageSet, open_page_set
from templar_pl.data.tokenizers import load_tokenizer
from templar_pl.data.windowed import Key, PagesDataset, WindowedDataset, WindowShelf, pack_pages
from templar_pl.errors import ConfigError
from templar_pl.protocol.pages import next_pages, pages_digest
from templar_pl.units import Uid, Window
from tests.data.helpers import write_page_set

CONFIG = PagesConfig(tokenizer_name="bytes", sequence_length=16, pages_per_window=3, batch_size=4)


@pytest.fixture
def pages(tmp_path: Path) -> PageSet:
    write_page_set(tmp_path, 40)
    return open_page_set(tmp_path, text_column="text", rows_per_page=2, num_validation_pages=2, min_training_pages=3)


def dataset_of(pages: PageSet) -> PagesDataset:
    return PagesDataset(pages, load_tokenizer("bytes"), CONFIG)


def expected_tokens(pages: PageSet, uid: int, window: int) -> list[int]:
    """The slow way: all bytes of the assigned pages, 256 after each row."""
    numbers = next_pages(window * 3, 3, uid, pages.num_training_pages)
    rows = [row for number in numbers for row in pages.read(number)]
    return [token for row in rows for token in [*row.encode(), 256]]


def unpadded(sequences: list[dict[str, Tensor]]) -> list[int]:
    tokens = torch.cat([s["input_ids"].flatten() for s in sequences])
    labels = torch.cat([s["labels"].flatten() for s in sequences])
    return tokens[labels != -100].tolist()


def test_a_window_yields_all_tokens_of_its_pages(pages: PageSet) -> None:
    dataset = dataset_of(pages)
    for uid, window in [(0, 0), (0, 1), (3, 1), (3, 7), (3, 2)]:
        dataset.begin_window(Uid(uid), Window(window))

        assert unpadded(list(dataset)) == expected_tokens(pages, uid, window)
    dataset.close()


def test_windows_go_on_when_the_pages_run_out(pages: PageSet) -> None:
    dataset = dataset_of(pages)
    windows = []
    for window in range(12):  # 12 windows of 3 pages are two rounds of 18 pages
        dataset.begin_window(Uid(5), Window(window))
        windows.append(unpadded(list(dataset)))
    dataset.close()

    assert sorted(token for tokens in windows[:6] for token in tokens) == sorted(
        token for tokens in windows[6:] for token in tokens
    )


def test_held_out_pages_are_never_assigned(pages: PageSet) -> None:
    held_out = [row for page in pages.validation_pages for row in pages.read(page)]
    dataset = dataset_of(pages)
    for window in range(6):
        dataset.begin_window(Uid(1), Window(window))
        text = bytes(token if token < 256 else 10 for token in unpadded(list(dataset))).decode()
        assert not any(row in text.split("\n") for row in held_out)
    dataset.close()


def test_the_digest_names_the_assigned_pages(pages: PageSet) -> None:
    dataset = dataset_of(pages)

    digest = dataset.begin_window(Uid(2), Window(4))

    assert digest == pages_digest(next_pages(12, 3, 2, 18), pages.digest)
    assert digest != dataset.begin_window(Uid(2), Window(5))


def test_a_window_does_not_depend_on_the_windows_before(pages: PageSet) -> None:
    walked, direct = dataset_of(pages), dataset_of(pages)
    for window in range(3):
        walked.begin_window(Uid(1), Window(window))
        list(walked)
    walked.begin_window(Uid(1), Window(3))
    direct.begin_window(Uid(1), Window(3))

    for one, other in zip(walked, direct, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    walked.close()
    direct.close()


def test_without_a_window_it_stands_at_the_first_window_of_the_first_uid(pages: PageSet) -> None:
    dataset = dataset_of(pages)

    assert unpadded(list(dataset)) == unpadded(list(dataset)) == expected_tokens(pages, 0, 0)
    dataset.close()


def test_workers_give_the_same_batches_in_the_same_order_in_every_window(pages: PageSet) -> None:
    alone, shared = dataset_of(pages), dataset_of(pages)
    one = DataLoader(alone, batch_size=4)
    two = DataLoader(
        shared, batch_size=4, num_workers=2, persistent_workers=True, timeout=120, multiprocessing_context="spawn"
    )
    for uid, window in [(1, 0), (1, 1), (2, 5)]:
        alone.begin_window(Uid(uid), Window(window))
        shared.begin_window(Uid(uid), Window(window))

        expected, got = list(one), list(two)

        assert len(expected) > 3
        for left, right in zip(expected, got, strict=True):
            assert all(torch.equal(left[name], right[name]) for name in left)
        assert unpadded(got) == expected_tokens(pages, uid, window)
    alone.close()


def test_a_dataset_can_be_sent_to_another_process(pages: PageSet) -> None:
    dataset = dataset_of(pages)
    list(dataset)

    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes

    assert unpadded(list(copy)) == expected_tokens(pages, 0, 0)
    copy.close()
    dataset.close()


def test_a_dataset_that_knows_windows_is_told_from_one_that_does_not(pages: PageSet) -> None:
    assert isinstance(dataset_of(pages), WindowedDataset)
    assert not isinstance(TensorDataset(torch.zeros(2)), WindowedDataset)


def test_going_on_with_an_old_window_is_a_bug_that_is_named(pages: PageSet) -> None:
    dataset = dataset_of(pages)
    old = iter(dataset)
    next(old)
    dataset.begin_window(Uid(0), Window(1))
    next(iter(dataset))

    with pytest.raises(RuntimeError, match="or a newer one had begun"):
        next(old)
    dataset.close()


@pytest.mark.parametrize("is_sent", [False, True])
def test_no_window_is_prepared_ahead_for_whoever_wants_other_uids(pages: PageSet, is_sent: bool) -> None:
    dataset = PagesDataset(pages, load_tokenizer("bytes"), CONFIG, prepares_next=False)
    if is_sent:
        dataset = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes
    for uid, window in [(3, 1), (2**32 - 1, 10**9 - 1), (0, 1)]:
        dataset.begin_window(Uid(uid), Window(window))

        assert unpadded(list(dataset)) == expected_tokens(pages, uid, window)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("pages of window")]


def test_no_thread_outlives_close(pages: PageSet) -> None:
    before = threading.active_count()
    dataset = dataset_of(pages)
    next(iter(dataset))

    dataset.close()

    assert threading.active_count() == before
    assert unpadded(list(dataset)) == expected_tokens(pages, 0, 0)
    dataset.close()


def sequences_of(key: Key) -> PackedSequences:
    return pack_documents([[key[1]]], num_bytes=[1], sequence_length=2, end_of_text=9, pad=9)


def test_the_next_window_is_prepared_while_this_one_is_used() -> None:
    prepared: list[Key] = []
    ready = threading.Event()

    def prepare(key: Key, cancelled: threading.Event) -> PackedSequences:
        prepared.append(key)
        if key == (0, 1):
            ready.set()
        return sequences_of(key)

    shelf = WindowShelf(prepare)
    shelf.take((0, 0))

    assert ready.wait(10)
    assert shelf.take((0, 1)).input_ids.tolist() == [[1, 9]]
    shelf.close()
    assert prepared[:2] == [(0, 0), (0, 1)]
    assert prepared.count((0, 1)) == 1


def test_never_more_than_two_windows_are_held() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    made: queue.Queue[Key] = queue.Queue()
    most = 0

    def prepare(key: Key, cancelled: threading.Event) -> PackedSequences:
        nonlocal most
        sequences = sequences_of(key)
        alive.add(sequences.input_ids)
        most = max(most, len(alive))
        made.put(key)
        return sequences

    shelf = WindowShelf(prepare)
    for window in [0, 1, 2, 7, 8, 3]:
        shelf.take((0, window))
        while made.get(timeout=10) != (0, window + 1):
            pass
    shelf.close()

    assert most == 2


def test_an_error_of_the_thread_rises_where_its_window_is_asked_for() -> None:
    def prepare(key: Key, cancelled: threading.Event) -> PackedSequences:
        if key == (0, 1):
            raise ConfigError("the disk is gone")
        return sequences_of(key)

    shelf = WindowShelf(prepare)
    assert len(shelf.take((0, 0))) == 1

    with pytest.raises(ConfigError, match="the disk is gone"):
        shelf.take((0, 1))


def test_closing_stops_a_thread_that_is_at_work() -> None:
    started = threading.Event()

    def prepare(key: Key, cancelled: threading.Event) -> PackedSequences:
        if key == (0, 1):
            started.set()
            assert cancelled.wait(30)
            raise InterruptedError
        return sequences_of(key)

    shelf = WindowShelf(prepare)
    shelf.take((0, 0))
    assert started.wait(10)

    shelf.close()

    assert not [thread for thread in threading.enumerate() if thread.name == "pages of window 1"]


def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    release = threading.Event()
    call = BackgroundCall(lambda cancelled: release.wait(30), name="slow")
    call.start()

    with pytest.raises(TimeoutError, match="slow is still running"):
        call.result(0.01)
    release.set()
    assert call.result(10) is True


def test_packing_stops_between_pages_when_nobody_wants_them(pages: PageSet) -> None:
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(InterruptedError):
        pack_pages(pages, [0, 1], load_tokenizer("bytes"), CONFIG, cancelled=cancelled)
