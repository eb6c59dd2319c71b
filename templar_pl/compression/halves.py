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
from numpy.typing import NDArray

Array = NDArray[np.float32]


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
