"""Blocks of -1, 0 and +1."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from templar_pl.compression.ternary import (
    DENSE,
    EDGES,
    MAX_BLOCK_NUMEL,
    OTHERS,
    ZEROS,
    TernaryError,
    most_bytes,
    pack_block,
    rice_width,
    unpack_block,
)
from tests.compression.ternary import DENSITIES, blocks, in_runs, scattered, slow_block, slow_dense, slow_listing

LOG2_3_BYTES = math.log2(3) / 8


class Bytes:
    """Hands over bytes, and says when there are too few."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise EOFError
        self.at += size
        return self.data[self.at - size : self.at]


def unpack(data: bytes, numel: int) -> NDArray[np.int8]:
    """Return a block that takes up all of the bytes."""
    source, out = Bytes(data), np.full(numel, 9, dtype=np.int8)
    unpack_block(source.take, out)
    assert source.at == len(data)
    return out


@given(blocks())
def test_a_block_has_the_bytes_of_the_slow_reference(values: NDArray[np.int8]) -> None:
    assert pack_block(values) == slow_block(values.tolist())


@given(blocks(5000))
def test_unpacking_undoes_packing(values: NDArray[np.int8]) -> None:
    assert unpack(pack_block(values), len(values)).tolist() == values.tolist()


@given(blocks(5000))
def test_no_block_is_longer_than_is_said(values: NDArray[np.int8]) -> None:
    assert len(pack_block(values)) <= most_bytes(len(values))


@pytest.mark.parametrize("zeros", DENSITIES)
@pytest.mark.parametrize("run", [1, 64])
def test_the_largest_block_comes_back(zeros: float, run: int) -> None:
    values = scattered(MAX_BLOCK_NUMEL, zeros, 1) if run == 1 else in_runs(MAX_BLOCK_NUMEL, zeros, 1, run)

    data = pack_block(values)

    assert np.array_equal(unpack(data, MAX_BLOCK_NUMEL), values)
    assert len(data) <= most_bytes(MAX_BLOCK_NUMEL)


@pytest.mark.parametrize("zeros", DENSITIES)
def test_a_block_takes_hardly_more_bytes_than_any_code_must(zeros: float) -> None:
    entropy = sum(-share * math.log2(share) for share in (zeros, (1 - zeros) / 2, (1 - zeros) / 2) if share)

    bytes_each = len(pack_block(scattered(MAX_BLOCK_NUMEL, zeros, 2))) / MAX_BLOCK_NUMEL

    assert bytes_each < min((entropy + 0.03) / 8, 1.001 * LOG2_3_BYTES)


def test_zeros_of_whole_chunks_take_less_than_a_sixth_of_a_bit_each() -> None:
    values = in_runs(MAX_BLOCK_NUMEL, 0.5, 3, 64)
    zeros = int((values == 0).sum())

    assert 8 * len(pack_block(values)) < (MAX_BLOCK_NUMEL - zeros) + zeros / 6


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (scattered(1000, 0.0, 1), ZEROS),
        (scattered(1000, 0.1, 1), ZEROS),
        (scattered(1000, 0.9, 1), OTHERS),
        (scattered(1000, 1.0, 1), OTHERS),
        (in_runs(5000, 0.5, 1, 64), EDGES),
        (scattered(5000, 1 / 3, 1), DENSE),
    ],
)
def test_each_form_is_the_shortest_for_something(values: NDArray[np.int8], form: int) -> None:
    assert pack_block(values)[0] == form


@given(st.integers(1, MAX_BLOCK_NUMEL), st.data())
def test_rests_are_as_wide_as_is_best_for_gaps_by_chance(numel: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, numel))
    go_on = 1 - count / numel

    def bits(width: int) -> float:  # of a place, by the sum of a geometric series
        return width + 1 + (go_on**2**width) / (1 - go_on**2**width) if go_on else width + 1

    chosen = bits(rice_width(numel, count))

    assert chosen <= min(bits(width) for width in range(19)) + 0.02


@given(st.binary(max_size=80), st.integers(1, 60))
def test_any_bytes_are_a_block_in_its_only_form_or_refused(data: bytes, numel: int) -> None:
    source, out = Bytes(data), np.empty(numel, dtype=np.int8)
    try:
        unpack_block(source.take, out)
    except (TernaryError, EOFError):
        return
    assert set(out.tolist()) <= {-1, 0, 1}
    assert pack_block(out) == data[: source.at]


