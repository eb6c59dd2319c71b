"""Try updates on a model, and take them back to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter


class ReversibleModel:
    """A model that updates are tried on, one instead of the other, and that is as before at the end.

    Within `with` it holds one copy of the parameters and of the buffers. At the end all of these are as they were, to
    the bit, and so are modes and attributes of every submodule, whatever happened meanwhile. What a step appends to a
    list of its own, or writes elsewhere, stays.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, Parameter]) -> None:
        """Store the parts; nothing is copied before `with`.

        Args:
            module: the model.
            parameters: those of it that updates change; names of tied ones may stand for the same tensor.
        """
        self._module, self._parameters = module, dict(parameters)
        self._backup: dict[str, Tensor] = {}
        self._aside: _Aside | None = None

    def __enter__(self) -> ReversibleModel:
        """Copy parameters and buffers."""
        self._aside = _Aside(self._module)
        self._backup = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        return self

    def __exit__(self, *raised: object) -> None:
        """Put everything back and let go of the copies."""
        self.undo_()
        self.settle_()
        self._backup, self._aside = {}, None

    @torch.no_grad()
    def apply_(self, update: Iterable[tuple[str, Tensor]], rate: float) -> None:
        """Set the parameters to what they were in the beginning, less rate * update.

        Args:
            update: (name, tensor in the shape of the parameter); one at a time is held. What it does not name is as in
                the beginning.
            rate: finite.

        Raises:
            ValueError: a name is not one of the parameters.
            RuntimeError: outside of `with`.
        """
        self._refuse_outside()
        as_before = dict(self._backup)
        for name, direction in update:
            if name not in self._backup:
                raise ValueError(f"an update must be of the parameters of this model, got {name!r}")
            parameter = self._parameters[name]
            parameter.copy_(self._backup[name])
            parameter.add_(direction.to(parameter.device, parameter.dtype), alpha=-rate)
            del direction  # or it would be here while the next one is made
            as_before.pop(name, None)
        for name, before in as_before.items():
            self._parameters[name].copy_(before)

    @torch.no_grad()
    def undo_(self) -> None:
        """Set the parameters to what they were in the beginning. Raises `RuntimeError` outside of `with`."""
        self._refuse_outside()
        for name, before in self._backup.items():
            self._parameters[name].copy_(before)

    def settle_(self) -> None:
        """Set all but the parameters to what it was in the beginning. Raises `RuntimeError` outside of `with`."""
        self._refuse_outside().put_back_()

    def _refuse_outside(self) -> _Aside:
        if self._aside is None:
            raise RuntimeError("updates can be tried within `with` only")
        return self._aside


class _Aside:
    """What a step may change in a module beside its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = {part: dict(vars(part)) for part in module.modules()}
        self._buffers = [
            (part, name, buffer, buffer.detach().clone())
            for part in module.modules()
            for name, buffer in part.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def put_back_(self) -> None:
        for part, attributes in self._attributes.items():
            now = vars(part)
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update(attributes)
        for part, name, buffer, before in self._buffers:
            buffer.copy_(before)
            setattr(part, name, buffer)  # a step may have put another tensor in its place


@contextmanager
def isolated_random(seed: int) -> Iterator[None]:
    """Seed the random numbers of Python, numpy and torch; afterwards they go on as if nothing had happened.

    Args:
        seed: 0..2**63 - 1.
    """
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)
