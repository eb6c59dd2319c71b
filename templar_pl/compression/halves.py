"""Products with a DCT basis on a CPU, in numpy, with half of the arithmetic of a plain product.

Even rows of a basis are symmetric and odd ones antisymmetric: B[k][A - 1 - x] = (-1)**k B[k][x]. So forwards even rows
need only the sum of both halves of what is transformed, odd ones only their difference; backwards one half is the sum
and the other the difference of what even and odd coefficients make.

numpy multiplies many small matrices a third faster than torch, from and into any rows of larger ones, without copies;
mirrored halves need none either. Its BLAS takes one thread for matrices of this size. A transposed left factor is as
fast as a plain one, a transposed right one takes twice as long.

Shapes: n = bands, c = chunks side by side in a band; A x B = one chunk.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]


@np.errstate(all="ignore")  # kernels may compute with what lies behind a matrix, and numpy warns of it
def transform_rows(chunks: Array, basis: Array, *, out: Array) -> None:
    """Set out to each chunk @ basis; in whole rows, since halves of the result would lie between each other.

    Args:
        chunks: (n, c, A, B), contiguous, as is `out`.
        basis: (B, B), row = place, contiguous.
        out: of the shape of the chunks; not the same memory.
    """
    np.matmul(chunks, basis, out=out)


@np.errstate(all="ignore")
def transform_down(bands: Array, basis: Array, room: Array, *, out: Array) -> None:
    """Set out to basis @ each chunk.

    Args:
        bands: (n, A, c * B); rows may be strided.
        basis: (A, A), row = frequency; symmetric and antisymmetric rows in turns.
        room: at least as many elements as the bands, contiguous; not of `out`.
        out: (n, c, A, B), contiguous.
    """
    count, height, columns = bands.shape
    width, half = out.shape[-1], height // 2
    if height % 2:
        np.matmul(basis, bands.reshape(count, height, -1, width).swapaxes(1, 2), out=out)
        return
    folded = room.reshape(-1)[: bands.size].reshape(2, count, half, columns)
    upper, mirrored = bands[:, :half], bands[:, : half - 1 : -1]
    np.add(upper, mirrored, out=folded[0])
    np.subtract(upper, mirrored, out=folded[1])
    chunks = folded.reshape(2, count, half, -1, width).swapaxes(2, 3)
    for parity in (0, 1):
        np.matmul(basis[parity::2, :half], chunks[parity], out=out[:, :, parity::2])


@np.errstate(all="ignore")
def transform_rows_back(chunks: Tensor, basis: Array, room: Tensor, *, out: Tensor) -> None:
    """Set out to each chunk @ basis.

    Args:
        chunks: (N, A, B) fp32 on a CPU; B even; those of even columns first.
        basis: (B, B), row = frequency, as in `transform_down`.
        room: as many elements.
        out: (N, A, B).
    """
    half = chunks.shape[-1] // 2
    even, odd = room.view(2, *chunks.shape[:2], half)
    for parity, part in enumerate((even, odd)):
        columns = chunks[..., parity * half : (parity + 1) * half]
        np.matmul(columns.numpy(), basis[parity::2, :half], out=part.numpy())
    torch.add(even, odd, out=out[..., :half])
    out[..., half:] = even.sub_(odd).flip(-1)


@np.errstate(all="ignore")
def transform_down_back(chunks: Tensor, basis: Array, room: Tensor, *, out: Tensor) -> None:
    """Set out to the transposed basis @ each chunk, without negative zeros.

    Args:
        chunks: (N, A, B) fp32 on a CPU; A even.
        basis: (A, A), row = frequency, as in `transform_down`.
        room: as many elements.
        out: (N, A, B).
    """
    half = chunks.shape[1] // 2
    parts, values = room.view(2, len(chunks), half, -1), out.numpy()
    for parity, part in enumerate(parts.numpy()):
        np.matmul(basis[parity::2, :half].T, chunks[:, parity::2].numpy(), out=part)
    parts[0].add_(0.0)  # a sum or a difference of which the first is no negative zero is none
    even, odd = parts.numpy()
    np.add(even, odd, out=values[:, :half])
    np.subtract(even, odd, out=values[:, : half - 1 : -1])
