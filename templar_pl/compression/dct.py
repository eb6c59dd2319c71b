"""Chunks of a parameter and their orthonormal DCT-II.

Shapes: n = chunks, or rows of chunks, that are worked on together; N = chunks of one parameter; A x B = one chunk;
K = A * B; R x C = the parameter as a matrix.
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


_CHUNKS_AT_ONCE = 48
"""Chunks that are transformed together: 0.75 MiB, so that what one product writes the next reads from the cache."""

_WIDE = 8
"""Chunks side by side from which on it is faster to transform a row of them in place than to copy chunks together."""


def fold_dct_(
    coefficients: Tensor, tensor: Tensor, grid: ChunkGrid, *, decay: float, lr: float, room: Tensor | None = None
) -> None:
    """Set coefficients to decay * coefficients + lr * DCT(tensor), in fp32, without a copy of the whole.

    Args:
        coefficients: (N, K) fp32, contiguous.
        tensor: of the shape `grid.shape`; any real dtype; finite.
        grid: how it is cut.
        decay: factor of what was there.
        lr: factor of what is added.
        room: fp32, at least twice as many elements as the coefficients, to work in: fresh memory costs as much as a
            product.
    """
    if grid.is_vector:
        coefficients.mul_(decay).add_(dct_chunks(tensor, grid), alpha=lr)
        return
    matrix, across = tensor.detach().reshape(grid.rows, grid.columns), grid.chunk_columns
    chunks = coefficients.view(-1, grid.height, grid.width)
    at_once = max(1, _CHUNKS_AT_ONCE // max(1, across))  # rows of chunks
    if room is None:
        room = coefficients.new_empty(2 * min(at_once, grid.chunk_rows) * across * grid.chunk_numel)
    basis = dct_basis(grid.width, tensor.device).T
    with full_precision(tensor.device):
        for first in range(0, grid.chunk_rows, at_once):
            rows = matrix[first * grid.height : (first + at_once) * grid.height]
            block = chunks[first * across : (first + at_once) * across]
            for tiles, part in _down(rows, grid, room.view(-1)[: 2 * block.numel()].view(2, -1)):
                block[part].baddbmm_(tiles, basis.expand(len(tiles), -1, -1), beta=decay, alpha=lr)


def _down(rows: Tensor, grid: ChunkGrid, room: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Transform rows of chunks, (R, C), along their columns.

    Args:
        rows: of the parameter that the grid is of.
        grid: how the parameter is cut.
        room: (2, as many elements as the chunks have).

    Yields:
        (n, A, B) of some chunks, and which these are; they need not be contiguous.
    """
    basis = dct_basis(grid.height, rows.device)
    is_whole = rows.shape[1] % grid.width == 0 and rows.shape[0] % grid.height == 0 and grid.height % 2 == 0
    if rows.dtype == torch.float32 and is_whole and rows.is_contiguous() and grid.chunk_columns >= _WIDE:
        bands = room[0].view(-1, grid.height, rows.shape[1])
        _halves_down(rows.view(bands.shape), basis, room[1], out=bands)
        for number, band in enumerate(bands):
            tiles = band.view(grid.height, grid.chunk_columns, grid.width).transpose(0, 1)
            yield tiles, slice(number * grid.chunk_columns, (number + 1) * grid.chunk_columns)
        return
    chunks = to_chunks(rows, replace(grid, shape=tuple(rows.shape)))
    out = room[0].view(chunks.shape)
    torch.bmm(basis.expand(len(chunks), -1, -1), chunks, out=out)
    yield out, slice(None)


def _halves_down(bands: Tensor, basis: Tensor, room: Tensor, *, out: Tensor) -> None:
    """Set out to the columns' transform of bands, both (n, A, C) with even A; room has as many elements as each.

    Even rows of a basis are symmetric and odd ones antisymmetric: B[k][A - 1 - x] = (-1)**k B[k][x]. So even rows need
    only the sum of both halves, odd ones only their difference, which takes half of the arithmetic.
    """
    count, height, columns = bands.shape
    upper, reverse = bands[:, : height // 2], torch.arange(height - 1, height // 2 - 1, -1, device=bands.device)
    sums, differences = room.view(2, count, height // 2, columns)
    torch.index_select(bands, 1, reverse, out=differences)
    torch.add(upper, differences, out=sums)
    torch.sub(upper, differences, out=differences)
    for parity, folded in enumerate((sums, differences)):
        half = basis[parity::2, : height // 2].expand(count, -1, -1)
        torch.bmm(half, folded, out=out[:, parity::2])


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
