"""Products of many small matrices on a CPU, in numpy; those with a DCT basis down the columns by half the arithmetic.

Even rows of a basis are symmetric and odd ones antisymmetric: B[k][A - 1 - x] = (-1)**k B[k][x]. So forwards even rows
need only the sum of both halves of what is transformed, odd ones only their difference; backwards one half is the sum
and the other the difference of what even and odd coefficients make. Rows of a chunk are mirrored by reading them
backwards; to mirror its columns, neighbours in memory, costs about as much as it saves.

numpy multiplies many small matrices a third faster than torch, from and into rows of larger ones, without copies. A
transposed left factor is as fast as a plain one, a transposed right one takes twice as long. Its BLAS takes one thread
for matrices of this size.

Shapes: n = bands, c = chunks side by side in a band; A x B = one chunk.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from templar_pl.compression.loops import row_by_row

Array = NDArray[np.float32]


def multiply_matrices(left: Array, right: Array, *, out: Array) -> None:
    """Set out to the products of matrices, (..., A, B) each; a factor may be one matrix for all."""
    with np.errstate(all="ignore"):  # kernels may compute with what lies behind a matrix, and numpy warns of it
        np.matmul(left, right, out=out)


def transform_down(bands: Array, basis: Array, room: Array, *, out: Array) -> None:
    """Set out to basis @ each chunk.

    Args:
        bands: (n, c, A, B); those of a larger matrix may lie side by side.
        basis: (A, A), row = frequency; symmetric and antisymmetric rows in turns.
        room: as many elements as out has, contiguous; not of `out`.
        out: (n, c, A, B), contiguous; may be the memory of the bands.
    """
    height = bands.shape[2]
    if height % 2:
        multiply_matrices(basis, bands, out=out)
        return
    across = bands.swapaxes(1, 2)  # (n, A, c, B): rows of a band
    count, _, chunks, width = across.shape
    half = height // 2
    folded = room.reshape(-1)[: bands.size].reshape(2, count, half, chunks, width)
    upper, mirrored = across[:, :half], across[:, : half - 1 : -1]
    with row_by_row():
        np.add(upper, mirrored, out=folded[0])
        np.subtract(upper, mirrored, out=folded[1])
    products = out.reshape(count, chunks, half, 2, width).transpose(3, 0, 1, 2, 4)
    multiply_matrices(_by_parity(basis)[:, None, None], folded.swapaxes(2, 3), out=products)


def transform_down_back(chunks: Array, basis: Array, room: Array, *, out: Array) -> None:
    """Set out to the transposed basis @ each chunk, without negative zeros.

    Args:
        chunks: (N, A, B).
        basis: (A, A), row = frequency, as in `transform_down`.
        room: of the shape of the chunks, contiguous.
        out: (N, A, B); not the memory of the others.
    """
    height = chunks.shape[1]
    if height % 2:
        multiply_matrices(basis.T, chunks, out=out)
        np.add(out, 0.0, out=out)
        return
    half = height // 2
    halves = room.reshape(2, len(chunks), half, chunks.shape[2])
    coefficients = chunks.reshape(len(chunks), half, 2, chunks.shape[2]).transpose(2, 0, 1, 3)
    multiply_matrices(_by_parity(basis).swapaxes(1, 2)[:, None], coefficients, out=halves)
    even, odd = halves
    np.add(even, 0.0, out=even)  # a sum or a difference of which the first is no negative zero is none
    with row_by_row():
        np.add(even, odd, out=out[:, :half])
        np.subtract(even, odd, out=out[:, : half - 1 : -1])


def _by_parity(basis: Array) -> Array:
    """Return (2, A / 2, A / 2): the left halves of even rows, and of odd ones; they share memory with the basis."""
    half = len(basis) // 2
    return basis.reshape(half, 2, -1)[:, :, :half].swapaxes(0, 1)
