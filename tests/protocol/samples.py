"""Payloads to test with, and a slow reference for every byte of them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from templar_pl.compression.grid import ChunkGrid, ValueBits, chunk_grid
from templar_pl.compression.sparse import EMPTY_CODE, MAX_CODE, SparseChunks
from templar_pl.protocol import Expected, Header
from templar_pl.units import Uid, Window

GOLDEN_PAYLOAD = Path(__file__).parent / "golden" / "payload_v1.bin"
RUN = hashlib.sha256(b"run").digest()


@dataclass(frozen=True)
class HashSigner:
    """Signs by hashing, so that tests need no cryptography: whoever knows the public key can sign."""

    public_key: bytes = b"K" * 32

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(self.public_key + message).digest()


def verify_hash(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return signature == hashlib.sha512(public_key + message).digest()


def header(**changes: object) -> Header:
    values = {
        "run": RUN,
        "window": Window(1234),
        "uid": Uid(7),
        "public_key": HashSigner().public_key,
        "pages": hashlib.sha256(b"pages").digest(),
        "fingerprint": hashlib.sha256(b"parameters").digest(),
        "loss": 2.5,
        "batches": 6,
        "tokens": 73_728,
    }
    return Header(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


def expected(**changes: object) -> Expected:
    values = {"run": RUN, "window": Window(1234), "uid": Uid(7), "public_key": HashSigner().public_key}
    return Expected(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


STEPS = {1: 0, 2: 4, 3: 2, 8: 1}
"""Bits a value -> eighths of an octave between two levels."""


def make_chunks(
    grid: ChunkGrid, lists: list[dict[int, bool]], codes: list[int], base: int, levels: list[list[int]] | None = None
) -> SparseChunks:
    """Build chunks from {index: is negative} of each chunk, and the levels of all its slots."""
    indices, negative, counts = [], [], []
    for sent in lists:
        places = sorted(sent)
        fillers = grid.topk - len(places)
        indices.append(places + [places[-1] if places else 0] * fillers)
        negative.append([sent[place] for place in places] + [False] * fillers)
        counts.append(len(places))
    shape = (grid.num_chunks, grid.topk)
    return SparseChunks(
        torch.tensor(indices, dtype=torch.int16).reshape(shape),
        torch.tensor(negative, dtype=torch.bool).reshape(shape),
        torch.tensor(counts, dtype=torch.int16),
        torch.tensor(codes, dtype=torch.uint8),
        base,
        None if levels is None else STEPS[grid.value_bits] * torch.tensor(levels, dtype=torch.uint8).reshape(shape),
    )


@st.composite
def grids(draw: st.DrawFn) -> ChunkGrid:
    """Any edge and any k, and few chunks."""
    chunk_size = draw(st.integers(1, 64))
    side = st.integers(0, 2 * chunk_size)
    shape = tuple(draw(st.lists(side, max_size=2)))
    topk = draw(st.integers(1, chunk_size**2))
    value_bits: ValueBits = draw(st.sampled_from([1, 2, 3, 8]))
    return chunk_grid(shape, chunk_size=chunk_size, topk=topk, value_bits=value_bits)


@st.composite
def chunks_of(draw: st.DrawFn, grid: ChunkGrid) -> SparseChunks:
    """Anything that may be sent of a parameter."""
    # Places come from a seeded generator: drawn one by one they would outgrow what hypothesis can hold.
    places = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = draw(st.sampled_from([0, 1, grid.topk]))
    lists = []
    for _ in range(grid.num_chunks):
        count = int(places.integers(0, most, endpoint=True))
        chosen = places.choice(grid.chunk_numel, size=count, replace=False)
        lists.append({int(place): bool(places.integers(2)) for place in chosen})
    codes = [int(places.integers(1, 256)) if sent else EMPTY_CODE for sent in lists]
    sending = [number for number, sent in enumerate(lists) if sent]
    if sending:
        codes[sending[-1]] = MAX_CODE
    base = draw(st.integers(-2048, 2047)) if sending else 0
    if grid.value_bits == 1:
        return make_chunks(grid, lists, codes, base)
    levels = places.integers(2 ** (grid.value_bits - 1), size=(grid.num_chunks, grid.topk))
    for row, sent in zip(levels, lists, strict=True):
        row[len(sent) :] = 0
        row[places.integers(max(1, len(sent)))] = 0
    return make_chunks(grid, lists, codes, base, levels.tolist())


@st.composite
def models(draw: st.DrawFn) -> tuple[dict[str, SparseChunks], dict[str, ChunkGrid]]:
    """A few parameters with what is sent of each."""
    named = draw(st.dictionaries(st.text(max_size=8), grids(), max_size=3))
    return {name: draw(chunks_of(grid)) for name, grid in named.items()}, named


def small_model() -> tuple[dict[str, SparseChunks], dict[str, ChunkGrid]]:
    """The model of the golden file: edges, fillers, empty chunks, an empty and a silent parameter."""
    grids_ = {
        "layers.10.weight": chunk_grid((6, 5), chunk_size=4, topk=3),
        "layers.2.weight": chunk_grid((64, 65), chunk_size=64, topk=32),
        "bias": chunk_grid((7,), chunk_size=4, topk=4),
        "scale": chunk_grid((), chunk_size=4, topk=3),
        "empty": chunk_grid((0, 3), chunk_size=4, topk=2),
        "silent": chunk_grid((3,), chunk_size=4, topk=2),
    }
    chunks = {
        "layers.10.weight": make_chunks(
            grids_["layers.10.weight"], [{15: True}, {}, {2: False, 3: True}, {0: True, 1: True, 2: False}],
            [7, EMPTY_CODE, MAX_CODE, 1], -300,
        ),
        "layers.2.weight": make_chunks(
            grids_["layers.2.weight"],
            [{127 * i: i % 3 == 0 for i in range(32)}, {2 * i + 1: i % 2 == 0 for i in range(20)}],
            [MAX_CODE, 200], 2047,
        ),
        "bias": make_chunks(grids_["bias"], [{0: False, 1: True, 2: True, 3: False}, {3: True}], [3, MAX_CODE], -2048),
        "scale": make_chunks(grids_["scale"], [{0: True}], [MAX_CODE], -1),
        "empty": make_chunks(grids_["empty"], [], [], 0),
        "silent": make_chunks(grids_["silent"], [{}], [EMPTY_CODE], 0),
    }  # fmt: skip
    return chunks, grids_


def assert_same(left: SparseChunks, right: SparseChunks) -> None:
    """Compare dtypes, shapes and values."""
    for name in ("indices", "negative", "counts", "codes"):
        first, second = getattr(left, name), getattr(right, name)
        assert first.dtype == second.dtype, name
        assert torch.equal(first, second), name
    assert left.base == right.base
    assert (left.below is None) == (right.below is None)
    if left.below is not None and right.below is not None:
        assert left.below.dtype == right.below.dtype
        assert torch.equal(left.below, right.below)


def slow_indices(row: list[int], bound: int) -> bytes:
    """Elias-Fano code of one row, with one big integer a part."""
    low_bits = 0
    while len(row) * 2 ** (low_bits + 1) <= bound:
        low_bits += 1
    upper = sum(1 << (index // 2**low_bits + place) for place, index in enumerate(row))
    low = sum((index % 2**low_bits) << (low_bits * place) for place, index in enumerate(row))
    upper_bits = len(row) + (bound - 1) // 2**low_bits
    return upper.to_bytes((upper_bits + 7) // 8, "little") + low.to_bytes((len(row) * low_bits + 7) // 8, "little")


def slow_section(chunks: SparseChunks, grid: ChunkGrid) -> bytes:
    """The bytes of one parameter, chunk by chunk."""
    section = struct.pack("<h", chunks.base) + bytes(chunks.codes.tolist())
    for number, (row, signs) in enumerate(zip(chunks.indices.tolist(), chunks.negative.tolist(), strict=True)):
        sign_bits = sum(sign << place for place, sign in enumerate(signs))
        section += slow_indices(row, grid.chunk_numel) + sign_bits.to_bytes((len(signs) + 7) // 8, "little")
        if chunks.below is not None:
            width, levels = grid.value_bits - 1, (chunks.below[number] // STEPS[grid.value_bits]).tolist()
            level_bits = sum(level << (width * place) for place, level in enumerate(levels))
            section += level_bits.to_bytes((width * len(levels) + 7) // 8, "little")
    return section


def slow_payload(head: Header, body: bytes, signer: HashSigner) -> bytes:
    """A whole payload around a body."""
    packed = b"TMPL" + struct.pack("<I", 1) + head.run + struct.pack("<QI", head.window, head.uid)
    packed += head.public_key + head.pages + head.fingerprint
    packed += struct.pack("<fIQQ", head.loss, head.batches, head.tokens, len(body))
    return packed + body + signer.sign(b"templar_pl/payload/1\0" + packed + hashlib.sha256(body).digest())
