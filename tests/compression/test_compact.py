"""The compact form of what is sent."""

from __future__ import annotations

import itertools
import math
import struct
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression.compact import CompactLayout, pack_section, unpack_section
from templar_pl.compression.grid import ChunkGrid, chunk_grid
from templar_pl.compression.section import SectionError, encode_section, section_bytes
from templar_pl.compression.sparse import SparseChunks
from tests.compression.test_enumerative import slow_number
from tests.protocol.samples import STEPS, chunks_of, make_chunks

Drawn = tuple[SparseChunks, ChunkGrid]
BITS: list[Literal[1, 2, 3, 8]] = [1, 2, 3, 8]


@st.composite
def sections(draw: st.DrawFn) -> Drawn:
    """Chunks of any edge, any bits a value, and any k that the slow reference can count."""
    chunk_size = draw(st.integers(1, 64))
    shape = tuple(draw(st.lists(st.integers(0, 3 * chunk_size), max_size=2)))
    topk, value_bits = draw(st.integers(1, min(chunk_size**2, 40))), draw(st.sampled_from(BITS))
    grid = chunk_grid(shape, chunk_size=chunk_size, topk=topk, value_bits=value_bits)
    return draw(chunks_of(grid)), grid


def slow_compact(chunks: SparseChunks, grid: ChunkGrid) -> bytes:
    """One big integer of all records, lowest first."""
    bits = (slow_number([grid.chunk_numel], grid.topk) - 1).bit_length()
    record_bits, records = bits + grid.topk * grid.value_bits, 0
    for n, count in enumerate(chunks.counts.tolist()):
        record = slow_number(chunks.indices[n, :count].tolist(), grid.topk)
        record += sum(sign << (bits + slot) for slot, sign in enumerate(chunks.negative[n].tolist()))
        if chunks.below is not None:
            width, levels = grid.value_bits - 1, (chunks.below[n] // STEPS[grid.value_bits]).tolist()
            record += sum(level << (bits + grid.topk + width * slot) for slot, level in enumerate(levels))
        records += record << (n * record_bits)
    size = (grid.num_chunks * record_bits + 7) // 8
    return struct.pack("<h", chunks.base) + bytes(chunks.codes.tolist()) + records.to_bytes(size, "little")


@given(sections())
def test_a_section_has_the_compact_bytes_of_the_slow_reference(drawn: Drawn) -> None:
    chunks, grid = drawn

    packed = pack_section(memoryview(encode_section(chunks, grid)), grid)

    assert packed == slow_compact(chunks, grid)
    assert len(packed) == CompactLayout(grid).total_bytes


@given(sections())
def test_unpacking_undoes_packing(drawn: Drawn) -> None:
    chunks, grid = drawn
    section = encode_section(chunks, grid)

    assert unpack_section(memoryview(pack_section(memoryview(section), grid)), grid) == section


@given(sections(), st.data())
def test_a_changed_compact_section_is_refused_or_packs_to_itself(drawn: Drawn, data: st.DataObject) -> None:
    chunks, grid = drawn
    packed = bytearray(pack_section(memoryview(encode_section(chunks, grid)), grid))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(packed) - 1))
        packed[bit // 8] ^= 1 << (bit % 8)

    try:
        section = unpack_section(memoryview(packed), grid)
    except SectionError:
        return
    assert pack_section(memoryview(section), grid) == packed


@pytest.mark.parametrize(
    ("numel", "topk", "value_bits", "record_bits"),
    [
        *[(1, 1, 1, 2), (3, 2, 1, 5), (3, 3, 1, 6), (4, 2, 1, 6), (5, 3, 1, 8)],
        *[(1, 1, 2, 3), (1, 1, 3, 4), (2, 2, 2, 6), (2, 2, 3, 8), (3, 2, 2, 7), (4, 2, 2, 8)],
    ],
)
def test_each_meaning_has_one_compact_form_and_all_other_bytes_are_refused(
    numel: int, topk: int, value_bits: Literal[1, 2, 3], record_bits: int
) -> None:
    grid = chunk_grid((numel,), chunk_size=64, topk=topk, value_bits=value_bits)
    meanings = set()

    assert CompactLayout(grid).record_bits == record_bits
    for code, record in itertools.product((0, 1, 255), range(256)):
        packed = bytes([0, 0, code, record])
        try:
            section = unpack_section(memoryview(packed), grid)
        except SectionError:
            continue
        assert pack_section(memoryview(section), grid) == packed
        meanings.add(section)

    # At least one of the values of a chunk is on the loudest level.
    levels = 2 ** (value_bits - 1)
    wanted = sum(
        math.comb(numel, size) * 2**size * (levels**size - (levels - 1) ** size) for size in range(1, topk + 1)
    )
    assert len(meanings) == wanted + 1  # and the chunk that sends nothing


PLAIN = chunk_grid((2, 9), chunk_size=4, topk=3)  # three chunks of 2 x 4: 93 sets, 7 + 3 bits a record
GOOD = make_chunks(PLAIN, [{0: False, 5: True}, {}, {1: True, 2: True, 7: True}], [9, 0, 255], 12)
RECORDS = int.from_bytes(slow_compact(GOOD, PLAIN)[5:], "little")
FAULTS = {
    "chunk 0: its number is not below the number of sets of at most 3 places below 8": RECORDS | 127,
    "chunk 1: it must send something if and only if its scale code is not 0": RECORDS | 1 << 10,
    "chunk 2: it must send something if and only if its scale code is not 0": RECORDS & (1 << 20) - 1,
    "chunk 0: a filler is negative": RECORDS | 1 << 9,
    "chunk 1: scale code 0 allows only index 0 without a sign": RECORDS | 1 << 17,
    "chunk 2: padding behind the last record is not zero": RECORDS | 1 << 30,
}


@pytest.mark.parametrize("reason", FAULTS)
def test_compact_bytes_that_break_a_promise_are_refused_with_the_chunk(reason: str) -> None:
    packed = slow_compact(GOOD, PLAIN)[:5] + FAULTS[reason].to_bytes(4, "little")

    with pytest.raises(SectionError) as caught:
        unpack_section(memoryview(packed), PLAIN)

    assert str(caught.value) == reason


LEVELLED = chunk_grid((2, 9), chunk_size=4, topk=3, value_bits=3)  # 7 + 3 + 6 bits a record
GOOD_LEVELS = make_chunks(
    LEVELLED,
    [{0: False, 5: True}, {}, {1: True, 2: True, 7: True}],
    [9, 0, 255],
    12,
    [[3, 0, 0], [0, 0, 0], [1, 0, 2]],
)
LEVEL_RECORDS = int.from_bytes(slow_compact(GOOD_LEVELS, LEVELLED)[5:], "little")
LEVEL_FAULTS = {
    "chunk 0: a filler has a level": LEVEL_RECORDS | 1 << 15,
    "chunk 1: a filler has a level": LEVEL_RECORDS | 1 << 16 + 10,
    "chunk 0: no value has level 0": LEVEL_RECORDS | 1 << 12,
    "chunk 2: no value has level 0": LEVEL_RECORDS | 1 << 32 + 13,
    "chunk 2: it must send something if and only if its scale code is not 0": LEVEL_RECORDS & (1 << 32) - 1,
}


@pytest.mark.parametrize("reason", LEVEL_FAULTS)
def test_levels_in_compact_bytes_that_break_a_promise_are_refused_with_the_chunk(reason: str) -> None:
    packed = slow_compact(GOOD_LEVELS, LEVELLED)[:5] + LEVEL_FAULTS[reason].to_bytes(6, "little")

    with pytest.raises(SectionError) as caught:
        unpack_section(memoryview(packed), LEVELLED)

    assert str(caught.value) == reason


def test_a_wrong_scale_in_a_compact_section_is_refused() -> None:
    packed = bytearray(slow_compact(GOOD, PLAIN))
    packed[4] = 254

    with pytest.raises(SectionError, match="the largest scale code must be 255, or 0 for all, got 254"):
        unpack_section(memoryview(packed), PLAIN)


@pytest.mark.parametrize(
    ("value_bits", "compact", "plain"), [(1, 38.375, 41), (2, 42.375, 45), (3, 46.375, 49), (8, 66.375, 69)]
)
def test_a_chunk_of_32_values_takes_so_many_bytes(value_bits: Literal[1, 2, 3, 8], compact: float, plain: int) -> None:
    grid = chunk_grid((64 * 40, 64 * 25), chunk_size=64, topk=32, value_bits=value_bits)

    assert CompactLayout(grid).total_bytes == 2 + 1000 * compact
    assert section_bytes(grid) == 2 + 1000 * plain
