"""The optimizer step and the learning rate of a window, with every rounding in a known place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.lr_scheduler import LRScheduler

from templar_pl.config import ScheduleConfig
from templar_pl.protocol.schedule import learning_rate_at


class DecoupledSGD(torch.optim.SGD):
    """SGD without momentum, and weight decay as a rounded product of its own.

    For fp32 parameters p, in this order: p <- fl(p * f), where f = fp32(1 - lr * weight_decay), left out when the decay
    is 0; then p <- fl(p - lr * grad). When the gradient is a sign, lr * grad is exact, so the second line rounds once
    with or without fused multiply-add, and every node gets the same bits.
    """

    def __init__(self, params: Iterable[Parameter], lr: float, *, weight_decay: float = 0.0) -> None:
        """Make the optimizer.

        Args:
            params: what to train.
            lr: step of every parameter, at least 0; an fp32 value, if nodes are to agree.
            weight_decay: share of lr * p that each step takes off, at least 0.
        """
        super().__init__(params, lr=lr, momentum=0.0, weight_decay=weight_decay)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Run the closure, which computes the gradients, then take the step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            factor = decay_factor(group["lr"], group["weight_decay"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _step_(parameter, factor, group["lr"])
        return loss


def decay_factor(lr: float, weight_decay: float) -> float:
    """Return 1 - lr * weight_decay, computed in fp64 and rounded to fp32."""
    return float(np.float32(1.0 - lr * weight_decay))


def _step_(parameter: Tensor, factor: float, lr: float) -> None:
    """Apply one step to a parameter that has a gradient."""
    if factor != 1.0:
        parameter.mul_(factor)
    parameter.add_(parameter.grad, alpha=-lr)  # type: ignore[arg-type]  # the caller checked it


class WindowSchedule(LRScheduler):
    """Sets the learning rate from the number of applied windows; step it once a window, applied or missed.

    `last_epoch` is that number. The rate is set, not multiplied up, so that a resumed run rounds nothing again.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: ScheduleConfig) -> None:
        """Set the rate of the first window.

        Args:
            optimizer: all of its groups get the same rate.
            config: the schedule.
        """
        self._config = config
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group for the window that follows `last_epoch` applied ones."""
        return [learning_rate_at(self.last_epoch, self._config)] * len(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of applied windows; everything else follows from the settings."""
        return {"windows_applied": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the number of applied windows and set its rate."""
        self.last_epoch = state_dict["windows_applied"] - 1
        self._update_lr()
