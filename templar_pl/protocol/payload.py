"""Payload <-> bytes: what one peer sends for one window.

A payload is header, body and signature. The body holds one section a parameter, in the order of the parameters' names,
in the form in which it travels; its length follows from the grids alone. The hotkey signs a tag, the header and the
SHA-256 of the body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from templar_pl.compression import Body, encode_body, pack_body, travel_bytes, unpack_body
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.section import SectionError
from templar_pl.compression.sparse import SparseChunks
from templar_pl.errors import Fault, PayloadError
from templar_pl.protocol.header import HEADER_BYTES, Header, HeaderError, pack_header, unpack_header
from templar_pl.protocol.signing import SIGNATURE_BYTES, Signer, Verify
from templar_pl.units import Uid, Window

_SIGNATURE_TAG = b"templar_pl/payload/1\0"


@dataclass(frozen=True, slots=True)
class Payload:
    """What one peer sent for one window, checked."""

    header: Header
    chunks: Mapping[str, SparseChunks]
    """Name of the parameter -> what is sent of it, in the order of the names; of a decoded payload a `Body`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a payload must say to be the one that was asked for."""

    run: bytes
    """Digest of the run's settings; 32 bytes."""

    window: Window
    uid: Uid
    public_key: bytes
    """32 bytes: the hotkey that the chain has registered for the uid."""


def payload_bytes(grids: Mapping[str, ChunkGrid]) -> int:
    """Return the length of every payload of a model with these parameters."""
    return HEADER_BYTES + travel_bytes(grids) + SIGNATURE_BYTES


def encode_payload(
    header: Header, chunks: Mapping[str, SparseChunks], grids: Mapping[str, ChunkGrid], signer: Signer
) -> bytes:
    """Write and sign a payload.

    Args:
        header: with the public key of `signer`.
        chunks: what is sent of each parameter, on any device.
        grids: the chunks of each parameter, under the same names.
        signer: the hotkey of the sender.

    Returns:
        `payload_bytes(grids)` bytes; the same for the same meaning, up to the signature.

    Raises:
        ValueError: names differ, chunks do not fit their grid or break a promise of `SparseChunks`, or the signer is
            another one than the header names.
    """
    body = pack_body(encode_body(chunks, grids))
    writer = PayloadWriter(header, len(body), signer)
    writer.add(body)
    return writer.head + body + writer.sign()


class PayloadWriter:
    """Signs a payload whose body is handed over part by part, in the form in which it travels."""

    def __init__(self, header: Header, body_bytes: int, signer: Signer) -> None:
        """Begin.

        Args:
            header: with the public key of `signer`.
            body_bytes: length of what travels of the body, `travel_bytes(grids)`.
            signer: the hotkey of the sender.

        Raises:
            ValueError: the signer is another one than the header names.
        """
        if header.public_key != signer.public_key:
            raise ValueError(f"the header names {header.public_key.hex()}, the signer is {signer.public_key.hex()}")
        self.head = pack_header(header, body_bytes)
        """What comes before the body."""

        self._signer, self._left, self._hash = signer, body_bytes, hashlib.sha256()

    def add(self, part: bytes | memoryview) -> None:
        """Take the next part of the body."""
        self._left -= len(part)
        self._hash.update(part)

    def sign(self) -> bytes:
        """Return what comes behind the body. Raises `ValueError` if the body was not as long as announced."""
        if self._left:
            raise ValueError(f"the body has {-self._left:+d} bytes more than were announced")
        signature = self._signer.sign(_SIGNATURE_TAG + self.head + self._hash.digest())
        if len(signature) != SIGNATURE_BYTES:
            raise ValueError(f"a signature must have {SIGNATURE_BYTES} bytes, got {len(signature)}")
        return signature


def decode_payload(data: bytes, grids: Mapping[str, ChunkGrid], expected: Expected, verify: Verify) -> Payload:
    """Read and check a payload.

    The cheap checks come first: length, header, signature, and only then the body.

    Args:
        data: bytes of any content and length.
        grids: the chunks of each parameter.
        expected: what was asked for.
        verify: checks a signature.

    Returns:
        The payload; `encode_payload` by the same sender gives the same header and body again.

    Raises:
        PayloadError: the bytes are not the payload that was asked for. Its fault is SIZE, FORMAT, RUN, WINDOW, SENDER,
            SIGNATURE or CONTENT.
    """
    size = payload_bytes(grids)
    if len(data) != size:
        raise _refusal(Fault.SIZE, f"a payload of this model has {size} bytes, got {len(data)}", expected)
    view = memoryview(data)
    body = view[HEADER_BYTES : size - SIGNATURE_BYTES]
    header = _read_header(bytes(view[:HEADER_BYTES]), len(body), expected)
    message = _signed_message(view[:HEADER_BYTES], body)
    if not verify(expected.public_key, message, bytes(view[size - SIGNATURE_BYTES :])):
        reason = f"the signature is not one of {expected.public_key.hex()} over these bytes"
        raise _refusal(Fault.SIGNATURE, reason, expected)
    return Payload(header, _read_body(body, grids, expected))


def _read_header(packed: bytes, body_bytes: int, expected: Expected) -> Header:
    """Return the header if it says what was expected. Raises `PayloadError` if not."""
    try:
        header = unpack_header(packed, body_bytes)
    except HeaderError as error:
        raise _refusal(Fault.FORMAT, str(error), expected) from error
    if header.run != expected.run:
        raise _refusal(Fault.RUN, f"run must be {expected.run.hex()}, got {header.run.hex()}", expected)
    if header.window != expected.window:
        raise _refusal(Fault.WINDOW, f"window must be {expected.window}, got {header.window}", expected)
    if header.uid != expected.uid:
        raise _refusal(Fault.SENDER, f"uid must be {expected.uid}, got {header.uid}", expected)
    if header.public_key != expected.public_key:
        reason = f"public key must be {expected.public_key.hex()}, got {header.public_key.hex()}"
        raise _refusal(Fault.SENDER, reason, expected)
    return header


def _read_body(body: memoryview, grids: Mapping[str, ChunkGrid], expected: Expected) -> Body:
    """Return what is sent of each parameter. Raises `PayloadError` for a section with a fault."""
    try:
        return unpack_body(body, grids)
    except SectionError as error:
        raise _refusal(Fault.CONTENT, str(error), expected) from error


def _signed_message(header: bytes | memoryview, body: bytes | memoryview) -> bytes:
    """Return what the hotkey signs."""
    return _SIGNATURE_TAG + header + hashlib.sha256(body).digest()


def _refusal(fault: Fault, reason: str, expected: Expected) -> PayloadError:
    """Return the error that names the peer and the window that were asked for."""
    return PayloadError(reason, fault=fault, peer=expected.uid, window=expected.window)
