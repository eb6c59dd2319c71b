"""What all nodes of a run hold alike: parameters, and the state of the optimizer and of the schedules that step them.

All apply the same updates, so the state of any optimizer is common to them. Momentum in coefficient space and buffers
are each node's own and are no part of it. A tensor that the optimizer keeps for a parameter is called
`{parameter}/{key}`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from templar_pl.errors import CheckpointError, Fault
from templar_pl.protocol.document import JsonMap, JsonValue
from templar_pl.protocol.plain_state import from_json, to_json
from templar_pl.protocol.tensor_layout import Layout, TensorForm

STATES = 4
"""Tensors of its parameter's shape that an optimizer may keep at most; AdamW keeps 2, 3 with amsgrad."""

MAX_KEYS = 16
"""Tensors of any shape that an optimizer may keep for a parameter at most."""

_OF_THE_MACHINE = {"params", "foreach", "fused", "capturable", "differentiable"}
"""Settings of a group that choose how it is computed, which may differ from node to node."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FIELDS = {"optimizer", "groups", "members", "schedules"}


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model in use, from which a checkpoint is taken or into which one is loaded."""

    parameters: Mapping[str, Tensor]
    """What is trained and exchanged, by name; a tensor may have several names."""

    optimizer: Optimizer | None = None
    """What steps them; None for parameters alone."""

    schedules: Sequence[LRScheduler] = ()


def optimizer_tensors(state: ModelState) -> dict[str, Tensor]:
    """Return what the optimizer keeps for the parameters, by name; none without an optimizer.

    Raises:
        ValueError: it keeps something that cannot be stored, or for a tensor that is no parameter of `state`.
    """
    if state.optimizer is None:
        return {}
    names = _names(state)
    kept = {}
    for parameter, values in state.optimizer.state.items():
        if parameter not in names:
            raise ValueError("the optimizer keeps a state for a tensor that is not one of the exchanged parameters")
        for key, value in values.items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"the optimizer keeps {key} of {names[parameter]} as {type(value).__name__}, no tensor"
                )
            kept[f"{names[parameter]}/{key}"] = value
    return kept


def describe(state: ModelState) -> JsonMap | None:
    """Return what optimizer and schedules keep besides tensors; None without an optimizer.

    Raises:
        ValueError: they keep something that is no number or text.
    """
    if state.optimizer is None:
        return None
    return {
        "optimizer": type(state.optimizer).__name__,
        "groups": [to_json(_settings(group), f"groups[{i}]") for i, group in enumerate(state.optimizer.param_groups)],
        "members": _members(state),
        "schedules": [to_json(s.state_dict(), f"schedules[{i}]") for i, s in enumerate(state.schedules)],
    }


@dataclass(frozen=True, slots=True)
class ReadState:
    """What `describe` wrote, ready to be taken over."""

    groups: list[dict[str, Any]]
    schedules: list[dict[str, Any]]

    def take_over(self, state: ModelState) -> None:
        """Set groups and schedules; cannot fail for the state it was read for."""
        assert state.optimizer is not None
        for schedule, saved in zip(state.schedules, self.schedules, strict=True):
            schedule.load_state_dict(saved)
        for group, saved in zip(state.optimizer.param_groups, self.groups, strict=True):
            group.update(saved)


def read_description(state: ModelState, saved: JsonMap) -> ReadState:
    """Read what `describe` wrote for a state of the same make; nothing is changed.

    Raises:
        CheckpointError: it is of another optimizer, other groups or other schedules, or malformed; the fault is
            CONTENT.
    """
    assert state.optimizer is not None
    try:
        if saved.keys() != _FIELDS:
            raise ValueError(f"the state must have the fields {', '.join(sorted(_FIELDS))}")
        for name, mine in (("optimizer", type(state.optimizer).__name__), ("members", _members(state))):
            if saved[name] != mine:
                raise ValueError(f"{name} must be {mine!r} as in this node's settings, got {str(saved[name])[:80]!r}")
        groups = [_settings(group) for group in state.optimizer.param_groups]
        schedules = [schedule.state_dict() for schedule in state.schedules]
        return ReadState(
            _read_all(groups, saved["groups"], "groups"), _read_all(schedules, saved["schedules"], "schedules")
        )
    except ValueError as error:
        raise CheckpointError(f"the optimizer's state does not fit: {error}", fault=Fault.CONTENT) from error


