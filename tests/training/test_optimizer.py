"""The optimizer step and the learning rate of a window."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.config import ScheduleConfig
from templar_pl.protocol.schedule import learning_rate_at
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule

SCHEDULE = ScheduleConfig(learning_rate=2e-3, warmup_steps=4, t_max=8)


@given(
    lr=st.floats(1e-6, 1).map(lambda x: float(np.float32(x))),
    decay=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_step_rounds_the_decay_and_the_sign_update_once_each(lr: float, decay: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.randn(50, generator=generator))
    before = parameter.detach().numpy().copy()
    sign = torch.randint(-1, 2, (50,), generator=generator).float()
    parameter.grad = sign.clone()
    optimizer = DecoupledSGD([parameter], lr, weight_decay=decay)

    optimizer.step()

    # fp64 holds a product of two fp32 exactly, so each astype is the one rounding of its line.
    factor = np.float32(1 - lr * decay)
    decayed = (before.astype(np.float64) * np.float64(factor)).astype(np.float32) if decay else before
    expected = (decayed.astype(np.float64) - lr * sign.numpy().astype(np.float64)).astype(np.float32)
    assert np.array_equal(parameter.detach().numpy(), expected)


def test_a_step_runs_the_closure_first_and_leaves_parameters_without_gradient_alone() -> None:
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = DecoupledSGD([used, unused], 0.5, weight_decay=0.5)

    def closure() -> float:
        loss = (used * torch.tensor([1.0, -1.0])).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 0
    assert used.tolist() == [0.25, 1.25]
    assert unused.tolist() == [1, 1]


def test_hooks_of_a_step_run_once() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer, calls = DecoupledSGD([parameter], 0.5), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    optimizer.step()

    assert calls == ["before", "after"]


def test_the_learning_rate_is_the_schedule_of_the_applied_windows() -> None:
    optimizer = DecoupledSGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    schedule = WindowSchedule(optimizer, SCHEDULE)
    for window in range(40):
        assert optimizer.param_groups[0]["lr"] == learning_rate_at(window, SCHEDULE)
        optimizer.step()
        schedule.step()


def test_a_schedule_goes_on_from_its_state() -> None:
    first = DecoupledSGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    stopped = WindowSchedule(first, SCHEDULE)
    for _ in range(7):
        first.step()
        stopped.step()
    second = DecoupledSGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    resumed = WindowSchedule(second, SCHEDULE)

    resumed.load_state_dict(stopped.state_dict())

    assert stopped.state_dict() == {"windows_applied": 7}
    assert second.param_groups[0]["lr"] == resumed.get_last_lr()[0] == learning_rate_at(7, SCHEDULE)
    second.step()
    resumed.step()
    assert second.param_groups[0]["lr"] == learning_rate_at(8, SCHEDULE)
