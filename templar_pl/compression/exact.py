"""The inverse DCT in integers: the same bits on every device, in any order of summation.

Floating-point transforms of different libraries disagree in the sign of values near zero. Here every operand is an
integer, and so small that fp32 holds every partial sum: 64 * 1023 * 256 = 16 760 832 < 2**24. So a plain fp32 matrix
product is exact whatever its order, with or without fused multiply-add.

Shapes: N = chunks of one parameter; A x B = one chunk; K = A * B.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from templar_pl.compression.dct import from_chunks
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.halves import multiply_matrices, transform_down_back
from templar_pl.compression.precision import full_precision
from templar_pl.compression.tables import BASIS_ONE, integer_basis
from templar_pl.config import MAX_CHUNK_SIZE
from templar_pl.errors import ConfigError

OPERAND_LIMIT = 1023
"""Largest integer that enters a product with a basis."""

ROOM = 3
"""Times as much memory as the coefficients take, that `inverse_dct_` needs."""

_MAX_SHIFT = 15  # 1023 * 2**15 > 2**24, the largest integer that is ever rescaled


@dataclass(frozen=True, slots=True)
class ExactUpdate:
    """What payloads add up to in one parameter, before an outer rule such as the sign."""

    integers: Tensor
    """(N, A, B) fp32 integers, at most 2**24 in magnitude."""

    eighths: Tensor
    """(N,) int32; log scale of the chunk: its values are integers * unit * 2**(eighths / 8)."""

    unit: float
    """Value of the integer 1 at log scale 0: what turns the integer bases into orthonormal ones."""


def rescale_(integers: Tensor, limit: int) -> Tensor:
    """Divide every chunk by the least power of two that brings it into -limit..limit; halves go to the even integer.

    Args:
        integers: (N, A, B) fp32 integers, at most 2**24 in magnitude.
        limit: OPERAND_LIMIT..2**24.

    Returns:
        (N,) int32 exponents 0.._MAX_SHIFT of the powers of two.
    """
    limits, factors = _rescaling(limit, integers.device)
    flat = integers.flatten(1)
    largest = torch.maximum(flat.amax(-1), -flat.amin(-1))  # two passes are faster than a copy of magnitudes and one
    shifts = torch.bucketize(largest, limits, out_int32=True)
    integers.mul_(factors[shifts, None, None]).round_()  # exact: a power of two
    return shifts


@functools.cache
def _rescaling(limit: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return limit * 2**t and 2**-t for all exponents t, but the last limit, fp32. Do not change them."""
    powers = [2.0**shift for shift in range(_MAX_SHIFT + 1)]
    limits = torch.tensor([limit * power for power in powers[:-1]], device=device)
    return limits, torch.tensor([1 / power for power in powers], device=device)


