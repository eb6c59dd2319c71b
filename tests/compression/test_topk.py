from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from templar_pl.compression.topk import keep_largest, true_places, used_slots
from tests.compression import reference


@st.composite
def chunked_coefficients(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Coefficients with many ties and zeros, and a topk."""
    num_chunks, chunk_numel = draw(st.integers(0, 4)), draw(st.integers(1, 20))
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 1e-45]) | st.floats(-9, 9, width=32)
    rows = [draw(st.lists(values, min_size=chunk_numel, max_size=chunk_numel)) for _ in range(num_chunks)]
    coefficients = torch.tensor(rows, dtype=torch.float32).view(num_chunks, chunk_numel)
    return coefficients, draw(st.integers(1, chunk_numel))


@given(chunked_coefficients())
def test_nothing_dropped_is_larger_than_anything_kept(drawn: tuple[Tensor, int]) -> None:
    coefficients, topk = drawn

    kept = keep_largest(coefficients, topk)

    for row, indices, count in zip(coefficients.abs(), kept.indices.long(), kept.counts.tolist(), strict=True):
        dropped = row.scatter(0, indices[:count], 0.0)
        assert count == 0 or dropped.max() <= row[indices[:count]].min()
        assert count > 0 or not row.any()


@given(chunked_coefficients(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
def test_the_kept_places_are_those_of_the_reference(drawn: tuple[Tensor, int], dtype: torch.dtype) -> None:
    coefficients, topk = drawn[0].to(dtype), drawn[1]

    kept = keep_largest(coefficients, topk)

    got = [row[:count] for row, count in zip(kept.indices.tolist(), kept.counts.tolist(), strict=True)]
    assert got == [reference.largest_places(row.double().numpy(), topk) for row in coefficients]
    assert torch.equal(kept.values, coefficients.gather(-1, kept.indices.long()))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([72, 96, 256, 1024, 4096]),
    st.sampled_from([1, 2, 5, 32]),
    st.sampled_from([1, 4, 1000]),
    st.floats(0, 1),
)
@settings(max_examples=60)
def test_the_search_by_groups_keeps_the_places_of_the_reference(
    seed: int, chunk_numel: int, topk: int, steps: int, density: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few steps make many equal magnitudes, and a low density few that are not zero.
    coefficients = (torch.randn(3, chunk_numel, generator=generator) * steps).round()
    coefficients *= torch.rand(3, chunk_numel, generator=generator) < density**4

    kept = keep_largest(coefficients, topk)

    got = [row[:count] for row, count in zip(kept.indices.tolist(), kept.counts.tolist(), strict=True)]
    assert got == [reference.largest_places(row.double().numpy(), topk) for row in coefficients]


@given(st.integers(1, 7), st.booleans())
def test_portions_are_searched_as_soon_as_they_are_there(height: int, has_room: bool) -> None:
    final = torch.randn(20, 256, generator=torch.Generator().manual_seed(height))
    final[7, 40:] = 0.0  # fewer than are kept
    final[11] = 1.0  # more compete than fit in
    coefficients = torch.zeros_like(final)

    def written() -> Iterator[slice]:
        for first in range(0, len(final), height):
            portion = slice(first, first + height)
            coefficients[portion] = final[portion]
            yield portion

    kept = keep_largest(coefficients, 50, portions=written(), room=torch.empty(2 * height * 256) if has_room else None)

    at_once = keep_largest(final, 50)
    assert torch.equal(kept.indices, at_once.indices)
    assert torch.equal(kept.counts, at_once.counts)
    assert torch.equal(kept.values, final.gather(-1, at_once.indices.long()))


@pytest.mark.parametrize("crowds", [0, 3, 20])
def test_chunks_in_which_many_are_as_large_do_not_disturb_the_others(crowds: int) -> None:
    coefficients = torch.randn(20, 4096, generator=torch.Generator().manual_seed(crowds))
    coefficients[20 - crowds :] = coefficients[20 - crowds :].sign()
    kept = keep_largest(coefficients, 32)

    assert kept.indices.tolist() == [reference.largest_places(row.double().numpy(), 32) for row in coefficients]
    assert torch.equal(kept.values, coefficients.gather(-1, kept.indices.long()))


@given(st.lists(st.integers(0, 199), max_size=30), st.integers(0, 200))
def test_true_places_are_where_a_mask_is_true(places: list[int], length: int) -> None:
    mask = torch.zeros(length, dtype=torch.bool)
    expected = sorted({place for place in places if place < length})
    mask[expected] = True

    assert true_places(mask).tolist() == expected
    assert true_places(torch.ones(length, dtype=torch.bool)).tolist() == list(range(length))
    assert true_places(mask.repeat_interleave(2)[::2]).tolist() == expected


def test_the_layout_of_the_coefficients_does_not_matter() -> None:
    coefficients = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0)).T

    assert torch.equal(keep_largest(coefficients, 32).indices, keep_largest(coefficients.contiguous(), 32).indices)


@given(chunked_coefficients())
def test_fillers_repeat_the_last_kept_index_or_are_zero(drawn: tuple[Tensor, int]) -> None:
    coefficients, topk = drawn

    kept = keep_largest(coefficients, topk)

    assert kept.indices.shape == (len(coefficients), topk)
    assert kept.indices.dtype == kept.counts.dtype == torch.int16
    for row, count in zip(kept.indices.tolist(), kept.counts.tolist(), strict=True):
        assert row[count:] == [row[count - 1] if count else 0] * (topk - count)


def test_of_equal_magnitudes_the_lower_index_is_kept() -> None:
    coefficients = torch.tensor([[1.0, -3.0, 1.0, -1.0, 3.0, 1.0]])

    assert keep_largest(coefficients, 4).indices.tolist() == [[0, 1, 2, 4]]


def test_a_full_size_chunk_of_equal_magnitudes_keeps_its_first_places() -> None:
    assert keep_largest(-torch.ones(3, 4096), 32).indices.tolist() == [list(range(32))] * 3


@pytest.mark.parametrize("topk", [0, 5, -1])
def test_a_topk_out_of_range_is_refused(topk: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.4, got {topk}"):
        keep_largest(torch.zeros(2, 4), topk)


def test_used_slots_are_the_first_ones() -> None:
    assert used_slots(torch.tensor([0, 2], dtype=torch.int16), 3).tolist() == [[False] * 3, [True, True, False]]


def test_a_chunk_with_too_few_does_not_make_room_for_one_with_too_many_that_compete() -> None:
    coefficients = torch.tensor([[0.0, 3.0, 0.0, 0.0], [5.0, 5.0, 5.0, 0.0]])

    kept = keep_largest(coefficients, 2)

    assert kept.indices.tolist() == [[1, 1], [0, 1]]
    assert kept.counts.tolist() == [1, 2]
