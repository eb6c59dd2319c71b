"""Sets of places as single numbers, so that a set takes as many bits as there are sets.

L(n, t) is the number of sets of at most t places below n. The sets of at most T places below K are ordered by their
largest place, then by the rest; of two of which one begins like the other, the shorter comes first. With the places
c_1 > c_2 > ... > c_m, the number of a set is how many sets come before it:

    L(c_1, T) + L(c_2, T - 1) + ... + L(c_m, T - m + 1)

The empty set is 0, and each number below L(K, T) is one set: after c_1 fewer than L(c_1, T - 1) numbers are left.
K = 4096 and T = 32 need 267 bits; sets of exactly 32 places need 266.2.

Shapes: N = sets; T = places a set at most; K = bound of the places; W = words of 64 bits of a number.

Source:
    Cover, "Enumerative Source Encoding", IEEE Trans. Inf. Theory 19 (1973); here for sets of any size up to T.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BOUND = 4096
"""Largest K: a chunk has 64 x 64 places."""

BLOCK = 64
"""Places whose first one is in the coarse table."""

_TABLE_BYTES = 32 * 2**20  # K = 4096 fits up to T = 93; numbers stay below 2**1000, so that float64 holds it
_SCRATCH_BYTES = 16 * 2**20  # of one block of sets
_SLACK = 1 + 2.0**-40
"""More than rounding to float64 takes off; far less than the ratio of neighbours in a table, above 1 + 1 / K."""


@dataclass(frozen=True, slots=True)
class SetCode:
    """How many numbers, bits and words sets take. Raises `ValueError` for numbers out of range."""

    num_places: int
    """T: places a set at most; 1..bound."""

    bound: int
    """K: all places are below; 1..MAX_BOUND."""

    def __post_init__(self) -> None:
        if not 1 <= self.bound <= MAX_BOUND:
            raise ValueError(f"bound must be in 1..{MAX_BOUND}, got {self.bound}")
        if not 1 <= self.num_places <= self.bound:
            raise ValueError(f"num_places must be in 1..{self.bound}, got {self.num_places}")

    @property
    def num_sets(self) -> int:
        """L(K, T): all numbers are below."""
        return count_sets(self.bound, self.num_places)

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return (self.num_sets - 1).bit_length()

    @property
    def words(self) -> int:
        """W: words of a number."""
        return -(-self.bits // 64)

    @property
    def has_table(self) -> bool:
        """Whether sets are coded with a table; without one it takes 1 to 10 ms a set at K = 4096."""
        return self.num_places * (self.bound + 1) * self.words * 8 <= _TABLE_BYTES


@dataclass(frozen=True, slots=True)
class SetTable:
    """L(n, t) for every t of a code and every n below K."""

    exact: NDArray[np.uint64]
    """(T, K + 1, W), little-endian words: entry [j, c + 1] is L(c, T - j); entry [j, 0] is 0, for no place."""

    nearby: NDArray[np.float64]
    """(T, K rounded up to BLOCK): entry [j, c] is L(c, T - j) as float64; infinity from K on."""

    coarse: NDArray[np.float64]
    """(T, MAX_BOUND / BLOCK): every BLOCK-th of `nearby`; infinity behind the last."""


@functools.lru_cache(maxsize=64)
def count_sets(bound: int, most: int) -> int:
    """Return L(bound, most): how many sets of at most `most` places below `bound` there are."""
    total = term = 1  # C(bound, 0)
    for size in range(min(bound, most)):
        term = term * (bound - size) // (size + 1)
        total += term
    return total


@functools.lru_cache(maxsize=8)
def set_table(code: SetCode) -> SetTable:
    """Return the table of a code that has one: some 6 MB and 0.1 s for K = 4096, T = 32."""
    exact = np.zeros((code.num_places, code.bound + 1, code.words), dtype="<u8")
    nearby = np.full((code.num_places, -(-code.bound // BLOCK) * BLOCK), np.inf)
    coarse = np.full((code.num_places, MAX_BOUND // BLOCK), np.inf)
    row = [1] * code.bound  # L(n, 0)
    for j in reversed(range(code.num_places)):
        row = list(itertools.accumulate(row[:-1], initial=1))  # L(n, t) = 1 + L(0, t - 1) + ... + L(n - 1, t - 1)
        joined = b"".join(number.to_bytes(8 * code.words, "little") for number in row)
        exact[j, 1:] = np.frombuffer(joined, dtype="<u8").reshape(code.bound, code.words)
        nearby[j, : code.bound] = [float(number) for number in row]
    blocks = nearby[:, ::BLOCK]
    coarse[:, : blocks.shape[1]] = blocks
    return SetTable(exact, nearby, coarse)


def encode_sets(indices: NDArray[np.int16], counts: NDArray[np.int16], code: SetCode) -> NDArray[np.uint8]:
    """Return the numbers of sets.

    Args:
        indices: (N, T) in 0..K - 1; strictly ascending up to the count, anything behind it; nothing checks it here.
        counts: (N,) places of each set, 0..T.
        code: T and K.

    Returns:
        (N, 8 W) bytes: each number, little-endian.
    """
    numbers = np.empty((len(indices), 8 * code.words), dtype=np.uint8)
    if not code.has_table:
        for n, (row, count) in enumerate(zip(indices.tolist(), counts.tolist(), strict=True)):
            number = number_of(row[:count], code)
            numbers[n] = np.frombuffer(number.to_bytes(8 * code.words, "little"), dtype=np.uint8)
        return numbers
    halves = _halves(set_table(code))
    for block in set_blocks(len(indices), code):
        positions = _positions(indices[block], counts[block])  # (B, T)
        sums = np.zeros((len(positions), halves.shape[2]), dtype=np.int64)  # of T values below 2**32
        for j in range(code.num_places):
            sums += halves[j][positions[:, j]]
        numbers[block] = _carried(sums).astype("<u4").view(np.uint8)
    return numbers


def decode_sets(
    numbers: NDArray[np.uint8], code: SetCode
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.bool_]]:
    """Undo `encode_sets`.

    Args:
        numbers: (N, 8 W) bytes of any content.
        code: T and K.

    Returns:
        Indices (N, T), strictly ascending up to the count, from there on the last again, or 0 in an empty set; counts
        (N,); and whether each number is one of a set (N,): if it is not, its indices mean nothing, but are in 0..K - 1.
    """
    positions = np.zeros((len(numbers), code.num_places), dtype=np.int64)  # place + 1, descending, then zeros
    is_set = np.empty(len(numbers), dtype=np.bool_)
    for block in set_blocks(len(numbers), code):
        if code.has_table:
            positions[block], is_set[block] = _find_places(numbers[block], code)
            continue
        for n in range(block.start, block.stop):
            number = int.from_bytes(numbers[n].tobytes(), "little")
            is_set[n] = number < code.num_sets
            found = places_of(number, code) if is_set[n] else []
            positions[n, : len(found)] = [place + 1 for place in found[::-1]]
    counts = (positions > 0).sum(axis=1)  # (N,)
    slots = np.minimum(np.arange(code.num_places), np.maximum(counts, 1)[:, None] - 1)  # fillers repeat the last
    ascending = np.take_along_axis(positions, np.maximum(counts, 1)[:, None] - 1 - slots, axis=1)
    return np.maximum(ascending - 1, 0).astype(np.int16), counts.astype(np.int16), is_set


def number_of(places: list[int], code: SetCode) -> int:
    """Return the number of one set, without a table.

    Args:
        places: ascending, at most T, below K.
        code: T and K.
    """
    wanted, number = set(places), 0
    walk = _Walk(code)
    while len(wanted) > walk.passed:
        is_in = walk.place in wanted
        number += walk.before if is_in else 0
        walk.step(is_in=is_in)
    return number


def places_of(number: int, code: SetCode) -> list[int]:
    """Return the places of the set with a number below `code.num_sets`, ascending, without a table."""
    places, walk = [], _Walk(code)
    while number:
        is_in = number >= walk.before
        if is_in:
            number -= walk.before
            places.append(walk.place)
        walk.step(is_in=is_in)
    return places[::-1]


class _Walk:
    """Goes through the places from the highest down, and knows L(place, budget) without a table."""

    def __init__(self, code: SetCode) -> None:
        """Start at place K - 1 with budget T."""
        self.place, self.passed = code.bound - 1, 0
        self._budget = code.num_places
        self.before = count_sets(self.place, self._budget)
        self._largest = math.comb(self.place, self._budget)  # sets of exactly that many places

    def step(self, *, is_in: bool) -> None:
        """Go to the next lower place, with a lower budget if this place is in the set."""
        n, t = self.place, self._budget
        self.place, self.passed = n - 1, self.passed + is_in
        if n == 0:
            return
        without = self._largest * (n - t) // n if t <= n else 0  # C(n - 1, t)
        self.before = (self.before + without) >> 1  # L(n, t) = 2 L(n - 1, t) - C(n - 1, t)
        if is_in:
            self.before -= without
            without = self._largest * t // n  # C(n - 1, t - 1)
            self._budget = t - 1
        self._largest = without


def set_blocks(num_sets: int, code: SetCode) -> Iterator[slice]:
    """Cut sets into blocks of a multiple of eight, whose intermediate values take some _SCRATCH_BYTES bytes."""
    # A byte for each bit of number and signs, four values of 8 bytes for each half word, eight for each place.
    bytes_per_set = 128 * code.words + 65 * code.num_places
    height = max(8, _SCRATCH_BYTES // bytes_per_set // 8 * 8)
    return (slice(start, min(start + height, num_sets)) for start in range(0, num_sets, height))


def _halves(table: SetTable) -> NDArray[np.uint32]:
    """Return the exact table in half words: (T, K + 1, 2 W)."""
    return table.exact.view("<u4")


def _positions(indices: NDArray[np.int16], counts: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return place + 1 of each place of a set, descending, then zeros; (B, T)."""
    slots = counts[:, None].astype(np.int64) - 1 - np.arange(indices.shape[1])  # (B, T)
    descending = np.take_along_axis(indices, np.maximum(slots, 0), axis=1).astype(np.int64) + 1
    return np.where(slots >= 0, descending, 0)


