"""Momentum in coefficient space, and what is sent of it.

The DCT is linear, so the decayed sum of gradients and the decayed sum of their DCTs are the same thing; kept as the
latter, a window costs one transform and no inverse one.

Shapes: N = chunks of one parameter, K = coefficients per chunk, T = sent per chunk at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from templar_pl.compression.dct import fold_dct_, to_chunks
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.quantise import Scaled, code, dequantise, scale, scaled_values
from templar_pl.compression.sparse import JoinedChunks, SparseChunks
from templar_pl.compression.topk import Kept, join, keep_largest, true_places


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken out of the momentum of some chunks."""

    kept: Kept
    """Where."""

    scaled: Scaled
    """What: `scaled_values` tells."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What was taken out of the momentum of parameters with chunks of one form, and how to undo it."""

    said: JoinedChunks
    """What a payload says of them."""

    originals: Tensor
    """(N, T) fp32; the momentum at `said.indices` before it was taken out. fp32 addition would not bring it back."""


def accumulate_(
    momentum: Tensor, gradient: Tensor | None, grid: ChunkGrid, *, decay: float, lr: float, room: Tensor | None = None
) -> None:
    """Set momentum to decay * momentum + lr * DCT(gradient), in fp32; decay and lr are rounded to fp32 first.

    Where the grid has no transform, the gradient itself takes the place of its DCT.

    Args:
        momentum: (N, K) fp32.
        gradient: of the shape `grid.shape`, any float dtype, finite; None only decays.
        grid: how the parameter is cut.
        decay: 0..1.
        lr: weight of the new gradient.
        room: of `fold_dct_`.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1.
    """
    if gradient is None:
        momentum.mul_(decay)
    elif grid.transform == "none":
        momentum.mul_(decay).add_(to_chunks(gradient, grid).reshape(momentum.shape), alpha=lr)
    else:
        fold_dct_(momentum, gradient, grid, decay=decay, lr=lr, room=room)


def compress_(momentum: Tensor, grid: ChunkGrid) -> Sent:
    """Take the largest coefficients of every chunk of a parameter out of the momentum, as far as the payload says them.

    What rounding to signs and scales loses, and what is not sent, stays in the momentum (error feedback).

    Args:
        momentum: (N, K) fp32; finite.
        grid: how the parameter is cut, and how many coefficients a chunk sends.
    """
    return settle_(momentum, [take_(momentum, grid)], [grid.num_chunks])


def take_(
    momentum: Tensor, grid: ChunkGrid, *, portions: Iterable[slice] | None = None, room: Tensor | None = None
) -> Taken:
    """Take the largest coefficients out of some chunks, as if all of them were sent; `settle_` must follow.

    Args:
        momentum: (N, K) fp32; finite.
        grid: how many coefficients a chunk sends, in how many bits.
        portions: of `keep_largest`.
        room: of `keep_largest`.
    """
    kept = keep_largest(momentum, grid.topk, portions=portions, room=room)
    scaled = scale(kept.values, kept, value_bits=grid.value_bits)
    # Fillers repeat an index, but take zero.
    momentum.scatter_add_(-1, kept.indices.long(), -scaled_values(kept, scaled))
    return Taken(kept, scaled)


def settle_(momentum: Tensor, taken: Sequence[Taken], lengths: Sequence[int]) -> Sent:
    """Say what was taken out of parameters, and put back what cannot be said beside louder chunks.

    Args:
        momentum: (N, K) fp32 of the parameters, one behind the other.
        taken: out of their chunks, in their order.
        lengths: chunks of each parameter.
    """
    kept, scaled = _joined(taken)
    originals = kept.values
    said, is_quiet = code(kept, scaled, lengths)
    rows = true_places(is_quiet)
    if len(rows):
        quiet = momentum[rows].scatter_(-1, kept.indices[rows].long(), originals[rows])
        momentum[rows], originals[rows] = quiet, quiet[:, :1]
    return Sent(said, originals)


def _joined(taken: Sequence[Taken]) -> tuple[Kept, Scaled]:
    """Put what was taken together."""
    if len(taken) == 1:
        return taken[0].kept, taken[0].scaled
    below = [part.scaled.below for part in taken if part.scaled.below is not None]
    kept = join([part.kept for part in taken])
    scaled = Scaled(
        torch.cat([part.scaled.negative for part in taken]),
        torch.cat([part.scaled.scales for part in taken]),
        torch.cat(below) if below else None,
    )
    return kept, scaled


def subtract_(momentum: Tensor, sparse: SparseChunks) -> None:
    """Take out of the momentum, (N, K) fp32, what a payload says; each coefficient is rounded once."""
    # Fillers repeat an index, but add zero.
    momentum.scatter_add_(-1, sparse.indices.long(), -dequantise(sparse))


def add_(momentum: Tensor, sparse: SparseChunks) -> None:
    """Put back into the momentum, (N, K) fp32, what a payload says; each coefficient is rounded once."""
    # Fillers repeat an index, but add zero.
    momentum.scatter_add_(-1, sparse.indices.long(), dequantise(sparse))


def restore_(momentum: Tensor, sent: Sent) -> None:
    """Undo `compress_` or `settle_` to the bit, if the momentum, (N, K) fp32, was not changed since."""
    # Fillers repeat an index, but also its original.
    momentum.scatter_(-1, sent.said.indices.long(), sent.originals)
