"""Weights that validators set, whichever chain they go to."""

from __future__ import annotations

import math
from collections.abc import Mapping

from templar_pl.units import Uid


def shares_of(weights: Mapping[Uid, float]) -> dict[Uid, float]:
    """Return the weights above 0, scaled so that they sum to 1.

    Raises:
        ValueError: a weight is below 0 or not finite, or their sum is not above 0.
    """
    for uid, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of uid {uid} must be finite and 0 or more, got {weight}")
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise ValueError(f"at least one weight must be above 0, and their sum finite, got the sum {total}")
    return {uid: weight / total for uid, weight in weights.items() if weight > 0}
