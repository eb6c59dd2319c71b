"""What one payload does to the loss: before and after it is applied alone, by the module's own training step."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn import Parameter

from templar_pl.errors import ConfigError
from templar_pl.scoring import Evaluation, Losses
from templar_pl.training.evaluation_pages import EvaluationBatches
from templar_pl.training.reversible import ReversibleModel, isolated_random
from templar_pl.units import Uid

log = logging.getLogger(__name__)

Updates = Callable[[], Iterable[tuple[str, Tensor]]]
"""Makes the update of one payload, (name of a parameter, its signs), one tensor after the other."""


@dataclass(frozen=True, slots=True)
class Model:
    """What payloads are tried on."""

    module: LightningModule
    """With a `training_step` that returns a loss; it has no trainer."""

    parameters: Mapping[str, Parameter]
    """What payloads change."""

    device: torch.device
    """Where the module is."""

    precision: Precision = field(default_factory=Precision)
    """With which steps are computed; that of the parameters, if nothing else is said."""


def evaluate_payloads(
    model: Model, payloads: Mapping[Uid, Updates], batches: EvaluationBatches, rate: float
) -> list[Evaluation]:
    """Measure what each payload does to the loss on its miner's own pages and on random ones.

    The module is as before at the end, to the bit, whatever rises. Memory: one copy of the parameters and one tensor of
    an update.

    Args:
        model: at the parameters before the window.
        payloads: of the miners that are evaluated.
        batches: of the same miners.
        rate: by which the signs of an update are multiplied; finite.

    Returns:
        In uid order; without those for whom the loss was not finite before, which is logged.
    """
    with ReversibleModel(model.module, model.parameters) as reversible:

        def losses(chosen: Sequence[Any]) -> list[float | None]:
            reversible.settle_()
            return step_losses(model.module, chosen, model.device, batches.seed, model.precision)

        random_before = losses(batches.random)
        own_before = {uid: losses(batches.own[uid]) for uid in sorted(payloads)}
        found: list[Evaluation] = []
        for uid, before in own_before.items():
            if not (_is_finite(before) and _is_finite(random_before)):
                log.warning("uid %d is not evaluated: the loss of the own model is not finite on its batches", uid)
                continue
            reversible.apply_(payloads[uid](), rate)
            own = mean_losses(before, losses(batches.own[uid]))
            on_random = mean_losses(random_before, losses(batches.random))
            found.append(Evaluation(uid=uid, own=own, random=on_random))
    return found


def step_losses(
    module: LightningModule,
    batches: Sequence[Any],
    device: torch.device,
    seed: int,
    precision: Precision | None = None,
) -> list[float | None]:
    """Return the loss of each batch by `training_step`, in eval mode, without gradients; None where it gives none.

    Batches are converted and steps computed as a trainer of this precision does; None for that of the parameters.

    Random numbers are seeded alike in every call and go on afterwards as if there had been none. What `self.log` is
    given is dropped.

    Raises:
        ConfigError: the step returns something else than a loss.
    """
    precision = precision or Precision()
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    module.eval()
    found: list[float | None] = []
    with isolated_random(seed), torch.no_grad(), warnings.catch_warnings():
        # Without a trainer nobody takes what is logged, and Lightning says so each time.
        warnings.filterwarnings("ignore", message=r"You are trying to `self\.log\(\)`")
        for index, batch in enumerate(batches):
            moved = _moved(module, precision.convert_input(batch), device)
            with precision.train_step_context():
                output = module.training_step(moved, index) if takes_index else module.training_step(moved)
            found.append(_loss_of(module, output))
    return found


def mean_losses(before: Sequence[float | None], after: Sequence[float | None]) -> Losses:
    """Return the means over the batches that had a loss before; a loss that is missing afterwards counts as NaN."""
    pairs = [(first, math.nan if second is None else second) for first, second in zip(before, after, strict=True)
             if first is not None]  # fmt: skip
    count = len(pairs)
    # Not fsum: it raises where infinities of both signs meet.
    return Losses(sum(first for first, _ in pairs) / count, sum(second for _, second in pairs) / count)


def _is_finite(losses: Sequence[float | None]) -> bool:
    """Whether there are losses, all of them finite, so that a mean of them can be compared with."""
    known = [loss for loss in losses if loss is not None]
    return bool(known) and all(map(math.isfinite, known))


def _moved(module: LightningModule, batch: Any, device: torch.device) -> Any:
    """Return a batch as the module wants it, on its device."""
    batch = module.on_before_batch_transfer(batch, 0)
    batch = module.transfer_batch_to_device(batch, device, 0)
    return module.on_after_batch_transfer(batch, 0)


def _loss_of(module: LightningModule, output: Any) -> float | None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if loss is None and not isinstance(output, Mapping):
        return None
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ConfigError(
            f"training_step of {type(module).__name__} must return a loss, a map with one, or None, got "
            f"{type(output).__name__}: payloads cannot be scored by it"
        )
    return float(loss.detach())
