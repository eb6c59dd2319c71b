"""Momentum in coefficient space, and what is sent of it.

The DCT is linear, so the decayed sum of gradients and the decayed sum of their DCTs are the same thing; kept as the
latter, a window costs one transform and no inverse one.

Shapes: N = chunks of one parameter, K = coefficients per chunk, T = sent per chunk at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from templar_pl.compression.dct import fold_dct_, to_chunks
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.quantise import dequantise, quantise
from templar_pl.compression.sparse import SparseChunks
from templar_pl.compression.topk import keep_largest


@dataclass(frozen=True, slots=True)
class Sent:
    """What was taken out of the momentum of one parameter, and how to undo it."""

    sparse: SparseChunks
    originals: Tensor
    """(N, T) fp32; the momentum at `sparse.indices` before it was taken out. fp32 addition would not bring it back."""


def accumulate_(momentum: Tensor, gradient: Tensor | None, grid: ChunkGrid, *, decay: float, lr: float) -> None:
    """Set momentum to decay * momentum + lr * DCT(gradient), in fp32; decay and lr are rounded to fp32 first.

    Where the grid has no transform, the gradient itself takes the place of its DCT.

    Args:
        momentum: (N, K) fp32.
        gradient: of the shape `grid.shape`, any float dtype, finite; None only decays.
        grid: how the parameter is cut.
        decay: 0..1.
        lr: weight of the new gradient.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1.
    """
    if gradient is None:
        momentum.mul_(decay)
    elif grid.transform == "none":
        momentum.mul_(decay).add_(to_chunks(gradient, grid).reshape(momentum.shape), alpha=lr)
    else:
        fold_dct_(momentum, gradient, grid, decay=decay, lr=lr)


def compress_(momentum: Tensor, grid: ChunkGrid) -> Sent:
    """Take the largest coefficients of every chunk out of the momentum, as far as the payload says them.

    What rounding to signs and scales loses, and what is not sent, stays in the momentum (error feedback).

    Args:
        momentum: (N, K) fp32; finite.
        grid: how the parameter is cut, and how many coefficients a chunk sends.
    """
    kept = keep_largest(momentum, grid.topk)
    sparse = quantise(momentum.gather(-1, kept.indices.long()), kept, value_bits=grid.value_bits)
    originals = momentum.gather(-1, sparse.indices.long())
    subtract_(momentum, sparse)
    return Sent(sparse, originals)


def subtract_(momentum: Tensor, sparse: SparseChunks) -> None:
    """Take out of the momentum, (N, K) fp32, what a payload says; each coefficient is rounded once."""
    # Fillers repeat an index, but add zero.
    momentum.scatter_add_(-1, sparse.indices.long(), -dequantise(sparse))


def restore_(momentum: Tensor, sent: Sent) -> None:
    """Undo `compress_` to the bit, if the momentum, (N, K) fp32, was not changed since."""
    # Fillers repeat an index, but also its original.
    momentum.scatter_(-1, sent.sparse.indices.long(), sent.originals)
