"""A validator's own copy of the model, kept at the parameters before the window that is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from templar_pl.config import ScoringConfig
from templar_pl.protocol import EvaluationNote
from templar_pl.protocol.payload import Payload
from templar_pl.roles.patience import Patience
from templar_pl.roles.score_records import note_losses
from templar_pl.roles.sightings import Sighting
from templar_pl.scoring import Draw, Evaluation, Lineage
from templar_pl.training.evaluation import Model, evaluate_payloads
from templar_pl.training.evaluation_pages import draw_batches, windowed_dataset
from templar_pl.training.replica import Replica
from templar_pl.units import Uid, Window


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of evaluating some payloads of a window."""

    evaluations: tuple[Evaluation, ...]
    note: EvaluationNote | str
    """For the record; why there are none, if so."""


class Guide(Protocol):
    """Brings a model through the windows of a run; `CatchUp` is one."""

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        ...

    def follow(self, now: Callable[[], Window]) -> None:
        """Apply all windows before the one that `now` returns. Raises `OutOfSyncError` if that is impossible."""
        ...


class OwnCopy:
    """Follows the run behind the others, and tries payloads."""

    def __init__(
        self, replica: Replica, guide: Guide, loader: Iterable[Any], scoring: ScoringConfig, patience: Patience
    ) -> None:
        """Store the parts.

        Args:
            replica: the model.
            guide: brings it to a window.
            loader: of training, which knows windows.
            scoring: how payloads are tried.
            patience: asked between two tensors whether to go on.

        Raises:
            ConfigError: the loader knows no windows.
        """
        windowed_dataset(loader)
        self._replica, self._guide, self._loader = replica, guide, loader
        self._scoring, self._patience = scoring, patience

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        return self._guide.window

    def follow(self, window: Window, lineage: Lineage) -> Lineage:
        """Go to the parameters before a window, unless they lie behind; return what they were on the way.

        Raises:
            OutOfSyncError: it is impossible.
        """
        max_steps = self._scoring.sync_max_steps_behind
        first = max(self.window, window - math.ceil(min(max_steps, window)))
        for place in range(min(first, window), window + 1):
            self._guide.follow(lambda: Window(place))  # noqa: B023 - called at once
            if self.window == place:
                lineage = lineage.seen(Window(place), self._replica.fingerprint(), max_steps)
        return lineage

    def evaluate(self, sighting: Sighting, uids: Iterable[Uid], draw: Draw) -> Evaluated:
        """Try the payloads of some miners, each alone; the model is as before afterwards.

        Args:
            sighting: of the window that the model stands before.
            uids: whose payloads are tried; they count.
            draw: decides on what.

        Raises:
            ConfigError: the module or its data cannot be used for this.
        """
        chosen, rate = list(uids), self._replica.learning_rate * self._scoring.eval_lr_factor
        batches = draw_batches(self._loader, draw, sighting.window, chosen, self._scoring.validator_sample_rate)
        payloads = {uid: _Updates(self, sighting.payloads[uid].payload) for uid in chosen}
        model = Model(self._replica.module, self._replica.parameters, self._replica.module.device)
        found = evaluate_payloads(model, payloads, batches, rate)
        if not found:
            return Evaluated((), "the loss of the own model is not finite")
        note = EvaluationNote(
            fingerprint=self._replica.fingerprint(),
            rate=rate,
            secret=draw.secret,
            random_pages=batches.random_pages,
            losses=note_losses(found),
        )
        return Evaluated(tuple(found), note)

    def updates(self, payload: Payload) -> Iterator[tuple[str, Tensor]]:
        """Make the update of one payload tensor by tensor."""
        for part in self._replica.codec.updates([payload.chunks]):
            self._patience.check_interrupt()
            yield part


@dataclass(frozen=True, slots=True)
class _Updates:
    """Makes the update of a payload when it is called."""

    copy: OwnCopy
    payload: Payload

    def __call__(self) -> Iterator[tuple[str, Tensor]]:
        return self.copy.updates(self.payload)
