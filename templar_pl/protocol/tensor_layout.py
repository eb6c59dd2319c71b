"""The head of a safetensors file, in the one form that is written and read here.

A file is the length of the head (u64, little-endian), the head (JSON, spaces behind it up to a multiple of 8 bytes) and
the tensors without gaps. Here the tensors stand by falling size of their elements, then by name, so that each is
aligned, and the JSON has no spaces and no metadata. So the head follows from names, dtypes and shapes alone: a file
whose head differs in a byte from the one written for what it says is refused. Any reader of the format reads them.

Source:
    https://huggingface.co/docs/safetensors (format of version 0.8).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from templar_pl.errors import CheckpointError, Fault

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""Numbers whose every bit pattern is one of them. Truth values are none: a byte of 2 is neither true nor false."""

LENGTH_BYTES = 8
MAX_DIMENSIONS = 16
MAX_BYTES = 2**53 - 1

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"  # the format keeps this name for itself


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What is known of a tensor without its elements. Raises `ValueError` for what cannot be stored."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in _NAMES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype}")
        if len(self.shape) > MAX_DIMENSIONS or any(not 0 <= size <= MAX_BYTES for size in self.shape):
            raise ValueError(f"a shape must have at most {MAX_DIMENSIONS} sizes of 0..{MAX_BYTES}")

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.numel * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{_NAMES[self.dtype]} {list(self.shape)}"


Layout = dict[str, TensorForm]
"""The tensors of a file by name, in the order in which they stand there."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a file of these tensors. Raises `ValueError` with the name of one that cannot be stored."""
    forms = {}
    for name, tensor in tensors.items():
        try:
            forms[name] = TensorForm(tensor.dtype, tuple(tensor.shape))
        except ValueError as error:
            raise ValueError(f"{name} cannot be stored: {error}") from error
    return _ordered(forms)


def encode_header(layout: Layout) -> bytes:
    """Return the bytes before the first tensor, of which there are a multiple of 8.

    Raises:
        ValueError: a name is not Unicode or `__metadata__`, or there are more than MAX_BYTES bytes.
    """
    entries, place = {}, 0
    for name, form in layout.items():
        if name == _METADATA:
            raise ValueError(f"a tensor cannot be called {_METADATA}")
        end = place + form.nbytes
        entries[name] = {"dtype": _NAMES[form.dtype], "shape": list(form.shape), "data_offsets": [place, end]}
        place = end
    if place > MAX_BYTES:
        raise ValueError(f"a file of tensors has at most {MAX_BYTES} bytes")
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return struct.pack("<Q", len(text)) + text


def decode_header(data: bytes) -> Layout:
    """Undo `encode_header`.

    Args:
        data: bytes of any content; the caller bounds their number.

    Raises:
        CheckpointError: the bytes are none that `encode_header` returns for an ordered layout. The fault is FORMAT.
    """
    try:
        layout = _ordered(_forms(json.loads(data[LENGTH_BYTES:].decode())))
        if encode_header(layout) != data:
            raise ValueError("it is not in its only form: tensors in order without gaps, no metadata, no spaces")
    except RecursionError:
        raise CheckpointError("the head of the file is nested too deep", fault=Fault.FORMAT) from None
    except ValueError as error:
        raise CheckpointError(f"the head of the file is wrong: {str(error)[:300]}", fault=Fault.FORMAT) from error
    return layout


def file_bytes(layout: Layout) -> int:
    """Return the bytes of a file of this layout. Raises `ValueError` as `encode_header`."""
    return len(encode_header(layout)) + sum(form.nbytes for form in layout.values())


def difference(found: Layout, expected: Layout) -> str:
    """Say the first thing in which two layouts differ; empty if they do not."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            return f"{name[:200]} is missing"
        if name not in expected:
            return f"{name[:200]} is not known"
        if found[name] != expected[name]:
            return f"{name[:200]} is {found[name]}, must be {expected[name]}"
    return ""


def _ordered(forms: Mapping[str, TensorForm]) -> Layout:
    return {name: forms[name] for name in sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))}


def _forms(entries: object) -> dict[str, TensorForm]:
    """Return what a head says of each tensor but its place. Raises `ValueError`."""
    if not isinstance(entries, dict):
        raise ValueError("it must be a map")
    return {name: _form(entry) for name, entry in entries.items()}


def _form(entry: object) -> TensorForm:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("a tensor must have the fields dtype, shape and data_offsets, and no others")
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise ValueError("a shape must be a list of whole numbers")
    return TensorForm(DTYPES[dtype], tuple(shape))
