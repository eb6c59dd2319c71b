"""Sets of places as numbers."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from templar_pl.compression.enumerative import (
    MAX_BOUND,
    SetCode,
    decode_sets,
    encode_sets,
    number_of,
    places_of,
)

MIB = 2**20


def slow_number(places: list[int], num_places: int) -> int:
    """How many sets come before one: of each place, those that agree above it and have no place from it on."""
    return sum(
        math.comb(place, size)
        for used, place in enumerate(sorted(places, reverse=True))
        for size in range(num_places - used + 1)
    )


def as_bytes(numbers: list[int], code: SetCode) -> NDArray[np.uint8]:
    joined = b"".join(number.to_bytes(8 * code.words, "little") for number in numbers)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(numbers), 8 * code.words)


def as_rows(sets: list[list[int]], code: SetCode) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return indices with fillers that mean nothing, and counts."""
    rows = [places + [code.bound - 1] * (code.num_places - len(places)) for places in sets]
    counts = np.array([len(places) for places in sets], dtype=np.int16)
    return np.array(rows, dtype=np.int16).reshape(len(sets), code.num_places), counts


@st.composite
def codes(draw: st.DrawFn) -> SetCode:
    bound = draw(st.one_of(st.integers(1, 130), st.integers(1, MAX_BOUND)))
    return SetCode(draw(st.integers(1, min(bound, 130 if bound <= 130 else 40))), bound)


