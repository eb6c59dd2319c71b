"""Scores to weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from templar_pl.units import Uid


def weights_of(scores: Mapping[Uid, float], power: float) -> dict[Uid, float]:
    """Return weights proportional to score ** power.

    Args:
        scores: finite; those of 0 and below get no weight.
        power: 0..100; 0 gives all positive scores the same weight.

    Returns:
        Positive weights that sum to 1 up to rounding, in uid order; empty if no score is positive, which means that
        nobody has earned anything yet and whatever weights are set should stay.

    Raises:
        ValueError: a score is not finite.
    """
    if wrong := sorted(uid for uid, score in scores.items() if not math.isfinite(score)):
        raise ValueError(f"scores must be finite, got {scores[wrong[0]]} of uid {wrong[0]}")
    positive = {uid: scores[uid] for uid in sorted(scores) if scores[uid] > 0}
    if not positive:
        return {}
    best = max(positive.values())
    # Shares of the best score: a power of them cannot overflow, and does not depend on the scale of scores.
    powers = {uid: (score / best) ** power for uid, score in positive.items()}
    total = math.fsum(powers.values())
    return {uid: share / total for uid, share in powers.items() if share > 0}