def _carried(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bring half words (B, 2 W) into 0..2**32 - 1, but the last; it is negative if and only if the number is."""
    for half in range(sums.shape[1] - 1):
        sums[:, half + 1] += sums[:, half] >> 32
        sums[:, half] &= 0xFFFFFFFF
    return sums


def _find_places(numbers: NDArray[np.uint8], code: SetCode) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return place + 1 of each place, descending, then zeros (B, T), and whether each number is one of a set (B,)."""
    table, halves = set_table(code), _halves(set_table(code))
    rest = np.ascontiguousarray(numbers).view("<u4").astype(np.int64)  # (B, 2 W)
    largest = np.frombuffer((code.num_sets - 1).to_bytes(8 * code.words, "little"), dtype="<u4").astype(np.int64)
    is_set = _carried(largest - rest)[:, -1] >= 0
    rest[~is_set] = 0
    powers = 2.0 ** (32 * np.arange(rest.shape[1]))
    positions = np.empty((len(rest), code.num_places), dtype=np.int64)
    for j in range(code.num_places):
        # With the slack the position is right or one too high.
        found = np.searchsorted(table.nearby[j], (rest @ powers) * _SLACK, side="right")  # (B,)
        left = _carried(rest - halves[j][found])
        high = np.flatnonzero(left[:, -1] < 0)
        found[high] -= 1
        left[high] = _carried(rest[high] - halves[j][found[high]])
        positions[:, j], rest = found, left
    return positions, is_set
