"""What one peer sends for one window."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression.grid import ChunkGrid, chunk_grid
from templar_pl.compression.sparse import SparseChunks
from templar_pl.errors import Fault, PayloadError
from templar_pl.protocol import Payload, decode_payload, encode_payload, payload_bytes
from templar_pl.protocol.header import HEADER_BYTES
from templar_pl.units import Uid, Window
from tests.compression.test_compact import slow_compact
from tests.protocol.samples import (
    GOLDEN_PAYLOAD,
    HashSigner,
    assert_same,
    expected,
    header,
    models,
    slow_payload,
    slow_section,
    small_model,
    verify_hash,
)

MIB = 2**20
Model = tuple[dict[str, SparseChunks], dict[str, ChunkGrid]]
SMALL = small_model()
GOOD = slow_payload(
    header(), b"".join(slow_section(SMALL[0][name], SMALL[1][name]) for name in sorted(SMALL[1])), HashSigner()
)


def decode(data: bytes, grids: dict[str, ChunkGrid] | None = None) -> Payload:
    return decode_payload(data, SMALL[1] if grids is None else grids, expected(), verify_hash)


def resigned(data: bytes | bytearray) -> bytes:
    """Put a good signature under changed bytes: a hostile peer can sign what it likes."""
    head, body = bytes(data[:HEADER_BYTES]), bytes(data[HEADER_BYTES:-64])
    return head + body + HashSigner().sign(b"templar_pl/payload/1\0" + head + hashlib.sha256(body).digest())


def fault_of(data: bytes) -> Fault:
    with pytest.raises(PayloadError) as caught:
        decode(data)
    assert (caught.value.peer, caught.value.window) == (Uid(7), Window(1234))
    return caught.value.fault


@given(models())
def test_a_payload_has_the_bytes_of_the_slow_reference(model: Model) -> None:
    chunks, grids = model
    body = b"".join(slow_section(chunks[name], grids[name]) for name in sorted(grids))

    data = encode_payload(header(), chunks, grids, HashSigner())

    assert data == slow_payload(header(), body, HashSigner())
    assert len(data) == payload_bytes(grids)


@given(models(), st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 2**64 - 1))
def test_decoding_undoes_encoding(model: Model, loss: float, tokens: int) -> None:
    chunks, grids = model
    head = header(loss=loss, tokens=tokens)

    payload = decode(encode_payload(head, chunks, grids, HashSigner()), grids)

    assert payload.header == head
    assert list(payload.chunks) == sorted(chunks)
    for name, sent in payload.chunks.items():
        assert_same(sent, chunks[name])


@given(models())
def test_a_compact_payload_is_signed_as_it_travels_and_says_the_same(model: Model) -> None:
    chunks = {name: sent for name, sent in model[0].items() if sent.indices.shape[1] <= 40}
    grids = {name: replace(model[1][name], index_coding="compact") for name in chunks}
    body = b"".join(slow_compact(chunks[name], grids[name]) for name in sorted(grids))

    data = encode_payload(header(), chunks, grids, HashSigner())

    assert data == slow_payload(header(), body, HashSigner())
    assert len(data) == payload_bytes(grids)
    for name, sent in decode(data, grids).chunks.items():
        assert_same(sent, chunks[name])


def test_a_wrong_number_in_a_signed_compact_payload_is_refused() -> None:
    grids = {"w": chunk_grid((64, 64), chunk_size=64, topk=32, index_coding="compact")}
    data = slow_payload(header(), b"\0\0\xff" + b"\xff" * 37 + b"\x07", HashSigner())

    with pytest.raises(PayloadError, match="parameter w: chunk 0: its number is not below") as caught:
        decode(data, grids)

    assert caught.value.fault is Fault.CONTENT


@given(st.binary(max_size=2 * len(GOOD)))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert fault_of(data) is Fault.SIZE or len(data) == len(GOOD)


@given(st.binary(min_size=len(GOOD), max_size=len(GOOD)), st.integers(0, HEADER_BYTES))
def test_any_bytes_of_the_right_length_behind_a_good_start_are_refused(data: bytes, kept: int) -> None:
    assert fault_of(GOOD[:kept] + data[kept:]) in Fault


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_one_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(GOOD)
    changed[bit // 8] ^= 1 << (bit % 8)

    assert fault_of(bytes(changed)) is not Fault.SIZE


@given(st.lists(st.integers(0, 8 * (len(GOOD) - 64) - 1), min_size=1, max_size=3, unique=True))
def test_flipped_bits_under_a_good_signature_are_refused_or_encode_to_themselves(bits: list[int]) -> None:
    changed = bytearray(GOOD)
    for bit in bits:
        changed[bit // 8] ^= 1 << (bit % 8)
    data = resigned(changed)

    try:
        payload = decode(data)
    except PayloadError:
        return
    assert encode_payload(payload.header, payload.chunks, SMALL[1], HashSigner()) == data


@given(st.integers(0, len(GOOD) - 1))
def test_a_payload_cut_short_is_refused(length: int) -> None:
    assert fault_of(GOOD[:length]) is Fault.SIZE


@given(st.binary(min_size=1, max_size=100))
def test_a_payload_with_something_behind_it_is_refused(tail: bytes) -> None:
    assert fault_of(GOOD + tail) is Fault.SIZE


WRONG_FIELDS = {
    "magic": (0, b"TMPX", Fault.FORMAT, "a payload begins with b'TMPL', got b'TMPX'"),
    "version": (4, struct.pack("<I", 2), Fault.FORMAT, "version must be 1, got 2"),
    "run": (8, b"r" * 32, Fault.RUN, f"run must be {header().run.hex()}, got {(b'r' * 32).hex()}"),
    "window": (40, struct.pack("<Q", 1235), Fault.WINDOW, "window must be 1234, got 1235"),
    "uid": (48, struct.pack("<I", 8), Fault.SENDER, "uid must be 7, got 8"),
    "public key": (52, b"k" * 32, Fault.SENDER, f"public key must be {(b'K' * 32).hex()}, got {(b'k' * 32).hex()}"),
    "infinite loss": (148, struct.pack("<f", float("inf")), Fault.FORMAT, "loss must be a finite number and no"),
    "no number as loss": (148, struct.pack("<f", float("nan")), Fault.FORMAT, "loss must be a finite number and no"),
    "negative zero loss": (148, struct.pack("<f", -0.0), Fault.FORMAT, "loss must be a finite number and no"),
    "body length": (164, struct.pack("<Q", 2**63), Fault.FORMAT, f"the body must have {len(GOOD) - 236} bytes"),
    "scale": (172 + 3, b"\xfe", Fault.CONTENT, "parameter bias: the largest scale code must be 255"),
}


@pytest.mark.parametrize("field", WRONG_FIELDS)
def test_a_wrong_field_under_a_good_signature_is_refused_with_its_fault(field: str) -> None:
    at, value, fault, reason = WRONG_FIELDS[field]
    data = resigned(GOOD[:at] + value + GOOD[at + len(value) :])

    with pytest.raises(PayloadError) as caught:
        decode(data)

    assert caught.value.fault is fault
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    "at", [84, 116, 148, 152, 156, HEADER_BYTES, -65, -64, -1],
    ids=["pages", "fingerprint", "loss", "batches", "tokens", "body start", "body end", "signature", "signature end"],
)  # fmt: skip
def test_what_the_signature_covers_cannot_be_changed(at: int) -> None:
    changed = bytearray(GOOD)
    changed[at] ^= 1

    assert fault_of(bytes(changed)) is Fault.SIGNATURE


def test_the_signature_of_another_hotkey_is_refused() -> None:
    forged = GOOD[:-64] + HashSigner(b"k" * 32).sign(b"templar_pl/payload/1\0" + GOOD[:-64])

    assert fault_of(forged) is Fault.SIGNATURE


def test_a_payload_of_format_version_1_reads_for_ever() -> None:
    golden = GOLDEN_PAYLOAD.read_bytes()
    chunks, grids = SMALL

    payload = decode(golden)

    assert payload.header == header()
    for name, sent in payload.chunks.items():
        assert_same(sent, chunks[name])
    assert encode_payload(header(), chunks, grids, HashSigner()) == golden


def test_a_loss_is_rounded_to_fp32_and_loses_a_negative_zero() -> None:
    for loss in (1 / 3, -0.0, -1e-60):
        data = encode_payload(header(loss=loss), *SMALL, HashSigner())
        read = decode(data).header.loss
        assert str(read) == str(float(np.float32(loss)) + 0.0)


def test_an_oversized_payload_is_refused_without_a_copy() -> None:
    hostile = bytes(64 * MIB)
    tracemalloc.start()

    fault = fault_of(hostile)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fault is Fault.SIZE
    assert peak < MIB


def test_the_memory_of_decoding_is_bounded_by_the_model() -> None:
    grids = {"weight": chunk_grid((64 * 200, 64 * 200), chunk_size=64, topk=32)}
    hostile = np.random.default_rng(0).integers(0, 256, payload_bytes(grids) - 236, dtype=np.uint8)
    # Good records until the last chunk: all the work is done before the fault is found.
    records = hostile[2 + 40_000 :].reshape(40_000, 40)
    records[:] = np.frombuffer(bytes([255] * 4 + [0] * 36), dtype=np.uint8)
    records[:, 8:36] = np.packbits((np.arange(32)[:, None] >> np.arange(7)) & 1, bitorder="little")
    records[-1] = 255
    hostile[:2], hostile[2 : 2 + 40_000] = 0, 255
    data = slow_payload(header(), hostile.tobytes(), HashSigner())
    tracemalloc.start()

    with pytest.raises(PayloadError, match="parameter weight: chunk 39999: padding behind the upper part"):
        decode(data, grids)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    chunks_bytes = 40_000 * (32 * 3 + 3)
    assert peak < chunks_bytes + 32 * MIB


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": b"short"}, "run must have 32 bytes, got 5"),
        ({"fingerprint": b""}, "fingerprint must have 32 bytes, got 0"),
        ({"window": -1}, r"window must be in 0\.\.18446744073709551615, got -1"),
        ({"uid": 2**32}, r"uid must be in 0\.\.4294967295, got 4294967296"),
        ({"batches": 2**32}, r"batches must be in 0\.\.4294967295"),
        ({"tokens": -5}, r"tokens must be in 0\.\.18446744073709551615, got -5"),
        ({"loss": float("nan")}, "loss must be a finite fp32 number, got nan"),
        ({"loss": 3.5e38}, r"loss must be a finite fp32 number, got 3\.5e\+38"),
    ],
)
def test_a_header_that_does_not_fit_its_fields_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        header(**changes)


def test_a_foreign_signer_is_refused() -> None:
    with pytest.raises(ValueError, match="the header names 4b4b"):
        encode_payload(header(), *SMALL, HashSigner(b"k" * 32))


def test_a_signature_of_another_length_is_refused() -> None:
    class ShortSigner(HashSigner):
        def sign(self, message: bytes) -> bytes:
            return super().sign(message)[:32]

    with pytest.raises(ValueError, match="a signature must have 64 bytes, got 32"):
        encode_payload(header(), *SMALL, ShortSigner())


def test_chunks_under_other_names_are_refused() -> None:
    chunks, grids = SMALL

    with pytest.raises(ValueError, match=r"only in one: \{'bias'\}"):
        encode_payload(header(), {name: sent for name, sent in chunks.items() if name != "bias"}, grids, HashSigner())


def test_chunks_that_break_a_promise_are_refused_with_the_parameter() -> None:
    chunks, grids = SMALL
    broken = replace(chunks["bias"], codes=torch.tensor([3, 254], dtype=torch.uint8))

    with pytest.raises(ValueError, match="parameter bias: the largest scale code must be 255"):
        encode_payload(header(), chunks | {"bias": broken}, grids, HashSigner())
