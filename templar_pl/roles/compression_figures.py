"""What compression sends of a model, and what it could not go below.

Shapes: N = chunks of one parameter; K = coefficients per chunk; T = sent per chunk at most.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from templar_pl.compression import ChunkGrid
from templar_pl.protocol import payload_bytes

FP32_BYTES, BF16_BYTES = 4, 2
SCALE_BITS = 8  # one log scale a chunk
PUBLISHED_BYTES = {"int64 + fp32": 8 + 4, "int16 + fp32": 2 + 4}
"""Index and value of one coefficient in the forms that the published scheme sends (arXiv:2411.19870v1)."""


@dataclass(frozen=True)
class Figures:
    """What is sent of some parameters in one window."""

    grids: Mapping[str, ChunkGrid]
    """The chunks of each parameter."""

    @property
    def parameters(self) -> int:
        """Elements of all of them."""
        return sum(grid.rows * grid.columns for grid in self.grids.values())

    @property
    def chunks(self) -> int:
        """N, summed up."""
        return sum(grid.num_chunks for grid in self.grids.values())

    @property
    def coefficients(self) -> int:
        """Coefficients sent at most."""
        return sum(grid.num_chunks * grid.topk for grid in self.grids.values())

    @property
    def sent_bytes(self) -> int:
        """Bytes in a payload, without its header and signature."""
        return payload_bytes(self.grids) - payload_bytes({})

    @property
    def bound_bytes(self) -> float:
        """Bytes that no fixed code for such chunks can do without."""
        return sum(grid.num_chunks * bound_bits(grid) for grid in self.grids.values()) / 8

    @property
    def momentum_bytes(self) -> int:
        """Memory of the momentum: all coefficients in fp32, those of the padding too."""
        return FP32_BYTES * sum(grid.num_chunks * grid.chunk_numel for grid in self.grids.values())

    def published_bytes(self) -> dict[str, int]:
        """Return name of a published form -> bytes of the same coefficients in it."""
        return {name: size * self.coefficients for name, size in PUBLISHED_BYTES.items()}


@dataclass(frozen=True)
class Group(Figures):
    """Parameters of one kind and shape: those of all layers together."""

    pattern: str
    """Their name, with `*` for the number of the layer."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of each of them."""
        return next(iter(self.grids.values())).shape


def bound_bits(grid: ChunkGrid) -> float:
    """Return the bits of a chunk all of whose places, signs and levels are equally likely, and of its scale.

    Places and signs take log2 C(K, T) + T. Of L levels of magnitude a value has any, but one value has the largest.
    """
    levels = 2 ** (grid.value_bits - 1)
    choices = math.comb(grid.chunk_numel, grid.topk) * (levels**grid.topk - (levels - 1) ** grid.topk)
    return math.log2(choices) + grid.topk + SCALE_BITS


def group_by_kind(grids: Mapping[str, ChunkGrid]) -> list[Group]:
    """Put parameters together whose names differ in numbers only and whose shapes are equal, in the order given."""
    members: dict[tuple[str, tuple[int, ...]], dict[str, ChunkGrid]] = {}
    for name, grid in grids.items():
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        members.setdefault((pattern, grid.shape), {})[name] = grid
    return [Group(grids, pattern) for (pattern, _), grids in members.items()]