def check_optimizer_layout(layout: Layout, state: ModelState) -> None:
    """Refuse tensors that no optimizer of this model keeps, before any is read.

    What the optimizer keeps already must be there with the same form. Where it keeps nothing yet, the name must be that
    of a parameter and a key, and the shape must be one number, or the parameter's with 1 in some places.

    Raises:
        CheckpointError: the fault is CONTENT.
    """
    live = optimizer_tensors(state)
    try:
        for name, form in layout.items():
            _check_form(name, form, state.parameters)
        _check_amount(layout, state.parameters)
        if live and layout:
            _check_same(layout, live)
    except ValueError as error:
        raise CheckpointError(f"the optimizer's tensors do not fit: {error}", fault=Fault.CONTENT) from error


def max_optimizer_bytes(parameters: Mapping[str, Tensor]) -> int:
    """Return how many bytes of tensors an optimizer may keep for these parameters."""
    return sum(STATES * p.numel() * max(4, p.element_size()) + MAX_KEYS * 8 for p in parameters.values())


def place_for(state: ModelState, name: str, form: TensorForm) -> Tensor:
    """Return the tensor of the optimizer that a stored one belongs into, made if there is none yet.

    Args:
        state: whose optimizer it is; its state is changed if it had no such tensor.
        name: of a tensor that `check_optimizer_layout` let pass.
        form: of the tensor.
    """
    assert state.optimizer is not None
    owner, _, key = name.rpartition("/")
    parameter = state.parameters[owner]
    values = state.optimizer.state[parameter]
    if key not in values:
        # As Optimizer.load_state_dict of torch 2.13: a step is counted on the CPU unless the device steps by itself.
        group = next(g for g in state.optimizer.param_groups if any(p is parameter for p in g["params"]))
        is_counter = key == "step" and not (group.get("capturable") or group.get("fused"))
        device = torch.device("cpu") if is_counter else parameter.device
        values[key] = torch.empty(form.shape, dtype=form.dtype, device=device)
    return values[key]


def _names(state: ModelState) -> dict[Tensor, str]:
    """Return the first name of each parameter."""
    names: dict[Tensor, str] = {}
    for name, parameter in state.parameters.items():
        names.setdefault(parameter, name)
    return names


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in _OF_THE_MACHINE}


def _members(state: ModelState) -> str:
    """Return a digest of which parameter is in which group at which place."""
    assert state.optimizer is not None
    names = _names(state)
    digest = hashlib.sha256()
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            name = names.get(parameter, "").encode()
            digest.update(len(name).to_bytes(4, "little") + name)
        digest.update(b"\xff" * 4)
    return digest.hexdigest()


def _read_all(live: list[dict[str, Any]], saved: JsonValue, where: str) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", from_json(live, saved, where))


def _check_form(name: str, form: TensorForm, parameters: Mapping[str, Tensor]) -> None:
    owner, _, key = name.rpartition("/")
    if owner not in parameters or not _KEY.fullmatch(key):
        raise ValueError(f"{name[:200]!r} is not the name of a parameter, a slash and a word")
    shape = tuple(parameters[owner].shape)
    if form.shape and (
        len(form.shape) != len(shape) or any(n not in (1, m) for n, m in zip(form.shape, shape, strict=True))
    ):
        raise ValueError(f"{name[:200]} is {form}, which does not go with a parameter of {list(shape)}")


def _check_amount(layout: Layout, parameters: Mapping[str, Tensor]) -> None:
    keys: dict[str, int] = {}
    amounts: dict[str, int] = {}
    for name, form in layout.items():
        owner = name.rpartition("/")[0]
        keys[owner], amounts[owner] = keys.get(owner, 0) + 1, amounts.get(owner, 0) + form.nbytes
    for owner, amount in amounts.items():
        parameter = parameters[owner]
        limit = max_optimizer_bytes({owner: parameter})
        if keys[owner] > MAX_KEYS or amount > limit:
            raise ValueError(
                f"{owner[:200]} has {keys[owner]} tensors of {amount} bytes, {MAX_KEYS} of {limit} are allowed"
            )


def _check_same(layout: Layout, live: Mapping[str, Tensor]) -> None:
    for name in _both(layout, live):
        if name not in layout or name not in live:
            raise ValueError(f"{name[:200]} is {'missing' if name in live else 'not kept by this optimizer'}")
        if (form := TensorForm(live[name].dtype, tuple(live[name].shape))) != layout[name]:
            raise ValueError(f"{name[:200]} is {layout[name]}, must be {form}")


def _both(layout: Layout, live: Mapping[str, Tensor]) -> Iterator[str]:
    yield from sorted(layout.keys() | live.keys())
