"""The learning rate."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LinearLR, LRScheduler, SequentialLR

from benchmarks.learning_rate_grid import ulps_to_boundary, unrounded_rates
from templar_pl.config import ScheduleConfig
from templar_pl.hparams import load_hparams
from templar_pl.protocol import learning_rate_at

ROOT = Path(__file__).parents[2]
ROUNDING = 1.001 * 2.0**-16  # half the distance of two neighbours of the grid, at most, as a share

configs = st.builds(
    ScheduleConfig,
    learning_rate=st.floats(1e-6, 1),
    warmup_steps=st.integers(0, 8),
    t_max=st.integers(1, 12),
    alpha_f=st.floats(0, 1),
)


def torch_rates(config: ScheduleConfig, num_windows: int) -> list[float]:
    """The same schedule, as torch runs it step by step."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=config.learning_rate)
    floor = config.alpha_f * config.learning_rate
    scheduler: LRScheduler = CosineAnnealingWarmRestarts(optimizer, T_0=config.t_max, T_mult=2, eta_min=floor)
    if config.warmup_steps:
        optimizer = torch.optim.SGD([parameter], lr=config.learning_rate)
        warmup = LinearLR(optimizer, start_factor=0.1, end_factor=1.0, total_iters=config.warmup_steps)
        cosine = CosineAnnealingWarmRestarts(optimizer, T_0=config.t_max, T_mult=2, eta_min=floor)
        scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[config.warmup_steps])
    rates = []
    for _ in range(num_windows):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR at its own milestone
@given(configs)
def test_the_rate_is_that_of_the_schedulers_of_torch(config: ScheduleConfig) -> None:
    num_windows = config.warmup_steps + 7 * config.t_max + 3  # into the fourth cycle

    rates = torch_rates(config, num_windows)

    for window, theirs in enumerate(rates):
        # Torch multiplies its way through the warm-up, and its cosine loses digits near the floor.
        assert learning_rate_at(window, config) == pytest.approx(theirs, rel=ROUNDING, abs=1e-14)


@given(configs, st.integers(0, 40), st.data())
def test_far_restarts_start_at_the_peak(config: ScheduleConfig, cycle: int, data: st.DataObject) -> None:
    start = config.warmup_steps + config.t_max * (2**cycle - 1)
    into = data.draw(st.integers(0, config.t_max * 2**cycle - 1))

    rate = learning_rate_at(start + into, config)

    cosine = math.cos(math.pi * (into / (config.t_max * 2**cycle)))
    floor = config.alpha_f * config.learning_rate
    assert rate == pytest.approx(floor + (config.learning_rate - floor) * (1 + cosine) / 2, rel=ROUNDING, abs=1e-14)


@given(configs, st.integers(0, 10**6))
def test_a_rate_has_sixteen_significant_bits(config: ScheduleConfig, window: int) -> None:
    rate = Fraction(learning_rate_at(window, config))

    assert rate == 0 or rate.numerator < 2**16 or (rate.numerator // (rate.numerator & -rate.numerator)) < 2**16
    assert float(np.float32(float(rate))) == rate


def test_rounding_goes_to_the_nearest_value_and_ties_to_even() -> None:
    steady = {"warmup_steps": 0, "t_max": 1, "alpha_f": 1.0}
    for peak, rounded in [(65537 * 2**-17, 65536), (65539 * 2**-17, 65540), (131071 * 2**-17, 131072)]:
        assert learning_rate_at(0, ScheduleConfig(learning_rate=peak, **steady)) == rounded * 2**-17


def test_the_default_schedule_reads_as_documented() -> None:
    config = ScheduleConfig()
    peak, floor = 4e-4, 4e-5

    for window, rate in {0: floor, 125: 0.55 * peak, 250: peak, 10_250: (peak + floor) / 2, 20_250: peak}.items():
        assert learning_rate_at(window, config) == pytest.approx(rate, rel=ROUNDING)


def test_rates_are_the_same_on_every_platform() -> None:
    config = ScheduleConfig()

    assert [learning_rate_at(window, config).hex() for window in (0, 1, 250, 5000, 20_249, 545_711)] == [
        "0x1.4f8c000000000p-15",
        "0x1.5ba0000000000p-15",
        "0x1.a36e000000000p-12",
        "0x1.714a000000000p-12",
        "0x1.4f8c000000000p-15",
        "0x1.6910000000000p-14",
    ]


@pytest.mark.parametrize("files", [["hparams.json"], ["hparams.json", "hparams.local.json"]])
def test_no_rate_lies_near_a_rounding_boundary(files: list[str]) -> None:
    config = load_hparams(*(ROOT / name for name in files)).schedule
    restarts = [config.warmup_steps + config.t_max * (2**cycle - 1) for cycle in range(6)]
    windows = np.concatenate([np.arange(100_000)] + [np.arange(start, start + 100) for start in restarts])

    unrounded = unrounded_rates(windows, config)

    assert ulps_to_boundary(unrounded).min() >= 64
    for window, rate in zip(windows[::997].tolist(), unrounded[::997].tolist(), strict=True):
        assert learning_rate_at(window, config) == pytest.approx(rate, rel=ROUNDING)


def test_the_distance_to_a_rounding_boundary_counts_last_places() -> None:
    boundary = 65537 * 2.0**-20  # 17 significant bits

    assert ulps_to_boundary(np.array([boundary, math.nextafter(boundary, 1)])).tolist() == [0, 1]


def test_a_negative_count_of_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="windows_applied must be at least 0, got -1"):
        learning_rate_at(-1, ScheduleConfig())
