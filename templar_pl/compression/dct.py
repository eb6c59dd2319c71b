"""Chunks of a parameter and their orthonormal DCT-II.

Shapes: n = chunks, or rows of chunks, that are worked on together; N = chunks of one parameter; A x B = one chunk;
K = A * B; R x C = the parameter as a matrix.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.halves import multiply_matrices, transform_down
from templar_pl.compression.precision import full_precision


@functools.cache
def dct_basis(size: int, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II matrix, (size, size) fp32; row = frequency, column = place. Do not change it.

    Source:
        Ahmed, Natarajan, Rao, "Discrete Cosine Transform", IEEE Trans. Computers C-23 (1974), in its orthonormal form.
    """
    places = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / (2 * size) * places[:, None] * (2 * places + 1)) * math.sqrt(2 / size)
    basis[0] *= math.sqrt(0.5)
    return basis.to(device, torch.float32)


def to_chunks(tensor: Tensor, grid: ChunkGrid) -> Tensor:
    """Cut a tensor into chunks, row by row, the last ones padded with zeros.

    Args:
        tensor: of the shape `grid.shape`; any real dtype.
        grid: how it is cut.

    Returns:
        (N, A, B) fp32; may share memory with `tensor`.

    Raises:
        ValueError: the tensor has another shape.
    """
    if tuple(tensor.shape) != grid.shape:
        raise ValueError(f"tensor must have the shape {grid.shape} its grid was made for, got {tuple(tensor.shape)}")
    matrix = tensor.detach().to(torch.float32).reshape(grid.rows, grid.columns)  # (R, C)
    padded_rows, padded_columns = grid.chunk_rows * grid.height, grid.chunk_columns * grid.width
    if (padded_rows, padded_columns) != (grid.rows, grid.columns):
        padded = matrix.new_zeros(padded_rows, padded_columns)
        padded[: grid.rows, : grid.columns] = matrix
        matrix = padded
    tiles = matrix.view(grid.chunk_rows, grid.height, grid.chunk_columns, grid.width)
    return tiles.transpose(1, 2).reshape(grid.num_chunks, grid.height, grid.width)


def from_chunks(chunks: Tensor, grid: ChunkGrid) -> Tensor:
    """Put chunks together to the parameter they were cut from; the padding is dropped.

    Args:
        chunks: (N, A, B) of any dtype.
        grid: how they were cut.

    Returns:
        Contiguous tensor of the shape `grid.shape`.
    """
    tiles = chunks.view(grid.chunk_rows, grid.chunk_columns, grid.height, grid.width).transpose(1, 2)
    matrix = tiles.reshape(grid.chunk_rows * grid.height, grid.chunk_columns * grid.width)  # padded R, C
    return matrix[: grid.rows, : grid.columns].reshape(grid.shape).contiguous()


def paste_signs_(tensor: Tensor, chunks: Tensor, grid: ChunkGrid) -> None:
    """Write -1, 0 or 1 for the integers of chunks, no negative zeros, into the parameter they were cut from.

    Args:
        tensor: (R, C) or of the shape `grid.shape`, contiguous, fp32.
        chunks: (N, A, B) fp32.
        grid: how they were cut.
    """
    # torch.sign is slower, and a copy of its own, too.
    if (grid.chunk_rows * grid.height, grid.chunk_columns * grid.width) != (grid.rows, grid.columns):
        tensor.copy_(from_chunks(chunks.clamp(-1, 1), grid).view_as(tensor))
        return
    tiles = tensor.view(grid.chunk_rows, grid.height, grid.chunk_columns, grid.width).transpose(1, 2)
    torch.clamp(chunks.view(tiles.shape), -1, 1, out=tiles)


_TRANSFORMED_AT_ONCE = 2**19
"""Elements that are transformed together on a CPU, about, in equal steps: fewer make two threads slower, and few enough
that what one product writes the next reads from the cache."""


def fold_dct_(
    coefficients: Tensor, tensor: Tensor, grid: ChunkGrid, *, decay: float, lr: float, room: Tensor | None = None
) -> None:
    """Set coefficients to decay * coefficients + lr * DCT(tensor), in fp32.

    On a CPU no tensor of fp32 is copied as a whole, nor is its transform held beside the coefficients.

    Args:
        coefficients: (N, K) fp32, contiguous.
        tensor: of the shape `grid.shape`; any real dtype; finite.
        grid: how it is cut.
        decay: factor of what was there.
        lr: factor of what is added.
        room: fp32, on a CPU, at least twice as many elements as the coefficients, to work in: fresh memory costs as
            much as a product.
    """
    if grid.is_vector or coefficients.device.type != "cpu":
        coefficients.mul_(decay).add_(dct_chunks(tensor, grid), alpha=lr)
        return
    matrix = tensor.detach().to(torch.float32).reshape(grid.rows, grid.columns).numpy()
    chunks = coefficients.numpy().reshape(grid.chunk_rows, grid.chunk_columns, grid.height, grid.width)
    steps = max(1, round(chunks.size / _TRANSFORMED_AT_ONCE))
    at_once = max(1, -(-grid.chunk_rows // steps))  # rows of chunks
    if room is None:
        room = coefficients.new_empty(2 * chunks[:at_once].size)
    down, across = _bases(grid.height, grid.width)
    weighted, work = np.multiply(across, np.float32(lr)), room.view(-1).numpy()
    for first in range(0, grid.chunk_rows, at_once):
        block = chunks[first : first + at_once]
        halfway, whole = work[: 2 * block.size].reshape(2, *block.shape)
        bands = _copy_bands(matrix[first * grid.height :], out=halfway)
        transform_down(bands, down, whole, out=halfway)
        multiply_matrices(halfway, weighted, out=whole)
        target = torch.from_numpy(block)
        torch.add(torch.from_numpy(whole), target, alpha=decay, out=target)


def _copy_bands(rows: NDArray[np.float32], *, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Copy the first of the rows, as they lie, into the memory of bands of chunks, (n, c, A, B), and return those.

    What is missing to whole chunks becomes zero. A copy, although nothing else needs one: the sums of `transform_down`
    read rows from both ends, which takes longer than this where the cache does not hold them.
    """
    bands, chunks, height, width = out.shape
    padded = out.reshape(bands * height, chunks * width)
    if rows.shape[0] < padded.shape[0] or rows.shape[1] < padded.shape[1]:
        padded.fill(0.0)
    rows = rows[: padded.shape[0]]
    padded[: rows.shape[0], : rows.shape[1]] = rows
    return padded.reshape(bands, height, chunks, width).swapaxes(1, 2)


@functools.cache
def _bases(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrix for columns, and the transposed one for rows, both contiguous. Do not change them."""
    cpu = torch.device("cpu")
    return dct_basis(height, cpu).numpy(), np.ascontiguousarray(dct_basis(width, cpu).numpy().T)


def dct_chunks(tensor: Tensor, grid: ChunkGrid) -> Tensor:
    """Return the DCT coefficients of every chunk of a tensor.

    Args:
        tensor: of the shape `grid.shape`; any real dtype; finite.
        grid: how it is cut.

    Returns:
        (N, K) fp32; the energy (sum of squares) is that of the tensor.
    """
    with full_precision(tensor.device):
        coefficients = to_chunks(tensor, grid) @ dct_basis(grid.width, tensor.device).T  # (N, A, B)
        if not grid.is_vector:
            coefficients = dct_basis(grid.height, tensor.device) @ coefficients
    return coefficients.reshape(grid.num_chunks, grid.chunk_numel)
