"""Coded indices."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from templar_pl.compression.elias_fano import MAX_BOUND, IndexCode, IndexCodeError, decode_indices, encode_indices
from tests.protocol.samples import slow_indices

MIB = 2**20


@st.composite
def codes(draw: st.DrawFn) -> IndexCode:
    bound = draw(st.one_of(st.integers(1, 40), st.integers(1, MAX_BOUND)))
    return IndexCode(draw(st.integers(1, min(bound, 200))), bound)


@st.composite
def rows_of_indices(draw: st.DrawFn) -> tuple[NDArray[np.int16], IndexCode]:
    code = draw(codes())
    row = st.lists(st.integers(0, code.bound - 1), min_size=code.num_indices, max_size=code.num_indices).map(sorted)
    rows = draw(st.lists(row, max_size=3))
    return np.array(rows, dtype=np.int16).reshape(-1, code.num_indices), code


@given(rows_of_indices())
def test_a_row_has_the_bytes_of_the_slow_reference(drawn: tuple[NDArray[np.int16], IndexCode]) -> None:
    indices, code = drawn

    rows = encode_indices(indices, code)

    assert [row.tobytes() for row in rows] == [slow_indices(row, code.bound) for row in indices.tolist()]


@given(rows_of_indices())
def test_decoding_undoes_encoding(drawn: tuple[NDArray[np.int16], IndexCode]) -> None:
    indices, code = drawn

    decoded = decode_indices(encode_indices(indices, code), code)

    assert decoded.dtype == np.int16
    assert np.array_equal(decoded, indices)


@pytest.mark.parametrize(("num_indices", "bound"), [(1, 1), (1, 3), (2, 2), (2, 3), (2, 5), (3, 10), (2, 16), (4, 4)])
def test_one_row_has_one_encoding_and_all_other_bytes_are_refused(num_indices: int, bound: int) -> None:
    code = IndexCode(num_indices, bound)
    meanings = set()

    # One bit of padding more than is in use; each part fits a byte.
    used = [code.upper_bits] + [code.num_indices * code.low_bits] * (code.low_bits > 0)
    for parts in itertools.product(*(range(min(256, 2 ** (bits + 1))) for bits in used)):
        row = np.array([parts], dtype=np.uint8)
        try:
            indices = decode_indices(row, code)
        except IndexCodeError:
            continue
        assert np.array_equal(encode_indices(indices, code), row)
        meanings.add(tuple(indices[0].tolist()))

    # Multisets of num_indices out of bound.
    assert len(meanings) == len(_multisets(num_indices, bound))


@given(codes(), st.data())
def test_any_bytes_are_indices_or_refused(code: IndexCode, data: st.DataObject) -> None:
    row = np.frombuffer(data.draw(st.binary(min_size=code.row_bytes, max_size=code.row_bytes)), dtype=np.uint8)[None]

    try:
        indices = decode_indices(row, code)
    except IndexCodeError:
        return
    assert (np.diff(indices) >= 0).all()
    assert indices.min() >= 0
    assert indices.max() < code.bound


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([0b1000_0011, 0], "chunk 2: padding behind the upper part is not zero"),
        ([0b0000_0011, 0b0000_0100], "chunk 2: padding behind the low bits is not zero"),
        ([0b0000_0001, 0], "chunk 2: the upper part must have 2 set bits"),
        ([0b0000_0111, 0], "chunk 2: the upper part must have 2 set bits"),
        ([0b0000_1001, 0b0000_0010], r"chunk 2: the last index is not in 0\.\.4"),
        ([0b0000_0011, 0b0000_0001], "chunk 2: indices descend"),
    ],
)  # T = 2, K = 5: one low bit each and four upper bits, of which the last stands for 4 (and 5)
def test_a_refusal_names_chunk_and_reason(row: list[int], reason: str) -> None:
    good = [0b0000_0011, 0]

    with pytest.raises(IndexCodeError, match=reason):
        decode_indices(np.array([good, good, row], dtype=np.uint8), IndexCode(2, 5))


def test_a_chunk_of_the_default_settings_takes_36_bytes() -> None:
    assert IndexCode(32, 4096).row_bytes == 36


def test_many_rows_are_coded_in_bounded_memory() -> None:
    code = IndexCode(32, 4096)
    indices = np.sort(np.random.default_rng(0).integers(0, 4096, (60_000, 32), dtype=np.int16), axis=1)
    tracemalloc.start()

    rows = encode_indices(indices, code)
    decoded = decode_indices(rows, code)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - rows.nbytes - decoded.nbytes < 32 * MIB
    assert np.array_equal(decoded, indices)


@pytest.mark.parametrize(("num_indices", "bound"), [(0, 4), (5, 4), (1, 0), (1, MAX_BOUND + 1)])
def test_numbers_without_a_code_are_refused(num_indices: int, bound: int) -> None:
    with pytest.raises(ValueError, match=r"must be in 1\.\."):
        IndexCode(num_indices, bound)


def _multisets(size: int, bound: int, start: int = 0) -> list[tuple[int, ...]]:
    if size == 0:
        return [()]
    return [(first, *rest) for first in range(start, bound) for rest in _multisets(size - 1, bound, first)]


@pytest.mark.parametrize("order", [[0b0111, 0b0001], [0b0001, 0b0111]])
def test_a_set_bit_too_many_does_not_make_up_for_one_too_few_in_another_row(order: list[int]) -> None:
    code = IndexCode(2, 7)  # 5 upper bits, 1 low bit an index
    rows = np.array([[upper, 0] for upper in order], dtype=np.uint8)

    with pytest.raises(IndexCodeError, match=r"chunk 0: .* set bits"):
        decode_indices(rows, code)
