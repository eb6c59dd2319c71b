"""What is counted of a model: groups, bytes, the bound."""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression import ChunkGrid, chunk_grid
from templar_pl.compression.grid import ValueBits
from templar_pl.protocol import payload_bytes
from templar_pl.roles.compression_figures import SCALE_BITS, Figures, bound_bits, group_by_kind
from templar_pl.roles.compression_timing import MAX_ELEMENTS, sample_of

shapes = st.lists(st.integers(1, 3000), max_size=3).map(tuple)
names = st.from_regex(r"(layers\.[0-9]{1,2}|layer1|norm)\.(up|down)\.weight", fullmatch=True)


@st.composite
def models(draw: st.DrawFn) -> dict[str, ChunkGrid]:
    chunk_size, topk = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    value_bits = draw(st.sampled_from(get_args(ValueBits)))
    return {
        name: chunk_grid(shape, chunk_size=chunk_size, topk=topk, value_bits=value_bits)
        for name, shape in draw(st.dictionaries(names, shapes, min_size=1)).items()
    }


@given(models())
def test_every_parameter_is_in_one_group_of_its_shape(grids: dict[str, ChunkGrid]) -> None:
    groups = group_by_kind(grids)

    assert sorted(name for group in groups for name in group.grids) == sorted(grids)
    for group in groups:
        assert {grid.shape for grid in group.grids.values()} == {group.shape}
    assert len({(group.pattern, group.shape) for group in groups}) == len(groups)


@given(models())
def test_the_groups_add_up_to_the_payload_of_the_model(grids: dict[str, ChunkGrid]) -> None:
    groups = group_by_kind(grids)

    assert payload_bytes({}) + sum(group.sent_bytes for group in groups) == payload_bytes(grids)
    assert sum(group.chunks for group in groups) == Figures(grids).chunks
    assert sum(group.parameters for group in groups) == sum(math.prod(grid.shape) for grid in grids.values())
    assert sum(group.bound_bytes for group in groups) == pytest.approx(Figures(grids).bound_bytes)


@given(models())
def test_no_payload_is_smaller_than_the_bound(grids: dict[str, ChunkGrid]) -> None:
    assert Figures(grids).bound_bytes <= Figures(grids).sent_bytes


def test_only_whole_numbers_between_dots_are_folded() -> None:
    grid = chunk_grid((4, 4), chunk_size=4, topk=1)
    names = ["0.w", "11.w", "h.3.4", "h.5.6", "conv1.w", "conv2.w"]
    grids = {name: grid for name in names}  # noqa: C420 - fromkeys makes the names a type of their own

    patterns = {group.pattern: len(group.grids) for group in group_by_kind(grids)}

    assert patterns == {"*.w": 2, "h.*.*": 2, "conv1.w": 1, "conv2.w": 1}


def test_equal_names_of_other_shapes_are_other_groups() -> None:
    grids = {f"{n}.w": chunk_grid((n, 8), chunk_size=4, topk=1) for n in (4, 8)}

    assert [(group.pattern, group.shape) for group in group_by_kind(grids)] == [("*.w", (4, 8)), ("*.w", (8, 8))]


@pytest.mark.parametrize("value_bits", [1, 2, 3])
@pytest.mark.parametrize(("side", "topk"), [(1, 1), (2, 1), (2, 3), (2, 4), (3, 2)])
def test_the_bound_counts_what_a_chunk_can_say(side: int, topk: int, value_bits: Literal[1, 2, 3]) -> None:
    places = list(itertools.combinations(range(side**2), topk))
    signs = list(itertools.product((False, True), repeat=topk))
    levels = [ls for ls in itertools.product(range(2 ** (value_bits - 1)), repeat=topk) if 0 in ls]

    bits = bound_bits(chunk_grid((side, side), chunk_size=side, topk=topk, value_bits=value_bits))

    assert bits - SCALE_BITS == pytest.approx(math.log2(len(places) * len(signs) * len(levels)))


def test_a_default_chunk_takes_41_bytes_of_which_38_are_bound() -> None:
    figures = Figures({"w": chunk_grid((64, 64), chunk_size=64, topk=32)})

    assert figures.sent_bytes == 2 + 41
    assert round(figures.bound_bytes, 1) == 38.3
    assert figures.published_bytes() == {"int64 + fp32": 384, "int16 + fp32": 192}
    assert figures.momentum_bytes == 4 * 4096


def test_padding_takes_memory_but_is_no_parameter() -> None:
    figures = Figures({"w": chunk_grid((65, 3), chunk_size=64, topk=2)})

    assert figures.parameters == 195
    assert figures.chunks == 2
    assert figures.momentum_bytes == 4 * 2 * 64 * 3


sides = st.sampled_from([1, 2, 63, 64, 65, 1000, 2048, 32_000, 200_000, 10_000_000])


@given(st.lists(sides, max_size=3), st.integers(1, 64))
def test_what_is_measured_has_the_chunks_of_the_parameter_and_fits_into_memory(sides: list[int], edge: int) -> None:
    grid = chunk_grid(tuple(sides), chunk_size=edge, topk=1)

    sample = sample_of(grid)

    assert (sample.height, sample.width, sample.is_vector) == (grid.height, grid.width, grid.is_vector)
    assert sample == chunk_grid(sample.shape, chunk_size=edge, topk=1)
    assert 0 < math.prod(sample.shape) <= min(MAX_ELEMENTS, math.prod(sides))
    assert 2 * math.prod(sample.shape) >= min(MAX_ELEMENTS, math.prod(sides))
