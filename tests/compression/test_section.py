"""The bytes of one parameter."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression.grid import ChunkGrid, chunk_grid
from templar_pl.compression.section import SectionError, decode_section, encode_section, section_bytes
from templar_pl.compression.sparse import SparseChunks
from tests.protocol.samples import assert_same, chunks_of, grids, make_chunks, slow_section


@st.composite
def sections(draw: st.DrawFn) -> tuple[SparseChunks, ChunkGrid]:
    grid = draw(grids())
    return draw(chunks_of(grid)), grid


@given(sections())
def test_a_section_has_the_bytes_of_the_slow_reference(drawn: tuple[SparseChunks, ChunkGrid]) -> None:
    chunks, grid = drawn

    section = encode_section(chunks, grid)

    assert section == slow_section(chunks, grid)
    assert len(section) == section_bytes(grid)


@given(sections())
def test_decoding_undoes_encoding(drawn: tuple[SparseChunks, ChunkGrid]) -> None:
    chunks, grid = drawn

    assert_same(decode_section(memoryview(encode_section(chunks, grid)), grid), chunks)


@given(sections(), st.data())
def test_a_changed_section_is_refused_or_encodes_to_itself(
    drawn: tuple[SparseChunks, ChunkGrid], data: st.DataObject
) -> None:
    chunks, grid = drawn
    section = bytearray(encode_section(chunks, grid))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(section) - 1))
        section[bit // 8] ^= 1 << (bit % 8)

    try:
        decoded = decode_section(memoryview(section), grid)
    except SectionError:
        return
    assert encode_section(decoded, grid) == section


@given(grids().filter(lambda grid: section_bytes(grid) < 200), st.data())
def test_any_bytes_are_chunks_or_refused(grid: ChunkGrid, data: st.DataObject) -> None:
    size = section_bytes(grid)
    section = data.draw(st.binary(min_size=size, max_size=size))

    try:
        decoded = decode_section(memoryview(section), grid)
    except SectionError:
        return
    assert encode_section(decoded, grid) == section


@pytest.mark.parametrize(
    ("numel", "topk", "bits"),
    [(1, 1, [1, 1]), (3, 2, [4, 2]), (3, 3, [5, 3]), (4, 2, [3, 2, 2]), (5, 2, [4, 2, 2])],
)  # bits in use: upper part, low bits if there are any, signs
def test_each_meaning_has_one_encoding_and_all_other_bytes_are_refused(numel: int, topk: int, bits: list[int]) -> None:
    grid = chunk_grid((numel,), chunk_size=64, topk=topk)
    meanings = set()

    # One bit of padding more than is in use.
    for codes, *record in itertools.product((0, 1, 255), *(range(2 ** (used + 1)) for used in bits)):
        section = bytes([0, 0, codes, *record])
        try:
            decoded = decode_section(memoryview(section), grid)
        except SectionError:
            continue
        assert encode_section(decoded, grid) == section
        meanings.add((codes, *decoded.indices[0].tolist(), *decoded.negative[0].tolist()))

    sets_with_signs = sum(math.comb(numel, count) * 2**count for count in range(1, topk + 1))
    assert len(meanings) == sets_with_signs + 1  # and the chunk that sends nothing


@pytest.mark.parametrize(("value_bits", "levels"), [(2, 2), (3, 4)])
@pytest.mark.parametrize(("numel", "topk", "bits"), [(1, 1, [1, 1]), (3, 2, [4, 2]), (3, 3, [5, 3])])
def test_each_meaning_of_levels_has_one_encoding_and_all_other_bytes_are_refused(
    numel: int, topk: int, bits: list[int], value_bits: Literal[2, 3], levels: int
) -> None:
    grid = chunk_grid((numel,), chunk_size=64, topk=topk, value_bits=value_bits)
    meanings = set()

    # One bit of padding more than is in use.
    used = [*bits, topk * (value_bits - 1)]
    for codes, *record in itertools.product((0, 255), *(range(2 ** (width + 1)) for width in used)):
        section = bytes([0, 0, codes, *record])
        try:
            decoded = decode_section(memoryview(section), grid)
        except SectionError:
            continue
        assert encode_section(decoded, grid) == section
        assert decoded.below is not None
        meanings.add((codes, *(tuple(part[0].tolist()) for part in (decoded.indices, decoded.negative, decoded.below))))

    # At least one of the values is on the loudest level.
    wanted = sum(
        math.comb(numel, count) * 2**count * (levels**count - (levels - 1) ** count) for count in range(1, topk + 1)
    )
    assert len(meanings) == wanted + 1  # and the chunk that sends nothing


@pytest.mark.parametrize(("value_bits", "size"), [(1, 41), (2, 45), (3, 49), (8, 69)])
def test_a_chunk_of_32_values_takes_so_many_bytes(value_bits: Literal[1, 2, 3, 8], size: int) -> None:
    grid = chunk_grid((128, 192), chunk_size=64, topk=32, value_bits=value_bits)

    assert section_bytes(grid) == 2 + 6 * size


PLAIN = chunk_grid((2, 9), chunk_size=4, topk=3)  # three chunks of 2 x 4
GOOD = make_chunks(PLAIN, [{0: False, 5: True}, {}, {1: True, 2: True, 7: True}], [9, 0, 255], 12)


def row(chunks: SparseChunks, name: str, number: int, values: object) -> SparseChunks:
    """Overwrite one row of one tensor."""
    changed = getattr(chunks, name).clone()
    changed[number] = torch.tensor(values)
    return replace(chunks, **{name: changed})


BROKEN = {
    "chunk 0: indices descend": row(GOOD, "indices", 0, [1, 0, 0]),
    "chunk 2: an index is not in 0..7": row(GOOD, "indices", 2, [1, 2, 8]),
    "chunk 0: an index is not in 0..7": row(GOOD, "indices", 0, [-1, 5, 5]),
    "chunk 2: an index comes twice, not as a filler": row(GOOD, "indices", 2, [1, 1, 7]),
    "chunk 0: a filler is negative": row(GOOD, "negative", 0, [False, True, True]),
    "chunk 1: scale code 0 allows only index 0 without a sign": row(GOOD, "indices", 1, [3, 3, 3]),
    "chunk 1: scale code 0 allows only index 0 without a": row(GOOD, "negative", 1, [True, False, False]),
    "chunk 0: its count does not follow": replace(GOOD, counts=torch.tensor([3, 0, 3], dtype=torch.int16)),
    "the largest scale code must be 255, or 0 for all, got 254": row(GOOD, "codes", 2, 254),
    "base must be in -2048..2047, got 2048": replace(GOOD, base=2048),
    "base must be in -2048..2047, got -2049": replace(GOOD, base=-2049),
    "indices must be torch.int16 (3, 3), got torch.int64 (3, 3)": replace(GOOD, indices=GOOD.indices.long()),
    "codes must be torch.uint8 (3,), got torch.uint8 (2,)": replace(GOOD, codes=GOOD.codes[:2]),
    "negative must be torch.bool (3, 3), got torch.uint8": replace(GOOD, negative=GOOD.negative.to(torch.uint8)),
    "counts must be torch.int16 (3,), got torch.int64": replace(GOOD, counts=GOOD.counts.long()),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_chunks_that_break_a_promise_are_not_encoded(reason: str) -> None:
    with pytest.raises(SectionError) as caught:
        encode_section(BROKEN[reason], PLAIN)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    "reason",
    ["chunk 0: indices descend", "chunk 2: an index comes twice, not as a filler", "chunk 0: a filler is negative",
     "chunk 1: scale code 0 allows only index 0 without a sign", "the largest scale code must be 255, or 0 for all"],
)  # fmt: skip
def test_bytes_that_break_a_promise_are_refused_with_the_chunk(reason: str) -> None:
    broken = next(chunks for name, chunks in BROKEN.items() if name.startswith(reason))

    with pytest.raises(SectionError) as caught:
        decode_section(memoryview(slow_section(broken, PLAIN)), PLAIN)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("base", [-32768, -2049, 2048, 32767])
def test_a_base_out_of_range_is_refused(base: int) -> None:
    section = base.to_bytes(2, "little", signed=True) + slow_section(GOOD, PLAIN)[2:]

    with pytest.raises(SectionError, match=r"base must be in -2048\.\.2047"):
        decode_section(memoryview(section), PLAIN)


def test_a_base_of_a_silent_parameter_is_refused() -> None:
    silent = make_chunks(PLAIN, [{}, {}, {}], [0, 0, 0], base=1)

    with pytest.raises(SectionError, match="base must be 0 where no chunk sends anything, got 1"):
        decode_section(memoryview(slow_section(silent, PLAIN)), PLAIN)


LEVELLED = replace(PLAIN, value_bits=3)
LEVELS = make_chunks(
    LEVELLED, [{0: False, 5: True}, {}, {1: True, 2: True, 7: True}], [9, 0, 255], 12,
    [[3, 0, 0], [0, 0, 0], [0, 1, 2]],
)  # fmt: skip
BROKEN_LEVELS = {
    "chunk 0: a value is not on a level of 2 eighths": row(LEVELS, "below", 0, [1, 0, 0]),
    "chunk 2: a value is not on a level of 2 eighths": row(LEVELS, "below", 2, [0, 8, 0]),
    "chunk 0: a filler has a level": row(LEVELS, "below", 0, [0, 0, 2]),
    "chunk 1: a filler has a level": row(LEVELS, "below", 1, [2, 0, 0]),
    "chunk 0: no value has level 0": row(LEVELS, "below", 0, [2, 4, 0]),
    "chunk 2: no value has level 0": row(LEVELS, "below", 2, [2, 4, 2]),
    "below must be torch.uint8 (3, 3), got torch.int64": replace(LEVELS, below=torch.zeros(3, 3, dtype=torch.int64)),
    "values of 3 bit(s) must have `below`": replace(LEVELS, below=None),
}


@pytest.mark.parametrize("reason", BROKEN_LEVELS)
def test_levels_that_break_a_promise_are_not_encoded(reason: str) -> None:
    with pytest.raises(SectionError) as caught:
        encode_section(BROKEN_LEVELS[reason], LEVELLED)

    assert str(caught.value).startswith(reason)


def test_levels_of_values_of_one_bit_are_not_encoded() -> None:
    with pytest.raises(SectionError, match="must not have `below`"):
        encode_section(LEVELS, PLAIN)


@pytest.mark.parametrize("reason", [reason for reason in BROKEN_LEVELS if "level 0" in reason or "filler" in reason])
def test_levels_that_break_a_promise_are_refused_with_the_chunk(reason: str) -> None:
    with pytest.raises(SectionError) as caught:
        decode_section(memoryview(slow_section(BROKEN_LEVELS[reason], LEVELLED)), LEVELLED)

    assert str(caught.value).startswith(reason)


def test_padding_behind_the_levels_is_refused() -> None:
    section = bytearray(slow_section(LEVELS, LEVELLED))
    section[-1] |= 0b1000000  # three levels of two bits

    with pytest.raises(SectionError, match="chunk 2: padding behind the levels is not zero"):
        decode_section(memoryview(section), LEVELLED)


def test_padding_behind_the_signs_is_refused() -> None:
    section = bytearray(slow_section(GOOD, PLAIN))
    section[-1] |= 0b1000  # three signs a chunk

    with pytest.raises(SectionError, match="chunk 2: padding behind the signs is not zero"):
        decode_section(memoryview(section), PLAIN)