def inverse_dct_(room: Tensor, grid: ChunkGrid, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Transform the integer coefficients room[0] back in place, in integers; without a transform they are the result.

    No result is a negative zero: where one would come out hangs on the order of a sum.

    Args:
        room: (ROOM, N, K) fp32, contiguous; room[0] integers of at most 2**24 in magnitude; the rest is used.
        grid: the height, the width and the transform of the chunks.
        dtype: float32 or float64, of the matrix products; both give the same integers.

    Returns:
        (N,) int32 exponents of the powers of two that chunks were divided by.
    """
    if grid.transform == "none":
        room[0].add_(0.0)
        return torch.zeros(room.shape[1], dtype=torch.int32, device=room.device)
    values, across, other = (part.view(-1, grid.height, grid.width) for part in room)
    shifts = rescale_(values, OPERAND_LIMIT)
    _transform_across(values, integer_basis(grid.width, room.device, dtype), out=across)
    if grid.is_vector:
        torch.add(across, 0.0, out=values)
    else:
        shifts += rescale_(across, OPERAND_LIMIT)
        _transform_down(across, integer_basis(grid.height, room.device, dtype), other, out=values)
    return shifts


def _transform_across(operands: Tensor, basis: Tensor, *, out: Tensor) -> None:
    """Set out to the rows' transform of operands, (N, A, B) each."""
    if _is_for_numpy(out, basis):
        multiply_matrices(operands.numpy(), basis.numpy(), out=out.numpy())
        return
    with full_precision(out.device):
        out.copy_(operands.to(basis.dtype) @ basis)


def _transform_down(operands: Tensor, basis: Tensor, room: Tensor, *, out: Tensor) -> None:
    """Set out to the columns' transform of operands, (N, A, B) each, as is the room; without negative zeros."""
    if _is_for_numpy(out, basis):
        transform_down_back(operands.numpy(), basis.numpy(), room.numpy(), out=out.numpy())
        return
    with full_precision(out.device):
        out.copy_(basis.T @ operands.to(basis.dtype)).add_(0.0)


def _is_for_numpy(out: Tensor, basis: Tensor) -> bool:
    return out.device.type == "cpu" and basis.dtype == out.dtype


def unit_of(grid: ChunkGrid) -> float:
    """Return what the integer 1 of `inverse_dct_` is worth in the orthonormal inverse DCT of all coefficients."""
    if grid.transform == "none":
        return 1.0
    sides = [grid.width] if grid.is_vector else [grid.height, grid.width]
    unit = 1.0
    for side in sides:
        unit *= (2 / side) ** 0.5 / BASIS_ONE
    return unit


def sign_of(update: ExactUpdate, grid: ChunkGrid) -> Tensor:
    """Return -1, 0 or 1 for every element of the parameter, fp32 in the shape `grid.shape`; the sign of 0 is 0."""
    # Not torch.sign: it keeps the sign of -0.0, which depends on the order of a sum.
    signs = (update.integers > 0).to(torch.float32) - (update.integers < 0).to(torch.float32)
    return from_chunks(signs, grid)


def check_exact_arithmetic(device: torch.device, *, dtype: torch.dtype = torch.float32) -> None:
    """Compare matrix products of the update on a device with 64-bit integer ones; meant for the start of a program.

    Args:
        device: where the update will be computed.
        dtype: float32 or float64, of the matrix products.

    Raises:
        ConfigError: the device rounds; the message says what to do.
    """
    size = MAX_CHUNK_SIZE
    basis = integer_basis(size, device, dtype)
    wanted_basis = integer_basis(size, torch.device("cpu"), torch.float64).long()
    operands = _trial_operands(wanted_basis)
    with full_precision(device):
        moved = operands.to(device, dtype)
        products = [(moved @ basis).cpu(), (basis.T @ moved).cpu()]
    wanted = [
        (operands.unsqueeze(-1) * wanted_basis).sum(-2),
        (wanted_basis.T[..., None] * operands.unsqueeze(1)).sum(-2),
    ]
    if device.type == "cpu" and dtype == torch.float32:  # `halves` multiplies in numpy
        by_numpy = (np.matmul(moved.numpy(), basis.numpy()), np.matmul(basis.T.numpy(), moved.numpy()))
        products += [torch.from_numpy(product) for product in by_numpy]
        wanted *= 2
    if not all(torch.equal(got.long(), want) for got, want in zip(products, wanted, strict=True)):
        raise ConfigError(
            f"matrix products of {dtype} on {device} round integers below 2**24, so this node would leave the others' "
            "parameters; use float64 for the exact update, or another device"
        )


def _trial_operands(basis: Tensor) -> Tensor:
    """Return (M, 64, 64) int64 chunks in -1023..1023: the largest sums of either sign, and arbitrary ones."""
    # Signs of a basis row make a product with that row as large as it can be; reversed, they make all others arbitrary.
    extreme = torch.where(basis < 0, -OPERAND_LIMIT, OPERAND_LIMIT)
    generator = torch.Generator().manual_seed(0)  # own generator: the global one is not touched
    arbitrary = torch.randint(-OPERAND_LIMIT, OPERAND_LIMIT + 1, (4, *basis.shape), generator=generator)
    full = torch.full_like(basis, OPERAND_LIMIT)
    return torch.stack([extreme, -extreme, extreme.T, -extreme.T, full, *arbitrary])
