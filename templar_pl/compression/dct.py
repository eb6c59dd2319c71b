"""Chunks of a parameter and their orthonormal DCT-II.

Shapes: N = chunks of one parameter; A x B = one chunk; K = A * B; R x C = the parameter as a matrix.
"""

from __future__ import annotations

import functools
import math

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
