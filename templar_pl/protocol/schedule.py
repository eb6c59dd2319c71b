"""The learning rate as a pure function of the number of windows applied."""

from __future__ import annotations

import math

from templar_pl.config import ScheduleConfig

WARMUP_START = 0.1
"""Share of the peak that the warm-up begins with."""

SIGNIFICANT_BITS = 16
"""Bits of a learning rate. Few enough that the last bits of a platform's sine are rounded away (no value of the
default schedule's first million windows lies nearer to a rounding boundary than `benchmarks/learning_rate_grid.py`
prints), and that fp32 holds the rate exactly; so many that the rate is off by at most one part in 2**16."""


def learning_rate_at(windows_applied: int, config: ScheduleConfig) -> float:
    """Return the step of the window that follows `windows_applied` applied ones.

    The warm-up rises linearly from WARMUP_START of the peak in `warmup_steps` windows; then cosine cycles of t_max,
    2 * t_max, 4 * t_max ... windows fall from the peak to `alpha_f` of it. Rounded to SIGNIFICANT_BITS, ties to even:
    the same bits on every platform. Missed, caught-up and live windows all count.

    Args:
        windows_applied: windows since the start of the run, at least 0.
        config: peak, lengths and floor.

    Raises:
        ValueError: windows_applied is negative.

    Source:
        Loshchilov, Hutter, "SGDR", arXiv:1608.03983v5, equation 5, with T_mult = 2.
    """
    if windows_applied < 0:
        raise ValueError(f"windows_applied must be at least 0, got {windows_applied}")
    peak = config.learning_rate
    if windows_applied < config.warmup_steps:
        risen = windows_applied / config.warmup_steps
        return _round_to_grid(peak * (WARMUP_START + (1 - WARMUP_START) * risen))
    since_warmup = windows_applied - config.warmup_steps
    cycle = (since_warmup // config.t_max + 1).bit_length() - 1
    length = config.t_max << cycle
    left = length - (since_warmup - (length - config.t_max))
    # (1 + cos x) / 2 == sin((pi - x) / 2) ** 2, which loses no digits where the cosine comes near -1. A product
    # instead of a power: multiplication is the same on every platform, pow is not.
    sine = math.sin(0.5 * math.pi * (left / length))
    floor = config.alpha_f * peak
    return _round_to_grid(floor + (peak - floor) * (sine * sine))


def _round_to_grid(value: float) -> float:
    """Round to SIGNIFICANT_BITS bits of mantissa, ties to even."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, SIGNIFICANT_BITS)), exponent - SIGNIFICANT_BITS)
