"""What `configure_optimizers` of a module returned, read without a trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from templar_pl.errors import ConfigError
from templar_pl.training.refusals import refuse_optimizers, refuse_schedule

_FORMATS = (
    "an optimizer, a list of one, a dict with `optimizer` and perhaps `lr_scheduler`, or a pair of the list of "
    "optimizers and the list of schedulers"
)


@dataclass(frozen=True, slots=True)
class Configured:
    """What steps a module."""

    optimizer: Optimizer
    schedules: tuple[LRScheduler, ...]
    """Stepped once a window."""


def configure(module: LightningModule) -> Configured:
    """Ask a module how it is optimized, in any format that Lightning documents for `configure_optimizers`.

    Args:
        module: on its device, set up.

    Raises:
        ConfigError: it is none of these formats, or of what no run takes: several optimizers, LBFGS, manual
            optimization, schedules that need a metric; or the module asks its trainer, of which there is none.
    """
    try:
        answer: Any = module.configure_optimizers()
    except RuntimeError as error:
        raise ConfigError(
            f"configure_optimizers of {type(module).__name__} must work without a trainer, it says: {error}"
        ) from error
    optimizers, schedulers = _parts(answer)
    refuse_optimizers(module, optimizers)
    return Configured(optimizers[0], tuple(map(_schedule, schedulers)))


def _parts(answer: object) -> tuple[list[Optimizer], list[object]]:
    """Return the optimizers and the schedulers. Raises `ConfigError` for another format."""
    optimizers: list[Any]
    if isinstance(answer, Mapping):
        optimizers = [answer.get("optimizer")]
        schedulers = [answer["lr_scheduler"]] if "lr_scheduler" in answer else []
    elif _is_pair(answer):
        optimizers, found = answer  # type: ignore[misc]  # that is what a pair is
        schedulers = list(found) if isinstance(found, Sequence) else [found]
    elif isinstance(answer, Sequence) and all(isinstance(part, Mapping) for part in answer):
        parts = [_parts(part) for part in answer]
        optimizers, schedulers = [o for some, _ in parts for o in some], [s for _, some in parts for s in some]
    else:
        optimizers, schedulers = list(answer) if isinstance(answer, Sequence) else [answer], []
    if not all(isinstance(optimizer, Optimizer) for optimizer in optimizers):
        raise ConfigError(f"configure_optimizers must return {_FORMATS}, got {type(answer).__name__}")
    return optimizers, schedulers


def _is_pair(answer: object) -> bool:
    """Whether an answer is two lists, of optimizers and of schedulers; the second may be one scheduler."""
    if not isinstance(answer, Sequence) or len(answer) != 2 or not isinstance(answer[0], list):
        return False
    return all(isinstance(optimizer, Optimizer) for optimizer in answer[0])


def _schedule(given: object) -> LRScheduler:
    """Return the schedule of a scheduler or of the dict around one. Raises `ConfigError` if no run takes it."""
    around = given if isinstance(given, Mapping) else {"scheduler": given}
    schedule = around.get("scheduler")
    refuse_schedule(
        needs_metric=bool(around.get("reduce_on_plateau")) or isinstance(schedule, ReduceLROnPlateau),
        frequency=around.get("frequency", 1),
    )
    if not isinstance(schedule, LRScheduler):
        raise ConfigError(f"a scheduler must be one of torch.optim.lr_scheduler, got {type(schedule).__name__}")
    return schedule
