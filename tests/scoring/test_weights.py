"""Scores to weights."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.scoring import weights_of
from templar_pl.units import Uid

uids = st.integers(0, 300).map(Uid)
scores = st.dictionaries(uids, st.floats(-100, 100), max_size=10)
powers = st.floats(0, 100)


@given(scores, powers)
def test_weights_are_positive_and_sum_to_one_if_anybody_has_a_positive_score(
    found: dict[Uid, float], power: float
) -> None:
    weights = weights_of(found, power)

    assert bool(weights) == any(score > 0 for score in found.values())
    assert all(weight > 0 for weight in weights.values())
    assert not weights or math.fsum(weights.values()) == pytest.approx(1, abs=1e-12)


@given(scores, powers)
def test_the_order_of_the_scores_does_not_matter_to_the_bit(found: dict[Uid, float], power: float) -> None:
    backwards = dict(reversed(found.items()))

    assert list(weights_of(backwards, power).items()) == list(weights_of(found, power).items())


@given(scores, powers, st.integers(-30, 30))
def test_the_scale_of_the_scores_does_not_matter(found: dict[Uid, float], power: float, exponent: int) -> None:
    found = {uid: score for uid, score in found.items() if score == 0 or abs(score) > 1e-200}

    assert weights_of({uid: score * 2.0**exponent for uid, score in found.items()}, power) == weights_of(found, power)


@given(scores, st.floats(0, 10))
def test_a_higher_score_never_weighs_less(found: dict[Uid, float], power: float) -> None:
    weights = weights_of(found, power)

    ranked = sorted(found, key=lambda uid: found[uid])
    for low, high in itertools.pairwise(ranked):
        assert weights.get(low, 0.0) <= weights.get(high, 0.0)


@given(st.dictionaries(uids, st.integers(1, 1000), min_size=1, max_size=10), st.integers(0, 8))
def test_weights_are_shares_of_powers(found: dict[Uid, int], power: int) -> None:
    total = sum(Fraction(score) ** power for score in found.values())

    for uid, weight in weights_of(found, power).items():
        assert weight == pytest.approx(float(Fraction(found[uid]) ** power / total), rel=1e-9)


def test_weights_by_hand() -> None:
    assert weights_of({Uid(3): 1.0, Uid(1): 2.0, Uid(2): 0.0, Uid(4): -5.0}, 2.0) == {Uid(1): 0.8, Uid(3): 0.2}


def test_the_highest_power_of_high_scores_does_not_overflow() -> None:
    assert weights_of({Uid(1): 1e300, Uid(2): 1e300}, 100.0) == {Uid(1): 0.5, Uid(2): 0.5}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_a_bug(score: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite, got .* of uid 2"):
        weights_of({Uid(1): 1.0, Uid(2): score}, 2.0)
