"""How near does a learning rate come to the point where rounding it would depend on the platform's sine?

    python benchmarks/learning_rate_grid.py [hparams.json ...] [--windows 1000000]

Every window's rate is computed before it is rounded, vectorised in numpy, and its distance to the nearest midpoint of
the 16-bit grid is counted in units of the last place of float64. Libraries' sines differ by one or two such units.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from templar_pl.config import ScheduleConfig
from templar_pl.hparams import load_hparams
from templar_pl.protocol.schedule import SIGNIFICANT_BITS, WARMUP_START

FLOAT64_BITS = 53


def unrounded_rates(windows: NDArray[np.int64], config: ScheduleConfig) -> NDArray[np.float64]:
    """Return the learning rate of each window before it is rounded."""
    peak, floor = config.learning_rate, config.alpha_f * config.learning_rate
    warmup = peak * (WARMUP_START + (1 - WARMUP_START) * (windows / max(1, config.warmup_steps)))
    start = np.full(windows.shape, config.warmup_steps)
    length = np.full(windows.shape, config.t_max)
    while (is_later := windows >= start + length).any():
        start = np.where(is_later, start + length, start)
        length = np.where(is_later, 2 * length, length)
    sine = np.sin(0.5 * np.pi * ((length - (windows - start)) / length))
    return np.where(windows < config.warmup_steps, warmup, floor + (peak - floor) * sine * sine)


def ulps_to_boundary(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many units of the last place lie between each value and the nearest midpoint of the grid."""
    mantissa, _ = np.frexp(values)
    units = np.ldexp(mantissa, FLOAT64_BITS).astype(np.int64)
    step = 1 << (FLOAT64_BITS - SIGNIFICANT_BITS)
    return np.abs(units % step - step // 2)


def main() -> None:
    """Print the nearest windows of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hparams", type=Path, nargs="*", default=[Path("hparams.json")])
    parser.add_argument("--windows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    windows = np.arange(arguments.windows)
    config = load_hparams(*arguments.hparams).schedule
    distances = ulps_to_boundary(unrounded_rates(windows, config))
    print(f"{config}\n{arguments.windows} windows; the five nearest to a rounding boundary:")
    print(f"{'window':>10} {'ulps of float64':>16}")
    for window in np.argsort(distances)[:5]:
        print(f"{window:>10} {distances[window]:>16}")


if __name__ == "__main__":
    main()
