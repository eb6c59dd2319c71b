"""The model of a fit as catching up sees it: stepped and loaded outside of training, in its place in the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from templar_pl.errors import CheckpointError, StoreError
from templar_pl.exchange.checkpoint_files import load_checkpoint
from templar_pl.protocol.checkpoint import Checkpoint
from templar_pl.protocol.model_state import ModelState
from templar_pl.training.applying import apply_update_


class FittedModel:
    """A model that a trainer fits, between two windows."""

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        optimizer: Callable[[], Optimizer],
        schedules: Callable[[], Sequence[LRScheduler]],
    ) -> None:
        """Store the parts.

        Args:
            parameters: what is trained and exchanged, in wire order.
            optimizer: returns what steps them.
            schedules: return what is stepped once a window.
        """
        self._parameters, self._optimizer, self._schedules = parameters, optimizer, schedules

    @property
    def state(self) -> ModelState:
        """The model as checkpoints hold it."""
        return ModelState(self._parameters, self._optimizer(), self._schedules())

    def apply(self, update: Iterable[tuple[str, Tensor]]) -> None:
        """Apply the update of a window this node did not train in, as if it had."""
        apply_update_(self._optimizer(), self._parameters, update)
        for schedule in self._schedules():
            schedule.step()


class Place(Protocol):
    """The place of a node in its run."""

    applied: int

    def leave(self) -> None:
        """Note that the parameters are about to change: until `arrive` they belong to no window."""
        ...

    def arrive(self, applied: int, *, is_loaded: bool) -> None:
        """Note that the parameters are those after so many windows: loaded, or one window on."""
        ...


class FollowingModel:
    """A `Target` of catching up: the model of a fit, and the place of its node."""

    def __init__(self, model: FittedModel, place: Place) -> None:
        """Store the parts."""
        self._model, self._place = model, place

    @property
    def applied(self) -> int:
        """See `Target.applied`."""
        return self._place.applied

    @property
    def state(self) -> ModelState:
        """See `Target.state`."""
        return self._model.state

    def apply(self, update: Iterable[tuple[str, Tensor]]) -> None:
        """See `Target.apply`."""
        self._place.leave()
        self._model.apply(update)
        self._place.arrive(self.applied + 1, is_loaded=False)

    def load(self, folder: Path, checkpoint: Checkpoint) -> None:
        """See `Target.load`."""
        self._place.leave()
        try:
            load_checkpoint(folder, checkpoint, self.state)
        except (CheckpointError, StoreError):
            self._place.arrive(self.applied, is_loaded=False)  # the model is as it was
            raise
        self._place.arrive(checkpoint.applied, is_loaded=True)
