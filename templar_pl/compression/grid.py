"""How one parameter is cut into chunks.

Shapes: R x C = a parameter as a matrix; A x B = one chunk; N = chunks; K = A * B; T = kept per chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from templar_pl.config import MAX_CHUNK_SIZE, IndexCoding

ValueBits = Literal[1, 2, 3, 8]
Transform = Literal["dct", "none"]


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """The chunks of one parameter, in row-major order.

    A matrix is cut into tiles of `height` x `width`, the last ones padded with zeros. A vector is one row,
    cut into pieces of 1 x `width`. A scalar is a vector of one element. A tensor of more than two
    dimensions is flattened to (first, all others).
    """

    shape: tuple[int, ...]
    """Shape of the parameter."""

    height: int
    """A: rows of a chunk; 1..MAX_CHUNK_SIZE; 1 for vectors."""

    width: int
    """B: columns of a chunk; 1..MAX_CHUNK_SIZE."""

    topk: int
    """T: coefficients sent per chunk at most; 1..height * width."""

    value_bits: ValueBits = 1
    """Bits a value: one for the sign, the others for a level of magnitude."""

    transform: Transform = "dct"
    """What a chunk of the parameter becomes; with `none` its coefficients are its elements."""

    index_coding: IndexCoding = "elias_fano"
    """How places travel; see `CompressionConfig`."""

    @property
    def is_vector(self) -> bool:
        """Whether chunks have one dimension, and the transform one stage."""
        return len(self.shape) < 2

    @property
    def rows(self) -> int:
        """R: rows of the parameter as a matrix."""
        return 1 if self.is_vector else self.shape[0]

    @property
    def columns(self) -> int:
        """C: columns of the parameter as a matrix."""
        return math.prod(self.shape) if self.is_vector else math.prod(self.shape[1:])

    @property
    def chunk_rows(self) -> int:
        """Chunks from top to bottom."""
        return -(-self.rows // self.height)

    @property
    def chunk_columns(self) -> int:
        """Chunks from left to right."""
        return -(-self.columns // self.width)

    @property
    def num_chunks(self) -> int:
        """N: chunks of the parameter; 0 for an empty one."""
        return self.chunk_rows * self.chunk_columns

    @property
    def chunk_numel(self) -> int:
        """K: coefficients in a chunk."""
        return self.height * self.width


class Grids(Mapping[str, ChunkGrid]):
    """The chunks of all parameters of a model; hashed once, so that what follows from them can be kept."""

    def __init__(self, grids: Mapping[str, ChunkGrid]) -> None:
        """Copy them."""
        self._grids = dict(grids)
        self._hash = hash(frozenset(self._grids.items()))

    def __getitem__(self, name: str) -> ChunkGrid:
        """Return the chunks of a parameter. Raises `KeyError` for one of another model."""
        return self._grids[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._grids)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._grids)

    def __hash__(self) -> int:
        """Return the same number for the same parameters, in any order."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Whether the names and their chunks are the same, in any order."""
        return self is other or (self._grids == other._grids if isinstance(other, Grids) else super().__eq__(other))


def as_grids(grids: Mapping[str, ChunkGrid]) -> Grids:
    """Return the same, hashed; what is already, as it is."""
    return grids if isinstance(grids, Grids) else Grids(grids)


def chunk_grid(
    shape: tuple[int, ...],
    *,
    chunk_size: int,
    topk: int,
    value_bits: ValueBits = 1,
    transform: Transform = "dct",
    index_coding: IndexCoding = "elias_fano",
) -> ChunkGrid:
    """Choose the chunks of a parameter.

    Args:
        shape: of the parameter; any number of dimensions, any of them may be 0.
        chunk_size: longest side of a chunk, 1..MAX_CHUNK_SIZE.
        topk: coefficients to send per chunk, at least 1; chunks with fewer elements send all of them.
        value_bits: bits a value; 1, 2, 3 or 8.
        transform: `dct`, or `none`: elements are sent as they are.
        index_coding: how places travel.

    Raises:
        ValueError: a number is out of range, or there is no such transform.
    """
    if not 1 <= chunk_size <= MAX_CHUNK_SIZE:
        raise ValueError(f"chunk_size must be in 1..{MAX_CHUNK_SIZE}, got {chunk_size}")
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")
    if value_bits not in (1, 2, 3, 8):
        raise ValueError(f"value_bits must be 1, 2, 3 or 8, got {value_bits}")
    if transform not in ("dct", "none"):
        raise ValueError(f"transform must be dct or none, got {transform!r}")
    if len(shape) < 2:
        height, width = 1, math.prod(shape)
    else:
        height, width = shape[0], math.prod(shape[1:])
    height, width = (min(chunk_size, max(1, side)) for side in (height, width))
    return ChunkGrid(tuple(shape), height, width, min(topk, height * width), value_bits, transform, index_coding)


def alike(grids: Mapping[str, ChunkGrid]) -> list[list[str]]:
    """Group the parameters whose chunks have the same form."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, grid in grids.items():
        form = (grid.is_vector, grid.height, grid.width, grid.topk, grid.value_bits, grid.transform, grid.index_coding)
        groups.setdefault(form, []).append(name)
    return list(groups.values())
