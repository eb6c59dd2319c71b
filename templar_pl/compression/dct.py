"""Chunks of a parameter and their orthonormal DCT-II.

Shapes: N = chunks of one parameter; A x B = one chunk; K = A * B; R x C = the parameter as a matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from templar_pl.compression.grid import ChunkGrid
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


def paste_(tensor: Tensor, chunks: Tensor, grid: ChunkGrid) -> None:
    """Write chunks into the parameter they were cut from, (R, C) or of the shape `grid.shape`, contiguous."""
    if (grid.chunk_rows * grid.height, grid.chunk_columns * grid.width) != (grid.rows, grid.columns):
        tensor.copy_(from_chunks(chunks, grid).view_as(tensor))
        return
    tiles = tensor.view(grid.chunk_rows, grid.height, grid.chunk_columns, grid.width).transpose(1, 2)
    tiles.copy_(chunks.view(tiles.shape))


CHUNKS_AT_ONCE = 128
"""Chunks that are transformed together: 2 MiB, so that what one product writes the next reads from the cache."""

_WIDE = 8
"""Chunks side by side from which on it is faster to transform a row of them in place than to copy chunks together."""


def fold_dct_(coefficients: Tensor, tensor: Tensor, grid: ChunkGrid, *, decay: float, lr: float) -> None:
    """Set coefficients to decay * coefficients + lr * DCT(tensor), in fp32, without a copy of the whole.

    Args:
        coefficients: (N, K) fp32, contiguous.
        tensor: of the shape `grid.shape`; any real dtype; finite.
        grid: how it is cut.
        decay: factor of what was there.
        lr: factor of what is added.
    """
    if grid.is_vector:
        coefficients.mul_(decay).add_(dct_chunks(tensor, grid), alpha=lr)
        return
    matrix = tensor.detach().reshape(grid.rows, grid.columns)
    chunks = coefficients.view(-1, grid.height, grid.width)
    across, down = (dct_basis(side, tensor.device) for side in (grid.width, grid.height))
    at_once = max(1, CHUNKS_AT_ONCE // max(1, grid.chunk_columns))  # rows of chunks
    most = min(at_once, grid.chunk_rows) * grid.chunk_columns
    room = chunks.new_empty(most, grid.height, grid.width)  # fresh memory for every block costs as much as a product
    with full_precision(tensor.device):
        for first in range(0, grid.chunk_rows, at_once):
            rows = matrix[first * grid.height : (first + at_once) * grid.height]
            block = chunks[first * grid.chunk_columns : (first + at_once) * grid.chunk_columns]
            for tiles, part in _across(rows, grid, across.T, room[: len(block)]):
                block[part].baddbmm_(down.expand(len(tiles), -1, -1), tiles, beta=decay, alpha=lr)


def _across(rows: Tensor, grid: ChunkGrid, basis: Tensor, room: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Transform rows of chunks, (R, C), along their rows.

    Args:
        rows: of the parameter that the grid is of.
        grid: how the parameter is cut.
        basis: (B, B); row = place, column = frequency.
        room: (N, A, B) for what comes out, as many chunks as the rows have.

    Yields:
        (n, A, B) of some chunks, and which these are; they need not be contiguous.
    """
    is_whole = rows.shape[1] % grid.width == 0 and rows.shape[0] % grid.height == 0
    if rows.dtype == torch.float32 and is_whole and rows.is_contiguous() and grid.chunk_columns >= _WIDE:
        torch.mm(rows.view(-1, grid.width), basis, out=room.view(-1, grid.width))
        tiles = room.view(-1, grid.height, grid.chunk_columns, grid.width).transpose(1, 2)
        for number, row in enumerate(tiles):
            yield row, slice(number * grid.chunk_columns, (number + 1) * grid.chunk_columns)
        return
    chunks = to_chunks(rows, replace(grid, shape=tuple(rows.shape)))
    torch.mm(chunks.reshape(-1, grid.width), basis, out=room.view(-1, grid.width))
    yield room, slice(None)


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
