"""Blocks of -1, 0 and +1 to test with, and a slow reference for every byte of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

DENSITIES = [0.0, 1e-3, 0.02, 0.1, 0.2, 0.3, 1 / 3, 0.38, 0.45, 0.6, 0.9, 0.99, 1.0]
"""Shares of zeros."""


def scattered(numel: int, zeros: float, seed: int) -> NDArray[np.int8]:
    """Zeros anywhere."""
    chance = np.random.default_rng(seed)
    signs = chance.choice(np.array([-1, 1], dtype=np.int8), numel)
    return np.where(chance.random(numel) < zeros, np.int8(0), signs)


def in_runs(numel: int, zeros: float, seed: int, run: int) -> NDArray[np.int8]:
    """Zeros in runs, as of chunks that nobody sent."""
    chance = np.random.default_rng(seed)
    is_zero = np.repeat(chance.random(-(-numel // run)) < zeros, run)[:numel]
    return np.where(is_zero, np.int8(0), scattered(numel, 0.0, seed + 1))


@st.composite
def blocks(draw: st.DrawFn, max_numel: int = 400) -> NDArray[np.int8]:
    """Any number of elements, with any share of zeros, scattered or in runs."""
    numel, seed = draw(st.integers(1, max_numel)), draw(st.integers(0, 2**32 - 2))
    zeros = draw(st.sampled_from(DENSITIES))
    run = draw(st.sampled_from([1, 2, 7, 64]))
    return scattered(numel, zeros, seed) if run == 1 else in_runs(numel, zeros, seed, run)


def slow_block(values: Sequence[int]) -> bytes:
    """A block, from all of its forms."""
    numel = len(values)
    zeros = [place for place, value in enumerate(values) if value == 0]
    others = [place for place, value in enumerate(values) if value != 0]
    edges = [place for place in range(numel) if (values[place] == 0) != (place > 0 and values[place - 1] == 0)]
    signs = slow_bits("".join("1" if values[place] < 0 else "0" for place in others))
    forms = [slow_listing(form, places, numel) + signs for form, places in enumerate((zeros, others, edges))]
    return min([*forms, slow_dense(values)], key=len)


def slow_listing(form: int, places: Sequence[int], numel: int) -> bytes:
    """The places of a block, one by one."""
    count, width, before = len(places), 0, -1
    while count and 2000 * count * 2**width <= 962 * (numel - count) + 481 * count:
        width += 1
    quotients = rests = ""
    for place in places:
        gap, before = place - before - 1, place
        quotients += "0" * (gap // 2**width) + "1"
        rests += "".join(str(gap // 2**bit % 2) for bit in range(width))
    return struct.pack("<BII", form, count, len(quotients)) + slow_bits(quotients) + slow_bits(rests)


def slow_dense(values: Sequence[int]) -> bytes:
    """41 elements a number of 65 bits, with Python's long integers."""
    numbers = [
        sum((value + 1) * 3**place for place, value in enumerate(values[start : start + 41]))
        for start in range(0, len(values), 41)
    ]
    words = b"".join(struct.pack("<Q", number % 2**64) for number in numbers)
    return struct.pack("<BII", 3, 0, 0) + words + slow_bits("".join(str(number // 2**64) for number in numbers))


def slow_bits(bits: str) -> bytes:
    """Bits, the lowest of each byte first."""
    return bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))
