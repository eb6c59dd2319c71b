"""A validator's own copy of the model, kept at the parameters before the window that is judged."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from templar_pl.config import ScoringConfig
from templar_pl.errors import OutOfSyncError
from templar_pl.protocol import EvaluationNote
from templar_pl.protocol.payload import Payload
from templar_pl.roles.score_records import note_losses
from templar_pl.roles.sightings import Sighting
from templar_pl.scoring import Draw, Evaluation, Lineage
from templar_pl.training.evaluation import Model, evaluate_payloads
from templar_pl.training.evaluation_pages import draw_batches, windowed_dataset
from templar_pl.training.patience import Patience
from templar_pl.training.replica import Replica
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of evaluating some payloads of a window."""

    evaluations: tuple[Evaluation, ...]
    note: EvaluationNote | str
    """For the record; why there are none, if so."""


class Guide(Protocol):
    """Brings a model through the windows of a run; `CopyGuide` is one."""

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        ...

    def follow(self, now: Callable[[], Window]) -> None:
        """Apply all windows before the one that `now` returns. Raises `OutOfSyncError` if that is impossible."""
        ...

    def said_before(self, window: Window) -> bytes | None:
        """Return the fingerprint before a window by the manifests that are followed; None if none says it."""
        ...

    def recover(self, until: Window, *, is_vain: bool) -> str:
        """Go to a checkpoint; see `CopyGuide.recover`."""
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
        self.lost = ""
        """Why the parameters are not those of the miners; empty if nothing says so."""

        self.times_lost = 0
        """In this life."""

        self._is_vain = False  # whether the checkpoint that was loaded last led to wrong parameters
        # Whether a miner had the same parameters since a checkpoint was loaded last; the first ones are everybody's.
        self._is_proven = replica.applied == 0

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        return self._guide.window

    @property
    def is_proven(self) -> bool:
        """Whether the parameters may be published: not lost, and met by a miner since a checkpoint was loaded last."""
        return self._is_proven and not self.lost

    def follow(self, window: Window, lineage: Lineage) -> Lineage:
        """Go to the parameters before a window, unless they lie behind; return what they were on the way.

        A copy that is lost starts from a checkpoint first, if there is one; where that leads nowhere it stays lost.

        Raises:
            OutOfSyncError: it is impossible, for a copy that was not lost.
        """
        if not (lost := self.lost):
            return self._follow(window, lineage)
        try:
            self._recover(window)
            return self._follow(window, lineage)
        except OutOfSyncError as error:
            self.lost = lost
            log.warning("window %d: the own copy stays lost, asking again with the next window: %s", window, error)
            return lineage

    def _follow(self, window: Window, lineage: Lineage) -> Lineage:
        max_steps = self._scoring.sync_max_steps_behind
        first = max(self.window, window - math.ceil(min(max_steps, window)))
        for place in range(min(first, window), window + 1):
            self._guide.follow(lambda: Window(place))  # noqa: B023 - called at once
            if self.window == place:
                lineage = lineage.seen(Window(place), self._replica.fingerprint(), max_steps)
        return lineage

    def compare(self, sighting: Sighting, lineage: Lineage) -> str:
        """Hold the own parameters before a window against those that its payloads name, as miners do.

        Args:
            sighting: of the window.
            lineage: as `follow` returned it for the window.

        Returns:
            Why nothing is to be judged by the own parameters; empty if there is no reason.
        """
        window, own = sighting.window, lineage.prints.get(sighting.window)
        named = {uid: fetched.payload.header.fingerprint for uid, fetched in sighting.payloads.items()}
        others = lineage.contradicted_by(window, named)
        if own is not None and (own in named.values() or (others and self._guide.said_before(window) == own)):
            self._is_proven, self.lost = True, ""
        elif others:
            self._lose(window, others)
        return self.lost

    def _lose(self, window: Window, others: tuple[Uid, ...]) -> None:
        if not self.lost:
            self.times_lost += 1
            self._is_vain = not self._is_proven
        self.lost = f"{len(others)} miners agree on other parameters than those of the own copy"
        log.warning(
            "window %d: uids %s agree on other parameters than those of the own copy, and nobody has its own: nothing "
            "is judged by it until it is with them again (lost %d times so far)",
            window,
            ", ".join(map(str, others)),
            self.times_lost,
        )

    def _recover(self, window: Window) -> None:
        """Start from a checkpoint; one from which no miner was ever met is not taken again."""
        why = self._guide.recover(window, is_vain=self._is_vain)
        if why:
            log.warning("window %d: the own copy stays lost, asking again with the next window: %s", window, why)
            return
        log.warning(
            "window %d: the own copy was lost, and starts from the checkpoint of window %d", window, self.window
        )
        self._is_proven, self._is_vain, self.lost = False, False, ""

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
        mine = self._replica
        model = Model(mine.module, mine.parameters, mine.module.device, mine.precision)
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
            del part  # or it would be here while the next one is made


@dataclass(frozen=True, slots=True)
class _Updates:
    """Makes the update of a payload when it is called."""

    copy: OwnCopy
    payload: Payload

    def __call__(self) -> Iterator[tuple[str, Tensor]]:
        return self.copy.updates(self.payload)
