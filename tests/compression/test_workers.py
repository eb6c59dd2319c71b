"""Work that is dealt out to threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from templar_pl.compression import MomentumCodec, encode_body
from templar_pl.compression.blocks import batches_of, owners_of
from templar_pl.compression.body import read_body
from templar_pl.compression.grid import as_grids, chunk_grid
from templar_pl.compression.slab import SLAB_NUMEL, momentum_of, new_slabs
from templar_pl.compression.workers import alone, share_out, share_tensors
from templar_pl.config import CompressionConfig

CPU = torch.device("cpu")
SHAPES = {"wide": (640, 1024), "ragged": (330, 200), "bias": (700,)}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_is_worked_on_once(threads: int) -> None:
    done: list[int] = []

    share_out(range(1000), done.extend, threads=threads)

    assert sorted(done) == list(range(1000))


def test_several_threads_work_at_once() -> None:
    both = threading.Barrier(2)

    def meet(dealt: Iterator[int]) -> None:
        for _ in dealt:
            both.wait(timeout=20)

    share_out([0, 1], meet, threads=2)


class Watched(Sequence[int]):
    """Numbers that say when the last one was taken."""

    def __init__(self, length: int) -> None:
        self._numbers = range(length)
        self.is_drained = threading.Event()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: Any) -> Any:
        if place == len(self) - 1:
            self.is_drained.set()
        return self._numbers[place]


def test_after_an_error_it_is_raised_and_nothing_new_is_begun() -> None:
    items, begun, has_helper = Watched(100), list[int](), threading.Event()

    def run(dealt: Iterator[int]) -> None:
        for item in dealt:
            begun.append(item)
            if threading.current_thread() is threading.main_thread():
                assert has_helper.wait(timeout=20)
                raise ValueError(f"item {item}")
            has_helper.set()
            items.is_drained.wait(timeout=2)

    with pytest.raises(ValueError, match="item"):
        share_out(items, run, threads=2)

    assert sorted(begun) == [0, 1]


def test_what_another_thread_raises_is_raised() -> None:
    both = threading.Barrier(2)

    def run(dealt: Iterator[int]) -> None:
        for item in dealt:
            both.wait(timeout=20)
            if threading.current_thread() is not threading.main_thread():
                raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        share_out([0, 1], run, threads=2)


def test_threads_of_torch_are_as_before_after_work_and_after_an_error() -> None:
    def fail(dealt: Iterator[int]) -> None:
        raise ValueError(f"{next(dealt)} in {torch.get_num_threads()} thread")

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="in 1 thread"), alone(CPU) as threads:
            share_tensors(range(4), fail, device=CPU, threads=threads)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_torch_is_as_it_was_for_who_takes_sections_and_after_an_error_of_theirs() -> None:
    codec = MomentumCodec(SHAPES, CompressionConfig(), CPU, backend="torch")
    gradients, seen = {name: torch.ones(shape) for name, shape in SHAPES.items()}, list[tuple[int, bool]]()

    def take(section: memoryview) -> None:
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))
        raise ValueError("taken")

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="taken"):
            codec.send_(gradients, dict.fromkeys(SHAPES, 0.1), ready=take)
        assert [*seen, (torch.get_num_threads(), torch.is_grad_enabled())] == [(2, True)] * 2
    finally:
        torch.set_num_threads(1)


def test_two_threads_send_keep_and_apply_the_same_bits_as_one() -> None:
    codecs = [MomentumCodec(SHAPES, CompressionConfig(), CPU, backend="torch") for _ in range(2)]
    sent, updates = [], []
    for threads, codec in zip((1, 2), codecs, strict=True):
        generator = torch.Generator().manual_seed(0)
        torch.set_num_threads(threads)
        try:
            for _ in range(2):
                gradients = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
                body = encode_body(codec.send_(gradients, dict.fromkeys(SHAPES, 0.1)), codec.grids)
                sent.append((threads, body.data))
            updates.append(codec.update([read_body(data, codec.grids) for _, data in sent[-2:]]))
        finally:
            torch.set_num_threads(1)

    assert [data for threads, data in sent if threads == 1] == [data for threads, data in sent if threads == 2]
    assert all(torch.equal(codecs[0].momentum[name], codecs[1].momentum[name]) for name in SHAPES)
    assert all(torch.equal(updates[0][name], updates[1][name]) for name in SHAPES)


@pytest.mark.parametrize("filled", ["small", "large", "last"])
def test_each_parameter_has_a_part_of_the_slab_for_itself(filled: str) -> None:
    shapes = {"small": (64, 64), "large": (192, 128), "last": (64, 128)}
    codec = MomentumCodec(shapes, CompressionConfig(), CPU, backend="torch")
    gradients = {name: torch.randn(shape) if name == filled else None for name, shape in shapes.items()}

    codec.accumulate_(gradients, {filled: 0.1})

    assert {name: bool((momentum != 0).all()) for name, momentum in codec.momentum.items()} == {
        name: name == filled for name in shapes
    }
    assert not any(momentum.any() for name, momentum in codec.momentum.items() if name != filled)


@pytest.mark.parametrize(("threads", "number", "share"), [(1, 5, 49), (2, 6, 41), (3, 6, 41), (40, 12, 20)])
def test_batches_have_all_blocks_and_equal_shares(threads: int, number: int, share: int) -> None:
    shapes = {"tall": (1280, 512), "flat": (128, 320), "low": (64, 576), "square": (512, 512)}
    grids = {name: chunk_grid(shape, chunk_size=64, topk=32) for name, shape in shapes.items()}

    batches = batches_of(as_grids(grids), tuple(grids), block=20, batch=60, threads=threads)

    blocks = [block for batch in batches for block in batch]
    assert [block.chunks.start for block in blocks[1:]] == [block.chunks.stop for block in blocks[:-1]]
    assert [grids[name].num_chunks for name in grids] == torch.bincount(owners_of(blocks)).tolist()
    assert len(batches) == number
    longest_row = 9
    ends = [batch[-1].chunks.stop for batch in batches]
    assert all(abs(end - place * share) < longest_row for place, end in enumerate(ends[:-1], start=1))
    assert all(block.num_chunks < 20 + longest_row for block in blocks)


def test_blocks_of_a_batch_are_as_equal_as_batches() -> None:
    grids = {"tall": chunk_grid((64 * 200, 64), chunk_size=64, topk=32)}

    batches = batches_of(as_grids(grids), ("tall",), block=30, batch=80, threads=1)

    assert [[block.num_chunks for block in batch] for batch in batches] == [[23, 22, 22], [23, 22, 22], [23, 22, 21]]


def test_what_rows_of_chunks_leave_of_a_share_is_no_block_of_its_own() -> None:
    grids = {"tall": chunk_grid((64 * 61, 64 * 5), chunk_size=64, topk=32)}

    batches = batches_of(as_grids(grids), ("tall",), block=24, batch=80, threads=1)

    assert [sum(block.num_chunks for block in batch) for batch in batches] == [75, 75, 80, 75]
    assert all(block.num_chunks >= 15 for batch in batches for block in batch)


def test_parameters_of_one_form_share_slabs_of_bounded_size() -> None:
    half = (64, SLAB_NUMEL // 128)
    shapes = {"a": half, "b": half, "c": half, "large": (128, SLAB_NUMEL // 64), "bias": (64,)}
    grids = {name: chunk_grid(shape, chunk_size=64, topk=32) for name, shape in shapes.items()}

    slabs = new_slabs(grids, torch.device("meta"))

    assert [slab.names for slab in slabs] == [("a", "b"), ("c",), ("large",), ("bias",)]
    assert {name: len(part) for name, part in momentum_of(slabs).items()} == {n: g.num_chunks for n, g in grids.items()}
