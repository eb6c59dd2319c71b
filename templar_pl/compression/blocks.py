"""Chunks of several parameters that are worked on together, so that small parameters cost no more than large ones.

Shapes: N = chunks of a block; T = coefficients sent per chunk at most; K = coefficients of a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from templar_pl.compression.dct import paste_signs_
from templar_pl.compression.grid import ChunkGrid, Grids


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


BLOCK_TO_SEND = 2**20
"""Elements of a block that is sent on a CPU: it stays in the cache from one operation to the next."""

BLOCK_TO_RECEIVE = 2**19
"""Elements of a block that is received, likewise: it needs more room."""


def elements_at_once(device: torch.device, on_cpu: int) -> int:
    """Return how many fp32 elements a block has: `on_cpu`, or what keeps another device busy."""
    return on_cpu if device.type == "cpu" else 2**24


def blocks_of(grids: Mapping[str, ChunkGrid], names: Sequence[str], at_once: int) -> Iterator[Block]:
    """Cut parameters with chunks of one form into blocks of about `at_once` chunks, whole rows of chunks each."""
    return _cut(grids, names, lambda _: at_once)


def _cut(grids: Mapping[str, ChunkGrid], names: Sequence[str], size_of: Callable[[int], int]) -> Iterator[Block]:
    """Do what `blocks_of` does; `size_of` says how many chunks a block has that begins with some chunk."""
    pieces: list[Piece] = []
    start, size = 0, size_of(0)
    missing = size
    for number, name in enumerate(names):
        grid, first, across = grids[name], 0, grids[name].chunk_columns
        while first < grid.chunk_rows and across:
            height = min(max(1, missing // across), grid.chunk_rows - first)
            pieces.append(_piece(name, number, grid, first, first + height))
            missing -= height * across
            first += height
            if missing <= 0 or (first < grid.chunk_rows and missing < across):
                end = start + size - missing
                yield Block(tuple(pieces), slice(start, end))
                start, size, pieces = end, size_of(end), []
                missing = size
    if pieces:
        yield Block(tuple(pieces), slice(start, start + size - missing))


BATCH = 2**22
"""Coefficients of the chunks of a batch: what is small, 32 values a chunk, is worked on together for some 1024 chunks,
since numpy and torch take longer to begin than to do it for fewer."""


@functools.lru_cache(maxsize=1024)  # a model may be cut parameter by parameter
def batches_of(
    grids: Grids, names: tuple[str, ...], *, block: int, batch: int, threads: int
) -> tuple[tuple[Block, ...], ...]:
    """Cut parameters with chunks of one form into batches of blocks, as equal as whole rows of chunks allow.

    Args:
        grids: the chunks of each parameter.
        names: of the parameters.
        block: chunks of a block at most, but that it has whole rows.
        batch: chunks of a batch at most, likewise; there are fewer only where that makes batches for all threads.
        threads: that the batches are dealt out to.
    """
    total = sum(grids[name].num_chunks for name in names)
    rounds = -(-total // (max(block, batch) * threads))
    share = max(block, -(-total // max(1, rounds * threads)))

    def size_of(start: int) -> int:
        left = share - start % share
        if 4 * left < block:  # whole rows of chunks end a little before the share
            left += share
        return -(-left // -(-left // block))  # equal blocks up to the end of the share

    batches: list[list[Block]] = []
    for cut in _cut(grids, names, size_of):
        if (cut.chunks.start + cut.num_chunks // 2) // share >= len(batches):
            batches.append([])
        batches[-1].append(cut)
    return tuple(map(tuple, batches))


def _piece(name: str, number: int, grid: ChunkGrid, first: int, end: int) -> Piece:
    """Return the rows `first` to `end` of chunks of a parameter."""
    rows = slice(first * grid.height, min(end * grid.height, grid.rows))
    chunks = slice(first * grid.chunk_columns, end * grid.chunk_columns)
    part = grid if grid.is_vector else replace(grid, shape=(rows.stop - rows.start, grid.columns))
    return Piece(name, number, rows, chunks, part)
