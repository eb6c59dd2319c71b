"""What every node does with an update: whose it is, how it is stepped, by which arithmetic it is computed.

The strategy and the replica (`replica.py`) call the same functions, so that who trains and who only follows reach the
same parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from templar_pl.compression import check_exact_arithmetic
from templar_pl.errors import ConfigError

log = logging.getLogger(__name__)

STEP_NUMEL = 2**18
"""Elements of an update that are stepped together: a step of each small tensor would look at all others each time."""

_SEPARABLE = ("torch.optim.", "templar_pl.training.optimizer")


def trained_parameters(module: LightningModule, optimizer: Optimizer) -> dict[str, Parameter]:
    """Return what is trained and exchanged, in wire order; a parameter of several names has the first of them."""
    trained = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    return {name: parameter for name, parameter in module.named_parameters() if parameter in trained}


def apply_update_(
    optimizer: Optimizer, parameters: Mapping[str, Parameter], update: Iterable[tuple[str, Tensor]]
) -> None:
    """Step the optimizer with an update in the place of the gradient, bit for bit as a node that trained does.

    Optimizers of torch, and those that only inherit their step, treat each parameter on its own: they are stepped as
    the tensors come, with STEP_NUMEL elements and one tensor in memory. Any other one may look at all gradients
    together, so it is stepped once, with all of the update in memory. Afterwards there are no gradients.

    Args:
        optimizer: of the parameters.
        parameters: by name.
        update: name and update of each parameter, once each, in any order, on any device. What it raises goes through;
            some of the parameters may have been stepped by then.

    Raises:
        ValueError: a parameter is missing, unknown or comes twice. Some may have been stepped by then.
    """
    at_once = STEP_NUMEL if is_separable(optimizer) else None
    optimizer.zero_grad()
    left, numel = set(parameters), 0
    for name, tensor in update:
        if name not in left:
            raise ValueError(f"an update has each parameter of the model once, {name!r} is none or came before")
        left.remove(name)
        parameter = parameters[name]
        parameter.grad = tensor.to(parameter.device, parameter.dtype)
        del tensor  # or it would be here while the next one is made
        numel += parameter.numel()
        if at_once is not None and numel >= at_once:
            optimizer.step()
            optimizer.zero_grad()
            numel = 0
    if left:
        raise ValueError(f"an update has each parameter of the model, missing are {sorted(left)[:8]}")
    optimizer.step()
    optimizer.zero_grad()


def is_separable(optimizer: Optimizer) -> bool:
    """Tell whether each parameter's step depends on its own gradient alone, as far as the class of the optimizer tells.

    All of torch's do, but LBFGS, which no run takes.
    """
    return type(optimizer).step.__module__.startswith(_SEPARABLE)


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype whose matrix products are exact on a device: fp32, or fp64 with a warning where fp32 rounds.

    Raises:
        ConfigError: neither is exact, so that this node would leave the others.
    """
    try:
        check_exact_arithmetic(device)
    except ConfigError as error:
        log.warning("%s; computing updates in float64, which is slower", error)
        check_exact_arithmetic(device, dtype=torch.float64)
        return torch.float64
    return torch.float32
