"""Momentum of parameters with chunks of one form, one behind the other in memory, so that blocks may go across them.

Shapes: N = chunks of a slab, K = coefficients per chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from templar_pl.compression.grid import ChunkGrid, alike

SLAB_NUMEL = 2**25
"""Elements of a slab of several parameters at most; a larger parameter has one of its own."""


@dataclass(frozen=True, slots=True)
class Slab:
    """Momentum of some parameters."""

    names: tuple[str, ...]
    """Of the parameters, in the order of their chunks."""

    lengths: tuple[int, ...]
    """Chunks of each."""

    momentum: Tensor
    """(N, K) fp32, contiguous."""


def new_slabs(grids: Mapping[str, ChunkGrid], device: torch.device) -> list[Slab]:
    """Return zero momentum of all parameters."""
    return [_new_slab(names, grids, device) for form in alike(grids) for names in _portions(form, grids)]


def momentum_of(slabs: Sequence[Slab]) -> dict[str, Tensor]:
    """Return name -> (N, K) momentum of the parameter, a view into its slab."""
    return {
        name: part for slab in slabs for name, part in zip(slab.names, slab.momentum.split(slab.lengths), strict=True)
    }


def _portions(names: Sequence[str], grids: Mapping[str, ChunkGrid]) -> Iterator[list[str]]:
    """Cut names into portions of SLAB_NUMEL elements at most, or one name."""
    portion: list[str] = []
    left = SLAB_NUMEL
    for name in names:
        numel = grids[name].num_chunks * grids[name].chunk_numel
        if portion and numel > left:
            yield portion
            portion, left = [], SLAB_NUMEL
        portion.append(name)
        left -= numel
    yield portion


def _new_slab(names: Sequence[str], grids: Mapping[str, ChunkGrid], device: torch.device) -> Slab:
    lengths = tuple(grids[name].num_chunks for name in names)
    shape = (sum(lengths), grids[names[0]].chunk_numel)
    return Slab(tuple(names), lengths, torch.zeros(shape, dtype=torch.float32, device=device))
