"""Whether the compiled library is there and computes what torch computes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from templar_pl.compression.body import Body, encode_body, read_body
from templar_pl.compression.grid import ChunkGrid, chunk_grid
from templar_pl.compression.native_codec import NativeEngine, check_body
from templar_pl.compression.native_library import NativeError, load_library
from templar_pl.compression.slab import momentum_of, new_slabs
from templar_pl.compression.torch_codec import TorchEngine
from templar_pl.config import CompressionConfig

Backend = Literal["auto", "native", "torch"]

_TRIAL_SHAPES: dict[str, tuple[int, ...]] = {"matrix": (70, 128), "narrow": (5, 9), "vector": (70,)}
_TRIAL_LR = 2.0
_CPU = torch.device("cpu")
_COMBINE: tuple[Literal["mean", "sum"], ...] = ("mean", "sum")
_EQUALISE: tuple[Literal["norm", "clip", "none"], ...] = ("norm", "clip", "none")


@functools.cache
def native_fault() -> str:
    """Return why the compiled library cannot be used on this machine; empty if it can.

    The first call runs a small trial: a library that was built for another machine, or by a compiler that broke the
    arithmetic, must not decide what this node applies.
    """
    try:
        load_library()
        return _trial_fault()
    except NativeError as error:
        return str(error)


def missing_option(config: CompressionConfig) -> str:
    """Return the setting that the compiled library does not know, as `name: value`; empty if it knows all."""
    if config.transform != "dct":
        return f"transform: {config.transform}"
    return _missing_bits(config.value_bits)


def missing_form(grids: Mapping[str, ChunkGrid]) -> str:
    """Return what of the form of such payloads the compiled library does not know; empty if it knows all."""
    return next(filter(None, (_missing_bits(grid.value_bits) for grid in grids.values())), "")


def _missing_bits(value_bits: int) -> str:
    return f"value_bits: {value_bits}" if value_bits != 1 else ""


def is_native(backend: Backend, device: torch.device, dtype: torch.dtype, *, missing: str = "") -> bool:
    """Return whether the compiled library computes.

    Args:
        backend: what was asked for.
        device: where to compute.
        dtype: of the matrix products.
        missing: a setting that the library does not know, if there is one.

    Raises:
        ValueError: native was asked for where it cannot work, or the backend is unknown.
        NativeError: native was asked for and the library is not there or wrong.
    """
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f"backend must be auto, native or torch, got {backend!r}")
    if backend == "torch":
        return False
    can_work = device.type == "cpu" and dtype == torch.float32 and not missing
    if backend == "auto":
        return can_work and not native_fault()
    if missing:
        raise ValueError(f"the native backend does not know `{missing}`: use the backend torch or auto")
    if not can_work:
        raise ValueError(f"the native backend works on the CPU in torch.float32, not on {device} in {dtype}")
    if fault := native_fault():
        raise NativeError(fault)
    return True


def decode_body(
    data: bytes | bytearray | memoryview, grids: Mapping[str, ChunkGrid], *, backend: Backend = "auto"
) -> Body:
    """Check a body of any content.

    Args:
        data: the bytes.
        grids: the chunks of each parameter.
        backend: `native` checks and decodes nothing; `torch` decodes all at once.

    Raises:
        SectionError: the bytes are none that `encode_body` writes; the message names the parameter and the chunk.
        ValueError: native was asked for and does not know this form of payloads.
    """
    is_checked = is_native(backend, torch.device("cpu"), torch.float32, missing=missing_form(grids))
    return (check_body if is_checked else read_body)(data, grids)


def _trial_fault() -> str:
    """Return in what the library differs from torch on a small model; empty if in nothing."""
    config = CompressionConfig()
    grids = {name: chunk_grid(shape, chunk_size=64, topk=32) for name, shape in _TRIAL_SHAPES.items()}
    slabs = [new_slabs(grids, _CPU) for _ in range(2)]
    fast, slow = (momentum_of(of_engine) for of_engine in slabs)
    native = NativeEngine(grids, fast, config)
    torch_engine = TorchEngine(grids, slabs[1], config, device=_CPU, product_dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)  # own generator: the global one is not touched
    bodies: list[Body] = []
    for _ in range(3):
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in _TRIAL_SHAPES.items()}
        lr = dict.fromkeys(gradients, _TRIAL_LR)
        native.accumulate_(gradients, lr)
        torch_engine.accumulate_(gradients, lr)
        if not all(torch.allclose(fast[name], slow[name], rtol=0, atol=1e-4) for name in grids):
            return "its momentum is not that of torch: built for another machine?"
        for name in grids:
            fast[name].copy_(slow[name])  # from the same momentum both send the same
        bodies.append(native.compress_())
        if bodies[-1].data != encode_body(torch_engine.compress_(), grids).data:
            return "it sends other bytes than torch: built for another machine?"
    return _trial_update_fault(bodies, grids)


def _trial_update_fault(bodies: Sequence[Body], grids: Mapping[str, ChunkGrid]) -> str:
    """Return by which rules the library makes another update than torch of payloads; empty if by none."""
    for combine, equalise in itertools.product(_COMBINE, _EQUALISE):
        config = CompressionConfig(combine=combine, equalise=equalise)
        updates = [{name: torch.empty(grid.shape) for name, grid in grids.items()} for _ in range(2)]
        NativeEngine(grids, {}, config).update([check_body(body.data, grids) for body in bodies], updates[0])
        TorchEngine(grids, [], config, device=_CPU, product_dtype=torch.float64).update(bodies, updates[1])
        if not all(torch.equal(updates[0][name], updates[1][name]) for name in grids):
            return f"its update by {combine} and {equalise} is not that of torch: built for another machine?"
    return ""
