"""The part of a payload's body that belongs to one parameter.

In this order: base (int16, little-endian), N scale codes (1 byte each), N records of R bytes: the Elias-Fano code of
T indices, then T sign bits (set: negative; lowest bit first) padded with zero bits to whole bytes. A 64 x 64
chunk at T = 32 takes 1 + 36 + 4 = 41 bytes. Behind the signs are the levels of values of more than one bit.

The number of coefficients that a chunk sends is not stored: fillers repeat the last index, so it is one more than the
number of ascents, and zero where the code is EMPTY_CODE. Fillers are positive and have level 0; some value of a chunk
has level 0, too.

Shapes: N = chunks of the parameter; T = indices a chunk; R = bytes of a record; B = chunks of one block.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from templar_pl.compression.elias_fano import (
    IndexCode,
    IndexCodeError,
    ascents,
    decode_rows,
    encode_indices,
    padding_is_set,
    refuse_first,
    row_blocks,
)
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.levels import check_levels, decode_levels, encode_levels, level_bytes
from templar_pl.compression.sparse import EMPTY_CODE, MAX_CODE, JoinedChunks, SparseChunks, join
from templar_pl.compression.workers import share_out

MIN_BASE = -2048
MAX_BASE = 2047
BASE_BYTES = 2
"""Bytes in front of the scale codes."""

_CHUNKS_A_THREAD = 8192
"""Chunks for which one more thread is worth while: with fewer, threads wait for each other between short operations."""


class SectionError(ValueError):
    """Chunks or bytes that are not the one way to say what they mean."""


@dataclass(frozen=True)  # no slots: what follows from the grid is kept
class Layout:
    """Where things are in the section of one grid."""

    grid: ChunkGrid

    @functools.cached_property
    def code(self) -> IndexCode:
        """How the indices of a chunk are coded."""
        return IndexCode(self.grid.topk, self.grid.chunk_numel)

    @functools.cached_property
    def record_bytes(self) -> int:
        """R: bytes of a record."""
        return self.levels_start + level_bytes(self.grid.topk, self.grid.value_bits)

    @functools.cached_property
    def levels_start(self) -> int:
        """Bytes of a record in front of the levels."""
        return self.code.row_bytes + -(-self.grid.topk // 8)

    @functools.cached_property
    def records_start(self) -> int:
        """Bytes in front of the first record."""
        return BASE_BYTES + self.grid.num_chunks

    @functools.cached_property
    def total_bytes(self) -> int:
        """Bytes of the section."""
        return self.records_start + self.grid.num_chunks * self.record_bytes


@functools.lru_cache(maxsize=64)
def layout_of(grid: ChunkGrid) -> Layout:
    """Return the layout of a grid; to find it takes a fifth of the time of decoding a small section."""
    return Layout(grid)


def section_bytes(grid: ChunkGrid) -> int:
    """Return the bytes of the section of a parameter."""
    return layout_of(grid).total_bytes


def encode_section(chunks: SparseChunks, grid: ChunkGrid) -> bytes:
    """Write what is sent of one parameter.

    Args:
        chunks: as `SparseChunks` says, on any device.
        grid: the chunks of the parameter.

    Returns:
        `section_bytes(grid)` bytes.

    Raises:
        SectionError: the chunks do not fit the grid or break a promise of `SparseChunks`.
    """
    layout = layout_of(grid)
    indices, negative, counts, codes = _to_numpy(chunks, grid)
    below = None if chunks.below is None else chunks.below.detach().cpu().numpy()
    _check_scales(codes, [grid.num_chunks], [chunks.base])
    try:
        for block in row_blocks(grid.num_chunks, layout.code):
            _check_order(indices[block], grid, block.start)
            found = _count_coefficients(indices[block], negative[block], codes[block], block.start)
            refuse_first(found != counts[block], block.start, "its count does not follow from its indices and code")
            if below is not None:
                check_levels(below[block], counts[block], grid.value_bits, block.start)
    except IndexCodeError as error:
        raise SectionError(str(error)) from error
    return encode_sections(join([chunks]), grid)[0]


def encode_sections(said: JoinedChunks, form: ChunkGrid) -> list[bytes]:
    """Write what is sent of parameters with chunks of one form; nothing is checked.

    Args:
        said: as `SparseChunks` says, on any device.
        form: a grid with such chunks.

    Returns:
        The section of each parameter.
    """
    layout = layout_of(form)
    indices, negative, codes = (tensor.cpu().numpy() for tensor in (said.indices, said.negative, said.codes))
    below = None if said.below is None else said.below.cpu().numpy()
    records = np.empty((len(codes), layout.record_bytes), dtype=np.uint8)  # (N, R)
    split, levels_start = layout.code.row_bytes, layout.levels_start

    def encode(blocks: Iterator[slice]) -> None:
        for block in blocks:
            records[block, :split] = encode_indices(indices[block], layout.code)
            records[block, split:levels_start] = _pack_signs(negative[block])
            if below is not None:
                records[block, levels_start:] = encode_levels(below[block], form.value_bits)

    threads = _threads_for(len(codes))
    share_out(list(row_blocks(len(codes), layout.code, shares=threads)), encode, threads=threads)
    sections, start = [], 0
    for base, length in zip(said.bases, said.lengths, strict=True):
        chunks = slice(start, start + length)
        head = base.to_bytes(BASE_BYTES, "little", signed=True)
        sections.append(b"".join((head, codes[chunks].tobytes(), records[chunks].tobytes())))
        start += length
    return sections


def decode_section(section: memoryview, grid: ChunkGrid) -> SparseChunks:
    """Undo `encode_section`.

    Args:
        section: `section_bytes(grid)` bytes of any content.
        grid: the chunks of the parameter.

    Returns:
        Chunks on the CPU for which `encode_section` gives the same bytes again.

    Raises:
        SectionError: the bytes are none that `encode_section` returns; the message names the chunk.
    """
    return decode_sections([section], grid).parameter(0)


def decode_sections(sections: Sequence[memoryview], form: ChunkGrid) -> JoinedChunks:
    """Do what `decode_section` does for parameters with chunks of one form, at least one, at once: faster than each.

    Args:
        sections: of any content; each as long as one with some number of chunks.
        form: a grid with such chunks.

    Raises:
        SectionError: as in `decode_section`; the message counts the chunks of all sections.
    """
    layout = layout_of(form)
    lengths = [(len(section) - BASE_BYTES) // (1 + layout.record_bytes) for section in sections]
    contents = [np.frombuffer(section, dtype=np.uint8) for section in sections]
    bases = [int.from_bytes(section[:BASE_BYTES], "little", signed=True) for section in sections]
    spans = list(zip(contents, lengths, strict=True))
    codes = np.concatenate([content[BASE_BYTES : BASE_BYTES + length] for content, length in spans])
    _check_scales(codes, lengths, bases)
    records = np.concatenate([content[BASE_BYTES + length :] for content, length in spans])
    try:
        said = _decode_records(records, codes, layout)
    except IndexCodeError as error:
        raise SectionError(str(error)) from error
    tensors = [torch.from_numpy(part) for part in said[:4]]
    below = None if said[4] is None else torch.from_numpy(said[4])
    return JoinedChunks(*tensors, below=below, bases=tuple(bases), lengths=tuple(lengths))


def _decode_records(
    content: NDArray[np.uint8], codes: NDArray[np.uint8], layout: Layout
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray | None]:
    """Return indices (N, T), negative (N, T), counts (N,), codes (N,) and below (N, T) of N records."""
    topk, value_bits, split, code = layout.grid.topk, layout.grid.value_bits, layout.code.row_bytes, layout.code
    levels_start = layout.levels_start
    records = content.reshape(len(codes), layout.record_bytes)  # (N, R)
    indices = np.empty((len(codes), topk), dtype=np.int16)  # (N, T)
    negative = np.empty((len(codes), topk), dtype=np.bool_)  # (N, T)
    counts = np.empty(len(codes), dtype=np.int16)  # (N,)
    below = None if value_bits == 1 else np.empty((len(codes), topk), dtype=np.uint8)  # (N, T)

    def decode(blocks: Iterator[slice]) -> None:
        for block in blocks:
            first, rows = block.start, records[block]
            are_sets = decode_rows(rows[:, :split], code, first, out=indices[block])
            negative[block] = _unpack_signs(rows[:, split:levels_start], topk, first)
            if are_sets and (codes[block] != EMPTY_CODE).all():  # as nearly always
                counts[block] = topk
            else:
                counts[block] = _count_coefficients(indices[block], negative[block], codes[block], first)
            if below is not None:
                below[block] = decode_levels(rows[:, levels_start:], counts[block], topk, value_bits, first)

    threads = _threads_for(len(codes))
    share_out(list(row_blocks(len(codes), code, shares=threads)), decode, threads=threads)
    return indices, negative, counts, codes, below


def _threads_for(num_chunks: int) -> int:
    """Return how many threads share the work on so many chunks."""
    return min(torch.get_num_threads(), 1 + num_chunks // _CHUNKS_A_THREAD)


def _to_numpy(chunks: SparseChunks, grid: ChunkGrid) -> list[NDArray]:
    """Return indices (N, T), negative (N, T), counts (N,) and codes (N,) after a check of shapes and dtypes."""
    wide, narrow = (grid.num_chunks, grid.topk), (grid.num_chunks,)
    expected: dict[str, tuple[Tensor, torch.dtype, tuple[int, ...]]] = {
        "indices": (chunks.indices, torch.int16, wide),
        "negative": (chunks.negative, torch.bool, wide),
        "counts": (chunks.counts, torch.int16, narrow),
        "codes": (chunks.codes, torch.uint8, narrow),
    }
    if (chunks.below is None) != (grid.value_bits == 1):
        raise SectionError(f"values of {grid.value_bits} bit(s) must {'not ' * (grid.value_bits == 1)}have `below`")
    if chunks.below is not None:
        expected["below"] = (chunks.below, torch.uint8, wide)
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise SectionError(f"{name} must be {dtype} {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
    return [getattr(chunks, name).detach().cpu().numpy() for name in ("indices", "negative", "counts", "codes")]


def _check_scales(codes: NDArray[np.uint8], lengths: Sequence[int], bases: Sequence[int]) -> None:
    """Refuse scale codes (N,) of parameters, one behind the other, and bases that could be said in another way."""
    filled, starts = np.flatnonzero(lengths), np.cumsum([0, *lengths[:-1]])
    largest = np.full(len(lengths), EMPTY_CODE)
    if len(filled):
        largest[filled] = np.maximum.reduceat(codes, starts[filled])
    for code, base in zip(largest.tolist(), bases, strict=True):
        if not MIN_BASE <= base <= MAX_BASE:
            raise SectionError(f"base must be in {MIN_BASE}..{MAX_BASE}, got {base}")
        if code == EMPTY_CODE and base != 0:
            raise SectionError(f"base must be 0 where no chunk sends anything, got {base}")
        if code not in (EMPTY_CODE, MAX_CODE):
            raise SectionError(f"the largest scale code must be {MAX_CODE}, or {EMPTY_CODE} for all, got {code}")


def _check_order(indices: NDArray[np.int16], grid: ChunkGrid, first_row: int) -> None:
    """Refuse indices (B, T) that descend or leave the chunk."""
    leaves = (indices[:, 0] < 0) | (indices[:, -1] >= grid.chunk_numel)
    refuse_first(leaves, first_row, f"an index is not in 0..{grid.chunk_numel - 1}")
    refuse_first(indices[:, 1:] < indices[:, :-1], first_row, "indices descend")


def _count_coefficients(
    indices: NDArray[np.int16], negative: NDArray[np.bool_], codes: NDArray[np.uint8], first_row: int
) -> NDArray[np.int64]:
    """Return how many coefficients each chunk (B,) sends; refuse what could be said in another way.

    Args:
        indices: (B, T) non-decreasing in every row.
        negative: (B, T) signs.
        codes: (B,) scale codes.
        first_row: number of the first chunk, for the message.
    """
    ascends, empty = ascents(indices)[:, 1:], codes == EMPTY_CODE  # (B, T - 1), (B,)
    refuse_first(ascends[:, 1:] & ~ascends[:, :-1], first_row, "an index comes twice, not as a filler")
    refuse_first(negative[:, 1:] & ~ascends, first_row, "a filler is negative")
    says_something = empty[:, None] & ((indices != 0) | negative)  # (B, T)
    refuse_first(says_something, first_row, f"scale code {EMPTY_CODE} allows only index 0 without a sign")
    return np.where(empty, 0, 1 + ascends.sum(axis=1))


def _pack_signs(negative: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Undo `_unpack_signs`."""
    if negative.shape[1] % 8:
        return np.packbits(negative, axis=1, bitorder="little")
    return np.packbits(negative.reshape(-1), bitorder="little").reshape(len(negative), -1)  # faster than row by row


def _unpack_signs(packed: NDArray[np.uint8], topk: int, first_row: int) -> NDArray[np.bool_]:
    """Return (B, T) signs from (B, bytes)."""
    refuse_first(padding_is_set(packed, topk), first_row, "padding behind the signs is not zero")
    bits = np.unpackbits(np.ascontiguousarray(packed).reshape(-1), bitorder="little")  # faster than row by row
    return bits.view(np.bool_).reshape(len(packed), -1)[:, :topk]
