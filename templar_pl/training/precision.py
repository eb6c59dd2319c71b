"""The precision that a trainer would train with, for models that have no trainer."""

from __future__ import annotations

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision

from templar_pl.training.refusals import refuse_precision


def precision_plugin(precision: str, device: torch.device) -> Precision:
    """Return what a trainer of this precision would choose: it says what parameters are and how steps are computed.

    Args:
        precision: as a trainer names it: `32-true`, `64-true` or `bf16-mixed`.
        device: where the model is.

    Raises:
        ConfigError: it is another one, with which nobody can take part.
    """
    refuse_precision(precision)
    if precision == "64-true":
        return DoublePrecision()
    if precision == "bf16-mixed":
        return MixedPrecision("bf16-mixed", device.type)
    return Precision()
