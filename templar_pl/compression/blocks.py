"""Chunks of several parameters that are worked on together, so that small parameters cost no more than large ones.

Shapes: N = chunks of a block; T = coefficients sent per chunk at most; K = coefficients of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from templar_pl.compression.dct import paste_signs_
from templar_pl.compression.grid import ChunkGrid


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of chunks of one parameter."""

    name: str
    number: int
    """Of the parameter among those with chunks of the same form."""

    rows: slice
    """Of the parameter as a matrix."""

    chunks: slice
    """Of the parameter."""

    grid: ChunkGrid
    """How these rows are cut."""

    def of(self, tensor: Tensor) -> Tensor:
        """Return these rows of a tensor of the parameter's shape, in the shape that `grid` is of."""
        return tensor.detach() if self.grid.is_vector else tensor.detach().reshape(-1, self.grid.columns)[self.rows]


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks of one form, piece after piece."""

    pieces: tuple[Piece, ...]

    chunks: slice
    """Of all parameters with chunks of this form, one behind the other."""

    @property
    def num_chunks(self) -> int:
        """N: chunks of all pieces."""
        return self.chunks.stop - self.chunks.start

    def paste_signs_(self, values: Tensor, out: Mapping[str, Tensor]) -> None:
        """Write the signs of integers, (N, K), into contiguous tensors of the parameters' shapes."""
        pieces = values.split([piece.grid.num_chunks for piece in self.pieces])
        for piece, chunks in zip(self.pieces, pieces, strict=True):
            whole = out[piece.name].view(-1, piece.grid.columns)
            paste_signs_(whole[piece.rows], chunks.view(-1, piece.grid.height, piece.grid.width), piece.grid)


def owners_of(blocks: Sequence[Block]) -> Tensor:
    """Return (N,) int64 number of the parameter that each chunk of the blocks belongs to."""
    pieces = [piece for block in blocks for piece in block.pieces]
    lengths = torch.tensor([piece.grid.num_chunks for piece in pieces])
    return torch.tensor([piece.number for piece in pieces]).repeat_interleave(lengths)


def elements_at_once(device: torch.device) -> int:
    """Return how many fp32 elements are worked on together: on a CPU those that stay in its cache."""
    return 2**19 if device.type == "cpu" else 2**24


def blocks_of(grids: Mapping[str, ChunkGrid], names: Sequence[str], at_once: int) -> Iterator[Block]:
    """Cut parameters with chunks of one form into blocks of about `at_once` chunks, whole rows of chunks each."""
    pieces: list[Piece] = []
    start, missing = 0, at_once
    for number, name in enumerate(names):
        grid, first, across = grids[name], 0, grids[name].chunk_columns
        while first < grid.chunk_rows and across:
            height = min(max(1, missing // across), grid.chunk_rows - first)
            pieces.append(_piece(name, number, grid, first, first + height))
            missing -= height * across
            first += height
            if missing <= 0 or (first < grid.chunk_rows and missing < across):
                yield Block(tuple(pieces), slice(start, start + at_once - missing))
                start, missing, pieces = start + at_once - missing, at_once, []
    if pieces:
        yield Block(tuple(pieces), slice(start, start + at_once - missing))


BATCH = 2**22
"""Coefficients of the chunks of a batch: what is small, 32 values a chunk, is worked on together for some 1024 chunks,
since numpy and torch take longer to begin than to do it for fewer."""


def batches_of(blocks: Iterable[Block], at_once: int) -> Iterator[list[Block]]:
    """Put blocks one behind the other together, to batches that end as soon as they have `at_once` chunks."""
    batch: list[Block] = []
    for block in blocks:
        batch.append(block)
        if block.chunks.stop - batch[0].chunks.start >= at_once:
            yield batch
            batch = []
    if batch:
        yield batch


def _piece(name: str, number: int, grid: ChunkGrid, first: int, end: int) -> Piece:
    """Return the rows `first` to `end` of chunks of a parameter."""
    rows = slice(first * grid.height, min(end * grid.height, grid.rows))
    chunks = slice(first * grid.chunk_columns, end * grid.chunk_columns)
    part = grid if grid.is_vector else replace(grid, shape=(rows.stop - rows.start, grid.columns))
    return Piece(name, number, rows, chunks, part)