@st.composite
def sets_of(draw: st.DrawFn, code: SetCode) -> list[list[int]]:
    """A few sets: any size, and of the largest or least places."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.sampled_from([0, 1, code.num_places // 2, code.num_places]), max_size=4))
    sets = [sorted(rng.choice(code.bound, size=size, replace=False).tolist()) for size in sizes]
    return [*sets, list(range(code.num_places)), list(range(code.bound - code.num_places, code.bound))]


@given(codes(), st.data())
def test_a_set_has_the_number_of_the_slow_reference(code: SetCode, data: st.DataObject) -> None:
    sets = data.draw(sets_of(code))

    numbers = encode_sets(*as_rows(sets, code), code)

    assert np.array_equal(numbers, as_bytes([slow_number(places, code.num_places) for places in sets], code))


@given(codes(), st.data())
def test_decoding_undoes_encoding(code: SetCode, data: st.DataObject) -> None:
    sets = data.draw(sets_of(code))

    indices, counts, is_set = decode_sets(encode_sets(*as_rows(sets, code), code), code)

    assert is_set.all()
    assert counts.tolist() == [len(places) for places in sets]
    for row, places in zip(indices.tolist(), sets, strict=True):
        filler = places[-1] if places else 0
        assert row == places + [filler] * (code.num_places - len(places))


@given(codes(), st.data())
def test_each_number_below_their_number_is_a_set_and_no_other_is(code: SetCode, data: st.DataObject) -> None:
    most = code.num_sets
    inside = st.one_of(st.sampled_from([0, 1, most - 1]), st.integers(0, most - 1))
    numbers = [min(number, most - 1) for number in data.draw(st.lists(inside, min_size=1, max_size=4))]
    outside = [number for number in (most, 2**code.bits - 1, 2 ** (64 * code.words) - 1) if most <= number]
    outside = [number for number in outside if number < 2 ** (64 * code.words)]

    indices, counts, is_set = decode_sets(as_bytes(numbers + outside, code), code)

    assert is_set.tolist() == [True] * len(numbers) + [False] * len(outside)
    assert indices.min() >= 0
    assert indices.max() < code.bound
    again = encode_sets(indices[: len(numbers)], counts[: len(numbers)], code)
    assert np.array_equal(again, as_bytes(numbers, code))


@pytest.mark.parametrize(("num_places", "bound"), [(1, 1), (1, 5), (2, 5), (3, 8), (8, 8), (4, 9), (2, 65), (1, 200)])
def test_numbers_count_all_sets_in_order(num_places: int, bound: int) -> None:
    code = SetCode(num_places, bound)
    sets = [list(s) for size in range(num_places + 1) for s in itertools.combinations(range(bound), size)]
    sets.sort(key=lambda places: places[::-1])  # by the largest place, then the rest; what ends first comes first

    numbers = encode_sets(*as_rows(sets, code), code)

    assert code.num_sets == len(sets)
    assert np.array_equal(numbers, as_bytes(list(range(len(sets))), code))
    assert [number_of(places, code) for places in sets] == list(range(len(sets)))
    assert [places_of(number, code) for number in range(len(sets))] == sets


@pytest.mark.parametrize(("num_places", "bound"), [(32, 4096), (93, 4096), (255, 256)])
def test_neighbours_of_every_border_are_told_apart(num_places: int, bound: int) -> None:
    code = SetCode(num_places, bound)
    borders = [slow_number([place], num_places) for place in range(0, bound, max(1, bound // 200))]
    numbers = sorted({number + step for number in borders for step in (-1, 0, 1)} - {-1})

    indices, counts, is_set = decode_sets(as_bytes(numbers, code), code)

    assert code.has_table
    assert is_set.all()
    assert np.array_equal(encode_sets(indices, counts, code), as_bytes(numbers, code))


@pytest.mark.parametrize("num_places", [94, 200, 4096])
def test_sets_without_a_table_have_numbers_too(num_places: int) -> None:
    code = SetCode(num_places, MAX_BOUND)
    places = sorted(np.random.default_rng(0).choice(MAX_BOUND, size=num_places - 1, replace=False).tolist())

    numbers = encode_sets(*as_rows([places], code), code)
    indices, counts, is_set = decode_sets(numbers, code)

    # As many places as there are: a bit map, which is quicker to count.
    wanted = slow_number(places, num_places) if num_places < MAX_BOUND else sum(2**place for place in places)
    assert not code.has_table
    assert np.array_equal(numbers, as_bytes([wanted], code))
    assert (counts.tolist(), is_set.tolist()) == ([num_places - 1], [True])
    assert indices[0].tolist() == [*places, places[-1]]


@given(st.integers(1, 30), st.data())
def test_the_way_without_a_table_gives_the_same_numbers(num_places: int, data: st.DataObject) -> None:
    code = SetCode(num_places, data.draw(st.integers(num_places, MAX_BOUND)))

    for places in data.draw(sets_of(code)):
        number = number_of(places, code)
        assert number == slow_number(places, num_places)
        assert places_of(number, code) == places


def test_a_set_of_32_of_4096_places_takes_267_bits() -> None:
    assert SetCode(32, 4096).bits == 267


def test_all_sets_are_bit_maps() -> None:
    code = SetCode(64, 64)

    assert encode_sets(*as_rows([[0, 3, 63]], code), code).tobytes() == (2**63 + 2**3 + 1).to_bytes(8, "little")


def test_many_sets_are_coded_in_bounded_memory() -> None:
    code = SetCode(32, 4096)
    rng = np.random.default_rng(0)
    indices = np.arange(32, dtype=np.int16) * 128 + rng.integers(0, 128, (30_000, 32), dtype=np.int16)
    counts = np.full(len(indices), 32, dtype=np.int16)
    encode_sets(indices[:1], counts[:1], code)  # the table
    tracemalloc.start()

    numbers = encode_sets(indices, counts, code)
    decoded, _, _ = decode_sets(numbers, code)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(decoded, indices)
    assert peak < 64 * MIB


@pytest.mark.parametrize(("num_places", "bound"), [(0, 4), (5, 4), (1, 0), (1, MAX_BOUND + 1)])
def test_numbers_without_a_code_are_refused(num_places: int, bound: int) -> None:
    with pytest.raises(ValueError, match=r"must be in 1\.\."):
        SetCode(num_places, bound)
