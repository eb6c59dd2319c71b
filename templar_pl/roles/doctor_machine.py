"""Checks of the machine: software, device, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from templar_pl.compression import missing_option, native_fault
from templar_pl.config import CompressionConfig
from templar_pl.roles.doctor_memory import Need
from templar_pl.roles.doctor_rows import Row, State
from templar_pl.training import exact_dtype
from templar_pl.training.report import format_bytes

_LIBRARIES = ("torch", "lightning", "transformers")
_SPARE = 1.25
"""Free space below so many times the need is worth a warning."""


def check_software() -> Iterator[Row]:
    """Say what runs."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    yield Row("software", State.OK, f"Python {platform.python_version()}, {libraries}")


def check_native(device: torch.device, compression: CompressionConfig) -> Iterator[Row]:
    """Say what computes compression: the same result either way."""
    name = "native compression"
    if device.type != "cpu":
        yield Row(name, State.OK, f"not used: torch computes on {device}")
    elif option := missing_option(compression):
        yield Row(name, State.OK, f"not used: it does not know `{option}`, torch computes")
    elif fault := native_fault():
        advice = "nothing must be done: torch gives the same result, slower. With a C compiler: python build_native.py"
        yield Row(name, State.WARNING, f"not there: {fault}", advice)
    else:
        yield Row(name, State.OK, "works as torch does")


def check_device(device: torch.device, precision: str) -> Iterator[Row]:
    """Say what trains, and whether that is a good choice."""
    name = "device and precision"
    has_gpu = torch.cuda.is_available()
    found = f"{_described(device)}, precision {precision}"
    if device.type == "cpu" and has_gpu:
        yield Row(name, State.WARNING, f"{found}: there is a GPU that is not used", "set --device cuda")
    elif device.type == "cpu" and precision == "bf16-mixed":
        advice = "set --trainer.precision 32-true"
        yield Row(name, State.WARNING, f"{found}: up to ten times slower than fp32 on most processors", advice)
    elif device.type == "cuda" and precision == "bf16-mixed" and not torch.cuda.is_bf16_supported(False):
        advice = "set --trainer.precision 32-true"
        yield Row(name, State.WARNING, f"{found}: this GPU has no bf16 of its own, so that it is slow", advice)
    else:
        yield Row(name, State.OK, found)


def check_arithmetic(device: torch.device) -> Iterator[Row]:
    """See that the update is exact on the device. Raises `ConfigError` if it is not."""
    name = "exact update"
    if exact_dtype(device) == torch.float32:
        yield Row(name, State.OK, f"fp32 is exact on {device}")
    else:
        advice = "nothing must be done; another device may be faster"
        yield Row(name, State.WARNING, f"fp32 rounds on {device}, float64 takes its place, slower", advice)


def check_memory(need: Need, device: torch.device, free: int | None) -> Iterator[Row]:
    """Compare what training takes with what is free.

    Args:
        need: what it takes.
        device: where.
        free: bytes; None if the system does not say.
    """
    parts = ", ".join(
        f"{part} {format_bytes(getattr(need, part))}"
        for part in ("parameters", "gradients", "momentum", "activations", "payloads")
    )
    wanted = f"some {format_bytes(need.memory)} to train ({parts})"
    if free is None:
        yield Row("memory", State.SKIPPED, f"the system does not say what is free on {device}; {wanted}")
        return
    advice = "lower pages.batch_size, set --model.gradient_checkpointing true, or take a machine with more memory"
    yield _compared("memory", need.memory, free, f"{wanted}, {format_bytes(free)} free on {device}", advice)


def check_disk(need: int, what: str, folder: Path, free: int) -> Iterator[Row]:
    """Compare what a run writes with what is free.

    Args:
        need: bytes still to be written.
        what: they are.
        folder: of the run; it need not be there.
        free: bytes on its disk.
    """
    there = existing(folder)
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        advice = "give this user the right to write there, or name another folder by --store.root"
        yield Row("disk", State.FAILED, f"{folder} cannot be made or written", advice)
        return
    found = f"{format_bytes(need)} to write for {what}, {format_bytes(free)} free at {folder}"
    yield _compared("disk", need, free, found, "free some space, or name another folder by --store.root")


def disk_free(folder: Path) -> int:
    """Return the bytes that are free where a folder is or would be made."""
    return shutil.disk_usage(existing(folder)).free


def existing(path: Path) -> Path:
    """Return the nearest folder above a path, or the path itself, that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _compared(name: str, need: int, free: int, found: str, advice: str) -> Row:
    if need > free:
        return Row(name, State.FAILED, found, advice)
    if _SPARE * need > free:
        return Row(name, State.WARNING, f"{found}: hardly enough", advice)
    return Row(name, State.OK, found)


def _described(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"
