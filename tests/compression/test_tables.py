from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np

from templar_pl.compression.tables import (
    BASES_SHA256,
    eighth_mantissas,
    integer_bases,
    quarter_mantissas,
    scale_table,
)
from tests.compression import reference


def is_nearest(number: int, one: int, power: int, root: int) -> bool:
    """Whether `number` is the integer nearest to one * 2**(power / root), in exact arithmetic."""
    exact = Fraction(one) ** root * Fraction(2) ** power
    return Fraction(2 * number - 1, 2) ** root < exact < Fraction(2 * number + 1, 2) ** root


def test_the_bases_have_the_hash_that_all_nodes_know() -> None:
    encoded = b"".join(np.rint(256 * reference.cosines(n)).astype("<i2").tobytes() for n in range(1, 65))

    assert hashlib.sha256(encoded).hexdigest() == BASES_SHA256


def test_the_bases_are_rounded_cosines() -> None:
    assert len(integer_bases()) == 64
    for size, basis in enumerate(integer_bases(), start=1):
        assert np.abs(np.array(basis).reshape(size, size) - 256 * reference.cosines(size)).max() <= 0.5
    assert integer_bases()[63][0] == 181


def test_every_mantissa_is_the_nearest_integer() -> None:
    table = scale_table()

    assert len(table) == 129
    assert table[128] == 0
    assert all(is_nearest(table[d], 2**15, -d, 8) for d in range(128))
    assert all(is_nearest(m, 2**14, r, 8) for r, m in enumerate(eighth_mantissas()))
    assert all(is_nearest(m, 2**30, r, 4) for r, m in enumerate(quarter_mantissas()))
