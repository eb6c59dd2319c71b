"""What the strategy must set right in Lightning's loops, which know epochs and steps but no windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.progress import _ProcessedTracker
from torch.nn import Parameter
from torch.optim import Optimizer

from templar_pl.errors import ConfigError


class ExchangeBeforeStep(LightningOptimizer):
    """The optimizer the precision plugin steps: closure (with hooks and clipping), then exchange, then step."""

    def __init__(self, optimizer: Optimizer, exchange: Callable[[Optimizer, Callable[[], Any]], None]) -> None:
        """Wrap an optimizer.

        Args:
            optimizer: what really steps.
            exchange: called with it and its step once hooks and clipping are done.
        """
        super().__init__(optimizer)
        self._exchange = exchange

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Run the closure, make the gradients the window's update, and step with them."""
        output = closure() if closure is not None else None
        self._exchange(self._optimizer, lambda: self._optimizer.step(**kwargs))
        return output


def set_epoch(trainer: Trainer, applied: int, *, is_over: bool) -> None:
    """Make the trainer's epoch and step the number of windows applied, those caught up included.

    Args:
        trainer: while it fits.
        applied: windows applied since the start of the run.
        is_over: whether no window follows. The empty epoch that is then under way is counted when it ends.
    """
    progress = cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current)
    has_started = progress.ready - progress.completed
    done = applied - has_started if is_over else applied
    progress.completed = progress.processed = done
    progress.ready = progress.started = done + has_started
    epoch_loop = trainer.fit_loop.epoch_loop
    epoch_loop._batches_that_stepped = applied
    epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = applied


def count_batches(loader: Any, limit: int | float) -> int | None:
    """Return how many batches a window has at most, None for no limit.

    Args:
        loader: what the user gave the trainer.
        limit: `limit_train_batches` of the trainer: batches, or a share of the loader.

    Raises:
        ConfigError: a share of a loader that does not know its length.
    """
    if isinstance(limit, int):
        return limit
    if limit == 1.0:
        return None
    try:
        return max(1, int(len(loader) * limit))
    except TypeError as error:
        raise ConfigError(
            f"limit_train_batches must be a number of batches, got the share {limit}, and the loader has no length"
        ) from error


@torch.no_grad()
def divide_gradients(parameters: Iterable[Parameter], batches: int) -> None:
    """Turn the sum of so many gradients into their mean."""
    for parameter in parameters:
        if parameter.grad is not None and batches > 1:
            parameter.grad.div_(batches)
