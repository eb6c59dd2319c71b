"""Ratings against Weng and Lin's formulas, written down slowly."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.scoring import Rating, rate
from templar_pl.units import Uid

BETA, TAU = 20.0, 0.1

ratings = st.builds(Rating, st.floats(-50, 100), st.floats(0.5, 20))
results = st.sampled_from([-1.0, -0.1, 0.0, 0.1, 0.2, 0.3])
matches = st.dictionaries(st.integers(0, 300).map(Uid), st.tuples(ratings, results), min_size=2, max_size=6)
Match = dict[Uid, tuple[Rating, float]]


def rated(match: Match, *, beta: float = BETA, tau: float = TAU) -> dict[Uid, Rating]:
    before = {uid: rating for uid, (rating, _) in match.items()}
    return rate(before, {uid: result for uid, (_, result) in match.items()}, beta=beta, tau=tau)


def slowly(match: Match, beta: float, tau: float) -> dict[Uid, Rating]:
    """Algorithm 4 of Weng and Lin (2011), each sum written out, with teams of one and variance grown by tau."""
    mu = {uid: rating.mu for uid, (rating, _) in match.items()}
    variance = {uid: rating.sigma**2 + tau**2 for uid, (rating, _) in match.items()}
    result = {uid: result for uid, (_, result) in match.items()}
    c = math.sqrt(sum(variance[uid] + beta**2 for uid in match))
    after = {}
    for i in match:
        omega = delta = 0.0
        for q in match:
            if result[q] < result[i]:
                continue
            ties = sum(result[s] == result[q] for s in match)
            share = math.exp(mu[i] / c) / sum(math.exp(mu[s] / c) for s in match if result[s] <= result[q])
            omega += ((1 if q == i else 0) - share) / ties
            delta += share * (1 - share) / ties
        gamma = math.sqrt(variance[i]) / c
        shrink = max(1 - gamma * delta * variance[i] / c**2, 0.0001)
        after[i] = Rating(mu[i] + variance[i] / c * omega, math.sqrt(variance[i] * shrink))
    return after


@given(matches, st.floats(1, 50), st.floats(0, 1))
def test_ratings_follow_the_published_algorithm(match: Match, beta: float, tau: float) -> None:
    for uid, expected in slowly(match, beta, tau).items():
        found = rated(match, beta=beta, tau=tau)[uid]
        assert found.mu == pytest.approx(expected.mu, rel=1e-9, abs=1e-9)
        assert found.sigma == pytest.approx(expected.sigma, rel=1e-9)


@given(matches, st.randoms(use_true_random=False))
def test_the_order_of_the_miners_does_not_matter_to_the_bit(match: Match, shuffler: random.Random) -> None:
    uids = list(match)
    shuffler.shuffle(uids)

    assert rated({uid: match[uid] for uid in uids}) == rated(match)


@given(matches)
def test_only_the_order_of_the_results_counts(match: Match) -> None:
    stretched = {uid: (rating, 1000 * result - 3) for uid, (rating, result) in match.items()}

    assert rated(stretched) == rated(match)


@given(matches, st.data())
def test_a_better_result_never_rates_lower_where_nobody_ties(match: Match, data: st.DataObject) -> None:
    """The published algorithm gives a tie less than a clear place below it, so ties are left out."""
    uid = data.draw(st.sampled_from(sorted(match)))
    before, after = sorted(data.draw(st.lists(st.integers(-1, 6), min_size=2, max_size=2)))
    others = {other: (rating, float(place)) for place, (other, (rating, _)) in enumerate(match.items())}
    worse, better = (others | {uid: (match[uid][0], at + 0.5)} for at in (before, after))

    assert rated(better)[uid].mu >= rated(worse)[uid].mu - 1e-9


@given(matches)
def test_equal_miners_with_equal_results_stay_equal(match: Match) -> None:
    twins = {uid: (Rating(), 0.1) for uid in match}

    assert len(set(rated(twins).values())) == 1


def test_two_strangers_by_hand() -> None:
    winner, loser = (rated({Uid(1): (Rating(), 0.2), Uid(2): (Rating(), 0.1)})[Uid(uid)] for uid in (1, 2))

    variance = (25 / 3) ** 2 + 0.1**2
    c = math.sqrt(2 * (variance + 400))
    assert winner.mu == pytest.approx(25 + variance / c / 2)
    assert loser.mu == pytest.approx(25 - variance / c / 2)
    assert winner.sigma == loser.sigma == pytest.approx(math.sqrt(variance * (1 - variance**1.5 / c**3 / 4)))


def test_a_single_result_changes_nothing() -> None:
    assert rated({Uid(7): (Rating(30.0, 5.0), -1.0)}) == {Uid(7): Rating(30.0, 5.0)}
    assert rate({}, {}, beta=BETA, tau=TAU) == {}


def test_a_stranger_has_the_ordinal_of_the_mean() -> None:
    assert Rating().ordinal == 25
    assert Rating(30.0, 5.0).ordinal == 40
