"""What one observation is worth, and how observations become a score."""

from __future__ import annotations

import math

from templar_pl.scoring.records import Evaluation, Losses

WORST = -1.0
"""Lowest improvement: the loss at least doubled, or is no finite number any more."""

BEST = 1.0
"""Highest improvement: a positive loss fell to zero."""

PENALTY_FACTOR = 0.75
"""What one penalty leaves of a score."""

CHANCE_DEVIATIONS = 1.0
"""Standard deviations of what chance alone gives that an indicator must exceed. With 30 simulated evaluations of
each miner, a lazy one got a third of the worst honest miner's weight or more in 7 % of all networks with 0, in 3 % with
1; 2 costs honest miners more than it gains."""

_SMALLEST_LOSS = 1e-12  # keeps the quotient defined for a module whose loss is 0


def relative_improvement(losses: Losses) -> float:
    """Return the share of the loss that a payload took away, WORST..BEST.

    Whoever makes the loss infinite or NaN gains as little as whoever doubles it: a hostile payload has nothing to win
    from either, and no arithmetic behind this meets a number that is not finite.
    """
    if not math.isfinite(losses.after):
        return WORST
    scale = max(abs(losses.before), _SMALLEST_LOSS)
    return min(BEST, max(WORST, (losses.before - losses.after) / scale))


def gradient_score(evaluation: Evaluation) -> float:
    """Return what a payload did for everybody: its relative improvement on random pages, WORST..BEST."""
    return relative_improvement(evaluation.random)


def binary_indicator(evaluation: Evaluation) -> int:
    """Return 1 if a payload helps its miner's own pages more than random ones, else -1, also where both are equal.

    Only who trained on the assigned pages of this window knows more about them than about others.
    """
    return 1 if relative_improvement(evaluation.own) > relative_improvement(evaluation.random) else -1


def moving_average(average: float, observation: float, alpha: float) -> float:
    """Return the exponential moving average with one more observation of weight `alpha`, 0 < alpha <= 1."""
    return (1 - alpha) * average + alpha * observation


def beyond_chance(indicator: float, observations: int, alpha: float) -> float:
    """Return how far a moving average is above what a fair coin would reach, at least 0.

    After n tosses of -1 or 1 the average has the variance alpha / (2 - alpha) * (1 - (1 - alpha)**(2n)); whoever does
    not train on the assigned pages tosses a coin. A single toss is never beyond chance, though rounding may say so.

    Args:
        indicator: moving average of the binary indicator, from 0 on; -1..1.
        observations: how many it is made of, at least 0.
        alpha: weight of the newest one, 0 < alpha <= 1.
    """
    if observations < 2:
        return 0.0
    variance = alpha / (2 - alpha) * (1 - (1 - alpha) ** (2 * observations))
    return max(0.0, indicator - CHANCE_DEVIATIONS * math.sqrt(variance))


def sync_score(steps_behind: float | None, max_steps_behind: float) -> float:
    """Return 1 at equal parameters, falling evenly to 0 at `max_steps_behind` > 0; 0 for unknown parameters (None)."""
    if steps_behind is None:
        return 0.0
    return max(0.0, 1 - steps_behind / max_steps_behind)


def final_score(ordinal: float, indicator: float, sync: float, penalties: int) -> float:
    """Return the score of a miner, at least 0.

    A negative factor counts as 0: otherwise a penalty would raise a score, and two negative factors would make a
    positive one.

    Args:
        ordinal: rating that the miner deserves almost certainly, of any sign.
        indicator: moving average of the binary indicator, beyond chance; -1..1.
        sync: 0..1.
        penalties: how many count now, at least 0.
    """
    return PENALTY_FACTOR**penalties * max(0.0, ordinal) * max(0.0, indicator) * sync
