"""The compact form of a section: what travels with `index_coding: compact`, some 6 % shorter than what engines read.

In this order: base (int16, little-endian), N scale codes (1 byte each), then N records of bits without padding
between them, zero bits up to a whole byte behind the last. A record is the number of the chunk's set of places
(`enumerative.py`; lowest bit first), then T sign bits in the order of ascending places, zero behind the last place,
then, for values of more than one bit, T levels as in `levels.py`. A byte is filled from its lowest bit. A 64 x 64 chunk
at T = 32 takes 8 + 267 + 32 bits, 38.4 bytes, and 4 more for each further bit of a value.

The empty set goes with scale code EMPTY_CODE, and only with it.

Shapes: N = chunks of the parameter; T = places a chunk; B = chunks of one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from templar_pl.compression.elias_fano import IndexCodeError, refuse_first
from templar_pl.compression.enumerative import SetCode, decode_sets, encode_sets, set_blocks
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.levels import decode_levels, encode_levels
from templar_pl.compression.section import BASE_BYTES, SectionError, decode_section, encode_section
from templar_pl.compression.sparse import EMPTY_CODE, SparseChunks


@dataclass(frozen=True, slots=True)
class CompactLayout:
    """Where things are in the compact form of a section."""

    grid: ChunkGrid

    @property
    def code(self) -> SetCode:
        """How the places of a chunk become a number."""
        return SetCode(self.grid.topk, self.grid.chunk_numel)

    @property
    def tail_bits(self) -> int:
        """Bits of a record behind the number: signs and levels."""
        return self.grid.topk * self.grid.value_bits

    @property
    def levels_start(self) -> int:
        """Bits of a record in front of the levels."""
        return self.code.bits + self.grid.topk

    @property
    def record_bits(self) -> int:
        """Bits of a record."""
        return self.code.bits + self.tail_bits

    @property
    def records_start(self) -> int:
        """Bytes in front of the first record."""
        return BASE_BYTES + self.grid.num_chunks

    @property
    def total_bytes(self) -> int:
        """Bytes of the section."""
        return self.records_start + -(-self.grid.num_chunks * self.record_bits // 8)


def pack_section(section: memoryview, grid: ChunkGrid) -> bytes:
    """Write a section in compact form.

    Args:
        section: what `encode_section` returns.
        grid: the chunks of the parameter.

    Returns:
        `CompactLayout(grid).total_bytes` bytes.

    Raises:
        SectionError: the bytes are none that `encode_section` returns.
    """
    layout, chunks = CompactLayout(grid), decode_section(section, grid)
    indices, counts = chunks.indices.numpy(), chunks.counts.numpy()
    packed = np.empty(layout.total_bytes, dtype=np.uint8)
    packed[: layout.records_start] = np.frombuffer(section[: layout.records_start], dtype=np.uint8)
    records = packed[layout.records_start :]
    for block in set_blocks(grid.num_chunks, layout.code):
        numbers = encode_sets(indices[block], counts[block], layout.code)  # (B, bytes)
        bits = np.unpackbits(numbers, axis=1, count=layout.code.bits, bitorder="little")
        joined = np.packbits(np.concatenate([bits, *_tails_of(chunks, block, grid)], axis=1), bitorder="little")
        start = block.start * layout.record_bits // 8  # blocks begin at multiples of eight chunks
        records[start : start + len(joined)] = joined
    return packed.tobytes()


def unpack_section(packed: memoryview, grid: ChunkGrid) -> bytes:
    """Undo `pack_section`.

    Args:
        packed: `CompactLayout(grid).total_bytes` bytes of any content.
        grid: the chunks of the parameter.

    Returns:
        What `encode_section` returns for the same chunks. `pack_section` gives the same bytes again.

    Raises:
        SectionError: the bytes are none that `pack_section` returns; the message names the chunk.
    """
    layout, content = CompactLayout(grid), np.frombuffer(packed, dtype=np.uint8)
    codes = content[BASE_BYTES : layout.records_start].copy()
    indices = np.empty((grid.num_chunks, grid.topk), dtype=np.int16)
    negative = np.empty((grid.num_chunks, grid.topk), dtype=np.bool_)
    counts = np.empty(grid.num_chunks, dtype=np.int16)
    below = None if grid.value_bits == 1 else np.empty((grid.num_chunks, grid.topk), dtype=np.uint8)
    records = content[layout.records_start :]
    try:
        for block in set_blocks(grid.num_chunks, layout.code):
            bits = _records_of(records, block, layout)
            negative[block] = bits[:, layout.code.bits : layout.levels_start]
            indices[block], counts[block] = _places_of(bits[:, : layout.code.bits], codes[block], layout, block.start)
            if below is not None:
                levels = np.packbits(bits[:, layout.levels_start :], axis=1, bitorder="little")
                below[block] = decode_levels(levels, counts[block], grid.topk, grid.value_bits, block.start)
    except IndexCodeError as error:
        raise SectionError(str(error)) from error
    tensors = [torch.from_numpy(array) for array in (indices, negative, counts, codes)]
    base = int.from_bytes(packed[:BASE_BYTES], "little", signed=True)
    chunks = SparseChunks(*tensors, base=base, below=None if below is None else torch.from_numpy(below))
    return encode_section(chunks, grid)


def _tails_of(chunks: SparseChunks, block: slice, grid: ChunkGrid) -> list[NDArray]:
    """Return the bits behind the numbers of a block: signs (B, T) and, if there are levels, (B, T * (bits - 1))."""
    tails: list[NDArray] = [chunks.negative[block].numpy()]
    if chunks.below is not None:
        levels = encode_levels(chunks.below[block].numpy(), grid.value_bits)
        tails.append(np.unpackbits(levels, axis=1, count=grid.topk * (grid.value_bits - 1), bitorder="little"))
    return tails


def _records_of(records: NDArray[np.uint8], block: slice, layout: CompactLayout) -> NDArray[np.uint8]:
    """Return the bits of the records of a block (B, bits); refuse bits behind the last chunk of all."""
    start, height = block.start * layout.record_bits // 8, block.stop - block.start
    used = height * layout.record_bits
    bits = np.unpackbits(records[start : start + -(-used // 8)], bitorder="little")
    if bits[used:].any():
        raise SectionError(f"chunk {block.stop - 1}: padding behind the last record is not zero")
    return bits[:used].reshape(height, layout.record_bits)


def _places_of(
    bits: NDArray[np.uint8], codes: NDArray[np.uint8], layout: CompactLayout, first_row: int
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return indices (B, T) and counts (B,) from the bits of numbers (B, bits).

    Raises:
        IndexCodeError: a number is none of a set, or of an empty set and the code (B,) says otherwise.
    """
    numbers = np.zeros((len(bits), 8 * layout.code.words), dtype=np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    numbers[:, : packed.shape[1]] = packed
    indices, counts, is_set = decode_sets(numbers, layout.code)
    sets = f"sets of at most {layout.code.num_places} places below {layout.code.bound}"
    refuse_first(~is_set, first_row, f"its number is not below the number of {sets}")
    is_wrong = (counts == 0) != (codes == EMPTY_CODE)
    refuse_first(is_wrong, first_row, f"it must send something if and only if its scale code is not {EMPTY_CODE}")
    return indices, counts
