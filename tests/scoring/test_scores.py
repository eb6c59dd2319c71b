"""What single observations are worth."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.scoring import (
    Evaluation,
    Losses,
    beyond_chance,
    binary_indicator,
    final_score,
    gradient_score,
    moving_average,
    relative_improvement,
    sync_score,
)
from templar_pl.units import Uid

losses = st.floats(0.01, 100)
any_losses = st.floats(-1e300, 1e300)
hostile = st.sampled_from([math.nan, math.inf, -math.inf])


def evaluation(own: Losses, on_random: Losses) -> Evaluation:
    return Evaluation(uid=Uid(0), own=own, random=on_random)


@given(before=any_losses, after=any_losses, later=any_losses)
def test_a_lower_loss_never_improves_less(before: float, after: float, later: float) -> None:
    low, high = sorted((after, later))

    assert relative_improvement(Losses(before, low)) >= relative_improvement(Losses(before, high))


@given(before=losses, after=losses)
def test_the_improvement_is_the_share_of_the_loss_that_is_gone(before: float, after: float) -> None:
    exact = max(Fraction(-1), (Fraction(before) - Fraction(after)) / Fraction(before))

    assert relative_improvement(Losses(before, after)) == pytest.approx(float(exact), abs=1e-15)


@given(before=losses, after=losses, exponent=st.integers(-20, 20))
def test_the_unit_of_the_loss_does_not_matter(before: float, after: float, exponent: int) -> None:
    unit = 2.0**exponent

    assert relative_improvement(Losses(before * unit, after * unit)) == relative_improvement(Losses(before, after))


@given(before=any_losses, after=hostile, finite=any_losses)
def test_a_loss_that_is_no_number_gains_as_little_as_any(before: float, after: float, finite: float) -> None:
    assert relative_improvement(Losses(before, after)) == -1
    assert relative_improvement(Losses(before, finite)) >= -1


@pytest.mark.parametrize(
    ("before", "after", "improvement"),
    [(4.0, 3.0, 0.25), (4.0, 5.0, -0.25), (4.0, 0.0, 1.0), (4.0, 9.0, -1.0), (-2.0, -3.0, 0.5), (0.0, 1.0, -1.0)],
)
def test_improvements_by_hand(before: float, after: float, improvement: float) -> None:
    assert relative_improvement(Losses(before, after)) == improvement


@given(hostile)
def test_a_model_that_is_broken_before_the_payload_is_our_own_fault(before: float) -> None:
    with pytest.raises(ValueError, match="before a payload is applied must be finite"):
        Losses(before, 1.0)


def test_the_gradient_score_looks_at_random_pages_only() -> None:
    assert gradient_score(evaluation(Losses(4.0, 1.0), Losses(4.0, 3.0))) == 0.25


@pytest.mark.parametrize(
    ("own_after", "random_after", "indicator"),
    [(3.0, 3.5, 1), (3.5, 3.0, -1), (3.5, 3.5, -1), (math.nan, 3.5, -1), (math.nan, math.nan, -1), (3.5, math.inf, 1)],
)
def test_the_indicator_tells_whether_own_pages_gain_more(own_after: float, random_after: float, indicator: int) -> None:
    assert binary_indicator(evaluation(Losses(4.0, own_after), Losses(4.0, random_after))) == indicator


@given(before=losses, own=losses, better=losses, on_random=losses)
def test_who_gains_more_on_its_own_pages_never_has_the_lower_indicator(
    before: float, own: float, better: float, on_random: float
) -> None:
    low, high = sorted((own, better))
    fixed = Losses(before, on_random)

    assert binary_indicator(evaluation(Losses(before, low), fixed)) >= binary_indicator(
        evaluation(Losses(before, high), fixed)
    )


@given(st.lists(st.sampled_from([-1, 1]), max_size=50), st.floats(0.01, 1))
def test_the_average_is_the_sum_of_faded_observations(observed: list[int], alpha: float) -> None:
    average = 0.0
    for observation in observed:
        average = moving_average(average, observation, alpha)

    slow = sum(alpha * (1 - alpha) ** age * value for age, value in enumerate(reversed(observed)))
    assert average == pytest.approx(slow, abs=1e-12)
    assert -1 <= average <= 1


def test_two_good_windows_with_the_default_average() -> None:
    assert moving_average(moving_average(0.0, 1, 0.05), 1, 0.05) == pytest.approx(0.0975)


@given(st.integers(2, 8), st.floats(0.01, 1))
def test_the_bound_of_chance_is_the_deviation_over_all_tosses(tosses: int, alpha: float) -> None:
    outcomes = []
    for number in range(2**tosses):
        average = 0.0
        for toss in range(tosses):
            average = moving_average(average, 1 if number >> toss & 1 else -1, alpha)
        outcomes.append(average)
    deviation = math.sqrt(math.fsum(outcome**2 for outcome in outcomes) / len(outcomes))

    assert beyond_chance(1.0, tosses, alpha) == pytest.approx(1 - deviation, abs=1e-9)


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 1000))
def test_a_higher_indicator_is_never_less_beyond_chance(first: float, second: float, tosses: int) -> None:
    low, high = sorted((first, second))

    assert 0 <= beyond_chance(low, tosses, 0.05) <= beyond_chance(high, tosses, 0.05)


def test_one_lucky_window_earns_nothing_and_two_do() -> None:
    assert beyond_chance(0.05, 1, 0.05) == 0
    assert beyond_chance(0.0975, 2, 0.05) == pytest.approx(0.0975 - math.sqrt(0.05**2 + 0.0475**2))


@pytest.mark.parametrize(("steps", "score"), [(0.0, 1.0), (1.5, 0.5), (3.0, 0.0), (7.0, 0.0), (None, 0.0)])
def test_the_sync_score_falls_evenly(steps: float | None, score: float) -> None:
    assert sync_score(steps, 3.0) == score


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 100))
def test_who_is_farther_behind_never_has_the_higher_sync_score(first: float, second: float, most: float) -> None:
    near, far = sorted((first, second))

    assert 1 >= sync_score(near, most) >= sync_score(far, most) >= sync_score(None, most) == 0


def test_a_final_score_by_hand() -> None:
    assert final_score(ordinal=16.0, indicator=0.5, sync=0.5, penalties=2) == 16 * 0.5 * 0.5 * 0.5625


factors = st.tuples(st.floats(-50, 50), st.floats(-1, 1), st.floats(0, 1), st.integers(0, 25))


@given(factors, factors)
def test_who_is_better_in_everything_never_has_the_lower_score(
    first: tuple[float, float, float, int], second: tuple[float, float, float, int]
) -> None:
    ordinals, indicators, syncs, penalties = (sorted(pair) for pair in zip(first, second, strict=True))

    better = final_score(ordinals[1], indicators[1], syncs[1], int(penalties[0]))
    assert better >= final_score(ordinals[0], indicators[0], syncs[0], int(penalties[1])) >= 0


@given(st.floats(-50, 0), st.floats(-1, 0), st.floats(0, 1))
def test_two_negative_factors_earn_nothing(ordinal: float, indicator: float, sync: float) -> None:
    assert final_score(ordinal, indicator, sync, 0) == 0


@given(alpha=st.floats(1e-6, 1.0))
def test_a_single_observation_is_never_beyond_chance(alpha: float) -> None:
    assert beyond_chance(moving_average(0.0, 1.0, alpha), 1, alpha) == 0.0