@given(blocks(200), st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_another_block_in_its_only_form_or_refused(
    values: NDArray[np.int8], changes: list[tuple[int, int]]
) -> None:
    data = bytearray(pack_block(values))
    for at, change in changes:
        data[at % len(data)] ^= change
    source, out = Bytes(bytes(data)), np.empty(len(values), dtype=np.int8)
    try:
        unpack_block(source.take, out)
    except (TernaryError, EOFError):
        return
    assert pack_block(out) == data[: source.at]


@given(st.integers(0, 3), st.integers(0, 70), st.integers(0, 140), st.binary(min_size=80, max_size=80))
def test_any_bytes_behind_a_likely_head_are_a_block_or_refused(
    form: int, count: int, quotient_bits: int, rest: bytes
) -> None:
    data = struct.pack("<BII", form, count, quotient_bits) + rest
    source, out = Bytes(data), np.empty(64, dtype=np.int8)
    try:
        unpack_block(source.take, out)
    except (TernaryError, EOFError):
        return
    assert pack_block(out) == data[: source.at]


@given(blocks())
def test_every_form_but_the_shortest_is_refused(values: NDArray[np.int8]) -> None:
    listed = values.tolist()
    zeros = [place for place, value in enumerate(listed) if value == 0]
    signs = slow_block([value for value in listed if value])[9:] if any(listed) else b""
    others = [place for place, value in enumerate(listed) if value]
    good = pack_block(values)

    for data in (slow_listing(ZEROS, zeros, len(listed)) + signs, slow_listing(OTHERS, others, len(listed)) + signs,
                 slow_dense(listed)):  # fmt: skip
        if data != good:
            with pytest.raises(TernaryError):
                unpack(data, len(listed))


HOSTILE = {
    "a form that is not known": (4, 0, 0),
    "more places than elements": (ZEROS, 101, 101),
    "fewer bits than places": (ZEROS, 5, 4),
    "more bits than elements and places": (ZEROS, 5, 106),
    "bits without places": (ZEROS, 0, 1),
    "a dense block with places": (DENSE, 1, 0),
    "a dense block with bits": (DENSE, 0, 1),
    "four billion of each": (EDGES, 2**32 - 1, 2**32 - 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_head_that_no_block_has_is_refused_before_more_is_read(name: str) -> None:
    source = Bytes(struct.pack("<BII", *HOSTILE[name]) + bytes(1000))

    with pytest.raises(TernaryError):
        unpack_block(source.take, np.empty(100, dtype=np.int8))

    assert source.at <= 9 + 1


@pytest.mark.parametrize("numel", [1, 7, 9, 100])
def test_padding_behind_the_signs_must_be_zero(numel: int) -> None:
    data = bytearray(pack_block(np.ones(numel, dtype=np.int8)))
    data[-1] |= 0x80

    with pytest.raises(TernaryError, match="the padding behind the signs must be zero"):
        unpack(bytes(data), numel)


def test_a_place_behind_the_end_is_refused() -> None:
    with pytest.raises(TernaryError, match="place 127 is listed in a block of 100 elements"):
        unpack(slow_listing(ZEROS, [127], 100) + bytes(13), 100)


def test_rests_are_as_wide_as_the_definition_says() -> None:
    for numel in (1, 2, 1000, 1001, 65_537, MAX_BLOCK_NUMEL):
        for count in {1, numel, *np.geomspace(1, numel, 400).astype(int).tolist()}:
            width = 0
            while 2000 * count * 2**width <= 962 * (numel - count) + 481 * count:
                width += 1
            assert rice_width(numel, count) == width
    assert rice_width(1000, 0) == 0


def _dense_block() -> bytearray:
    """Return 5000 elements: 122 words, the last one of 39 elements, and their carries."""
    data = bytearray(pack_block(scattered(5000, 0.35, 5)))
    assert data[0] == DENSE
    return data


def test_the_digits_behind_the_last_element_must_be_zero() -> None:
    data = _dense_block()
    last = 9 + 8 * 121
    number = int.from_bytes(data[last : last + 8], "little")
    data[last : last + 8] = (number + 3**39).to_bytes(8, "little")

    with pytest.raises(TernaryError, match="not the only form"):
        unpack(bytes(data), 5000)


def test_a_word_beyond_the_last_number_of_its_digits_is_refused() -> None:
    data = _dense_block()
    data[9:17], data[9 + 8 * 122] = b"\xff" * 8, data[9 + 8 * 122] | 1

    with pytest.raises(TernaryError, match="not the only form"):
        unpack(bytes(data), 5000)


def test_the_padding_behind_the_carries_must_be_zero() -> None:
    data = _dense_block()
    data[-1] |= 0x80

    with pytest.raises(TernaryError, match="not the only form"):
        unpack(bytes(data), 5000)
