"""The form in which bodies travel, by both backends."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression import (
    Body,
    ChunkGrid,
    MomentumCodec,
    SectionError,
    chunk_grid,
    encode_body,
    native_fault,
    pack_body,
    travel_bytes,
    unpack_body,
)
from templar_pl.compression.compact import CompactLayout, pack_section
from templar_pl.config import CompressionConfig
from tests.compression.payloads import arbitrary_payload, to_sparse
from tests.compression.test_compact import FAULTS, GOOD, PLAIN, slow_compact
from tests.compression.test_enumerative import slow_number
from tests.protocol.samples import chunks_of, grids

BACKENDS: list[Literal["torch", "native"]] = ["torch"] if native_fault() else ["torch", "native"]
needs_native = pytest.mark.skipif(bool(native_fault()), reason=native_fault() or "native is there")


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """A few parameters of any edges and bits a value, with few enough places for a table."""
    named: dict[str, ChunkGrid] = {}
    one_bit = {"value_bits": 1} if draw(st.booleans()) else {}
    for name in draw(st.lists(st.text(max_size=4), max_size=3, unique=True)):
        grid = draw(grids())
        named[name] = replace(grid, topk=min(grid.topk, 93), index_coding="compact", **one_bit)
    return encode_body({name: draw(chunks_of(grid)) for name, grid in named.items()}, named)


def backends_of(body: Body) -> list[Literal["torch", "native"]]:
    """Return which ones pack such a body."""
    return BACKENDS if all(grid.value_bits == 1 for grid in body.grids.values()) else ["torch"]


def default_body(seed: int, shape: tuple[int, ...], topk: int = 32) -> Body:
    grid = chunk_grid(shape, chunk_size=64, topk=topk, index_coding="compact")
    return encode_body({"w": to_sparse(arbitrary_payload(np.random.default_rng(seed), grid), topk)}, {"w": grid})


@given(bodies())
def test_unpacking_undoes_packing_and_backends_agree(body: Body) -> None:
    packed = [pack_body(body, backend=backend) for backend in backends_of(body)]

    assert len(packed[0]) == travel_bytes(body.grids)
    assert all(other == packed[0] for other in packed)
    for backend in backends_of(body):
        assert unpack_body(packed[0], body.grids, backend=backend).data == body.data


@pytest.mark.parametrize("topk", [1, 31, 32, 33, 64, 93])
def test_backends_agree_on_many_chunks_with_several_threads(topk: int) -> None:
    body = default_body(topk, (64 * 32 + 1, 64 * 16), topk)
    torch.set_num_threads(2)
    try:
        packed = [pack_body(body, backend=backend) for backend in BACKENDS]
        unpacked = [unpack_body(packed[0], body.grids, backend=backend) for backend in BACKENDS]
    finally:
        torch.set_num_threads(1)

    assert all(other == packed[0] for other in packed)
    assert all(other.data == body.data for other in unpacked)


@given(bodies(), st.data())
def test_changed_bytes_are_refused_by_all_backends_or_pack_to_themselves(body: Body, data: st.DataObject) -> None:
    packed = bytearray(pack_body(body))
    if packed:
        for _ in range(data.draw(st.integers(1, 3))):
            bit = data.draw(st.integers(0, 8 * len(packed) - 1))
            packed[bit // 8] ^= 1 << (bit % 8)

    refused = set()
    for backend in backends_of(body):
        try:
            again = unpack_body(bytes(packed), body.grids, backend=backend)
        except SectionError:
            refused.add(backend)
        else:
            assert pack_body(again, backend=backend) == packed
    assert refused in (set(), set(backends_of(body)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_numbers_of_sets_unpack_and_pack_to_themselves(backend: Literal["torch", "native"]) -> None:
    # 0.56 of the numbers of 267 bits are those of sets.
    grid = chunk_grid((64, 64), chunk_size=64, topk=32, index_coding="compact")
    rng, refused = np.random.default_rng(0), 0
    for _ in range(200):
        record = int.from_bytes(rng.bytes(38), "little") & (1 << 299) - 1
        packed = bytes([0, 0, 255]) + record.to_bytes(38, "little")
        try:
            body = unpack_body(packed, {"w": grid}, backend=backend)
        except SectionError:
            refused += 1
            continue
        assert pack_body(body, backend=backend) == packed
    assert 20 < refused < 180


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_refusal_names_parameter_and_chunk(backend: Literal["torch", "native"]) -> None:
    body = default_body(0, (128, 128))
    packed = pack_body(body)

    with pytest.raises(SectionError, match="parameter w: chunk 0: its number is not below the number of sets of at mo"):
        unpack_body(packed[:6] + b"\xff" * 34 + packed[40:], body.grids, backend=backend)


@pytest.mark.parametrize("length", [-1, 1])
def test_another_length_is_refused(length: int) -> None:
    body = default_body(0, (64, 64))
    packed = pack_body(body) + b"\0"

    with pytest.raises(SectionError, match="a body of this model travels as 41 bytes, got"):
        unpack_body(packed[: 41 + length], body.grids)


def test_parameters_may_travel_in_either_form() -> None:
    compact = default_body(0, (64, 128))
    grids_ = {"w": compact.grids["w"], "v": replace(compact.grids["w"], index_coding="elias_fano")}
    body = encode_body({"w": compact["w"], "v": compact["w"]}, grids_)

    packed = pack_body(body)

    assert packed == bytes(body.section("v")) + pack_section(body.section("w"), grids_["w"])
    assert unpack_body(packed, grids_).data == body.data


def test_an_uncoded_body_travels_as_it_is() -> None:
    grid = chunk_grid((64, 64), chunk_size=64, topk=32)
    body = encode_body({"w": to_sparse(arbitrary_payload(np.random.default_rng(0), grid), 32)}, {"w": grid})

    assert pack_body(body) == body.data
    assert travel_bytes(body.grids) == len(body.data)


@pytest.mark.parametrize("value_bits", [1, 2, 3, 8])
def test_both_codings_give_the_same_update(value_bits: Literal[1, 2, 3, 8]) -> None:
    shapes: dict[str, tuple[int, ...]] = {"matrix": (130, 70), "vector": (70,)}
    updates, sizes = [], []
    for coding in ("elias_fano", "compact"):
        config = CompressionConfig(index_coding=coding, value_bits=value_bits)
        codec = MomentumCodec(shapes, config, torch.device("cpu"))
        generator, received = torch.Generator().manual_seed(0), []
        for _ in range(3):
            gradients = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
            packed = pack_body(encode_body(codec.send_(gradients, dict.fromkeys(shapes, 0.1)), codec.grids))
            received.append(unpack_body(packed, codec.grids))
            sizes.append(len(packed))
        updates.append(codec.update(received))

    assert all(torch.equal(updates[0][name], updates[1][name]) for name in shapes)
    assert sizes[0] > sizes[3]


@needs_native
def test_values_of_more_than_one_bit_are_refused_where_native_is_asked_for() -> None:
    grids_ = {"w": chunk_grid((64, 64), chunk_size=64, topk=31, value_bits=2, index_coding="compact")}
    body = encode_body({"w": to_sparse(arbitrary_payload(np.random.default_rng(0), grids_["w"]), 31)}, grids_)

    for call in (
        lambda: pack_body(body, backend="native"),
        lambda: unpack_body(pack_body(body), grids_, backend="native"),
    ):
        with pytest.raises(ValueError, match="the native backend does not know `value_bits: 2`"):
            call()


@pytest.mark.parametrize("topk", [1, 2, 32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_beside_a_border_unpack_and_pack_to_themselves(backend: Literal["torch", "native"], topk: int) -> None:
    grid = chunk_grid((64 * 8, 64 * 8), chunk_size=64, topk=topk, index_coding="compact")
    borders = [slow_number([place], topk) for place in range(1, 4096, 199)]
    numbers = [border + step for border in borders for step in (-1, 0, 1)]
    bits = CompactLayout(grid).record_bits
    records = sum((numbers[n % len(numbers)] or 1) << (n * bits) for n in range(64))
    packed = bytes([0, 0] + [255] * 64) + records.to_bytes(8 * bits, "little")

    body = unpack_body(packed, {"w": grid}, backend=backend)

    assert pack_body(body, backend=backend) == packed
    assert body["w"].counts.min() >= 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reason", FAULTS)
def test_all_backends_refuse_what_breaks_a_promise(backend: Literal["torch", "native"], reason: str) -> None:
    grids_ = {"w": replace(PLAIN, index_coding="compact")}
    packed = slow_compact(GOOD, PLAIN)[:5] + FAULTS[reason].to_bytes(4, "little")

    with pytest.raises(SectionError) as caught:
        unpack_body(packed, grids_, backend=backend)

    assert str(caught.value) == f"parameter w: {reason}"
