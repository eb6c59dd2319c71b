"""The fixed-size head of a payload: who sent it, for which window, computed on what.

Little-endian, in this order: magic (4 bytes), version u32, run digest (32), window u64, uid u32, public key (32),
digest of the pages (32), fingerprint (32), loss f32, batches u32, tokens u64, bytes of the body u64.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from templar_pl.protocol.keys import MAX_UID
from templar_pl.protocol.signing import PUBLIC_KEY_BYTES
from templar_pl.units import Uid, Window

MAGIC = b"TMPL"
VERSION = 1
DIGEST_BYTES = 32
MAX_LOSS = (2 - 2**-23) * 2.0**127  # the largest fp32

_LAYOUT = struct.Struct(f"<4sI{DIGEST_BYTES}sQI{PUBLIC_KEY_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}sfIQQ")

HEADER_BYTES = _LAYOUT.size
"""Bytes of every header: 172."""


class HeaderError(ValueError):
    """Bytes are no header of this version of the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a payload says about itself. Raises `ValueError` for a value that does not fit its field."""

    run: bytes
    """Digest of the run's settings; 32 bytes."""

    window: Window
    """The window whose gradient was sent; 0..2**64 - 1."""

    uid: Uid
    """The sender; 0..2**32 - 1."""

    public_key: bytes
    """The sender's hotkey; 32 bytes."""

    pages: bytes
    """Digest of the pages that the sender trained on (`pages_digest`); 32 bytes."""

    fingerprint: bytes
    """Fingerprint of the parameters that the gradient was taken at; 32 bytes."""

    loss: float
    """Mean training loss of the window, in nats; finite; travels as fp32, without a negative zero."""

    batches: int
    """Batches that were run; 0..2**32 - 1."""

    tokens: int
    """Tokens that were trained on; 0..2**64 - 1."""

    def __post_init__(self) -> None:
        for name in ("run", "public_key", "pages", "fingerprint"):
            if len(getattr(self, name)) != DIGEST_BYTES:
                raise ValueError(f"{name} must have {DIGEST_BYTES} bytes, got {len(getattr(self, name))}")
        for name, top in (("window", 2**64 - 1), ("uid", MAX_UID), ("batches", 2**32 - 1), ("tokens", 2**64 - 1)):
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"{name} must be in 0..{top}, got {getattr(self, name)}")
        if not abs(self.loss) <= MAX_LOSS:
            raise ValueError(f"loss must be a finite fp32 number, got {self.loss}")


def pack_header(header: Header, body_bytes: int) -> bytes:
    """Return the HEADER_BYTES bytes of a header in front of a body of `body_bytes` bytes."""
    (loss,) = struct.unpack("<f", struct.pack("<f", header.loss))
    return _LAYOUT.pack(
        MAGIC,
        VERSION,
        header.run,
        header.window,
        header.uid,
        header.public_key,
        header.pages,
        header.fingerprint,
        loss + 0.0,  # -0.0 becomes 0.0: one number, one encoding
        header.batches,
        header.tokens,
        body_bytes,
    )


def unpack_header(packed: bytes, body_bytes: int) -> Header:
    """Undo `pack_header`.

    Args:
        packed: HEADER_BYTES bytes of any content.
        body_bytes: bytes that a body must have.

    Raises:
        HeaderError: magic, version, length of the body or loss is none that `pack_header` writes here.
    """
    magic, version, run, window, uid, key, pages, fingerprint, loss, batches, tokens, length = _LAYOUT.unpack(packed)
    if magic != MAGIC:
        raise HeaderError(f"a payload begins with {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise HeaderError(f"version must be {VERSION}, got {version}")
    if length != body_bytes:
        raise HeaderError(f"the body must have {body_bytes} bytes, the header says {length}")
    if not math.isfinite(loss) or (loss == 0 and math.copysign(1, loss) < 0):
        raise HeaderError(f"loss must be a finite number and no negative zero, got {loss}")
    return Header(
        run=run,
        window=Window(window),
        uid=Uid(uid),
        public_key=key,
        pages=pages,
        fingerprint=fingerprint,
        loss=loss,
        batches=batches,
        tokens=tokens,
    )
