"""How good miners are relative to one another: OpenSkill's Plackett-Luce model.

Source: Weng and Lin, A Bayesian approximation method for online ranking, JMLR 12 (2011), algorithm 4; the package
`openskill` 6.2 computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openskill.models import PlackettLuce

from templar_pl.units import Uid

INITIAL_MU = 25.0
INITIAL_SIGMA = INITIAL_MU / 3
DEVIATIONS = 3.0
"""Standard deviations by which the ordinal is below the mean: a skill that is exceeded with 99.9 % certainty."""

ORDINAL_TARGET = INITIAL_MU
"""Ordinal of a stranger. With 0, what each wins another one loses, so half of all honest miners of equal skill would
have negative ordinals and earn nothing: 3.8 of 8 after 30 simulated windows, 1.1 after 300."""


@dataclass(frozen=True, slots=True)
class Rating:
    """What is believed of a miner's skill: a normal distribution."""

    mu: float = INITIAL_MU
    """Mean."""

    sigma: float = INITIAL_SIGMA
    """Standard deviation, above 0."""

    @property
    def ordinal(self) -> float:
        """The mean less three deviations, shifted as the package's `ordinal(target=...)` does; negative at worst."""
        return self.mu - DEVIATIONS * self.sigma + ORDINAL_TARGET


def rate(ratings: Mapping[Uid, Rating], results: Mapping[Uid, float], *, beta: float, tau: float) -> dict[Uid, Rating]:
    """Rate miners by one window's results.

    Equal results are ties. A single result compares nobody and changes nothing.

    Args:
        ratings: before, of at least all who have results.
        results: gradient scores, the higher the better, all measured on the same parameters.
        beta: spread of a performance, above 0.
        tau: uncertainty that every match adds, at least 0.

    Returns:
        The new ratings of all who have results, in uid order; the same ones for whatever order of the arguments.
    """
    uids = sorted(results)
    if len(uids) < 2:
        return {uid: ratings[uid] for uid in uids}
    model = PlackettLuce(beta=beta, tau=tau)
    # Floating-point sums depend on their order, so teams stand in uid order.
    teams = [[model.rating(mu=ratings[uid].mu, sigma=ratings[uid].sigma)] for uid in uids]
    places = [float(sum(other > results[uid] for other in results.values())) for uid in uids]
    rated = model.rate(teams, ranks=places)
    return {uid: Rating(team[0].mu, team[0].sigma) for uid, team in zip(uids, rated, strict=True)}
