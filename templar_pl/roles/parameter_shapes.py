"""The names and shapes of a model's parameters, read from numbers or from a file, without its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from templar_pl.config import LlamaConfig, ScheduleConfig
from templar_pl.errors import ConfigError
from templar_pl.training import LlamaModule

Shapes = dict[str, tuple[int, ...]]

_FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them


def llama_shapes(llama: LlamaConfig) -> Shapes:
    """Return the parameters of the Llama that `fit` trains, in the order of the model; allocates no weights."""
    with torch.device("meta"):
        module = LlamaModule(llama, ScheduleConfig())
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def file_shapes(path: Path) -> Shapes:
    """Return the parameters of a checkpoint; no weights are read and no code in it is run.

    Args:
        path: a checkpoint of `fit` (.ckpt), of which those count that were exchanged, or a .safetensors file, of
            which all floating-point tensors count.

    Raises:
        ConfigError: the file is another one or holds no parameters.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    shapes = _safetensors_shapes(path) if path.suffix == ".safetensors" else _checkpoint_shapes(path)
    if not any(map(math.prod, shapes.values())):
        raise ConfigError(f"{path} holds no parameters")
    return shapes


def _safetensors_shapes(path: Path) -> Shapes:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return {name: tuple(s.get_shape()) for name, s in slices.items() if s.get_dtype() in _FLOATS}
    except SafetensorError as error:
        raise ConfigError(f"{path} is no safetensors file: {error}") from error


def _checkpoint_shapes(path: Path) -> Shapes:
    try:
        # Tensors on `meta` of a mapped file: gigabytes of weights and momentum stay on the disk.
        checkpoint = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except UnpicklingError as error:
        raise ConfigError(f"{path} holds more than tensors and plain values, which are not loaded") from error
    except (RuntimeError, EOFError, LookupError, ValueError) as error:
        raise ConfigError(f"{path} is no checkpoint, or not a whole one") from error
    exchanged = _momentum_of(checkpoint)
    if exchanged is None:
        raise ConfigError(f"{path} holds no momentum: it was not trained with TemplarStrategy")
    weights = checkpoint["state_dict"]
    return {name: tuple(weights[name].shape) for name in exchanged}


def _momentum_of(checkpoint: Any) -> Mapping[str, Any] | None:
    """Return name -> momentum of what is exchanged; None if the file has none."""
    states = checkpoint.get("optimizer_states", ()) if isinstance(checkpoint, dict) else ()
    found = [state["templar"] for state in states if "templar" in state]
    return found[0]["momentum"]["momentum"] if found else None
