"""What honest miners and adversaries earn over thirty windows with the noise of real evaluations."""

from __future__ import annotations

import pytest

from templar_pl.config import ScoringConfig
from templar_pl.units import Uid
from tests.scoring.simulation import CAST, simulate

EVALUATES_ALL = ScoringConfig(uids_per_window=len(CAST))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_adversary_earns_less_than_a_third_of_the_worst_honest_miner(seed: int) -> None:
    weights = simulate(seed, scoring=EVALUATES_ALL).weights(EVALUATES_ALL)

    earned = [(kind, weights.get(Uid(uid), 0.0)) for uid, kind in enumerate(CAST)]
    worst_honest = min(weight for kind, weight in earned if kind == "honest")
    assert worst_honest > 0
    assert all(weight < worst_honest / 3 for kind, weight in earned if kind != "honest"), earned


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_stale_miner_that_claims_the_present_parameters_earns_as_little_after_sixty_windows(seed: int) -> None:
    """A fingerprint can be had from any payload that is there already; evaluations see what it was worth."""
    cast = (*CAST[:-1], "liar")
    weights = simulate(seed, windows=60, cast=cast, scoring=EVALUATES_ALL).weights(EVALUATES_ALL)

    honest = [weights.get(Uid(uid), 0.0) for uid, kind in enumerate(cast) if kind == "honest"]
    assert weights.get(Uid(len(cast) - 1), 0.0) < min(honest) / 3
