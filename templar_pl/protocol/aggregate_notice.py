"""The notice that the aggregate of a window is complete, signed by the aggregator and published last.

It tells size and SHA-256, so that an aggregate can be fetched in parts, again after a failure, and is known before a
byte of it is applied.
"""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.protocol.document import MAX_INTEGER
from templar_pl.protocol.fields import check_between, check_digests
from templar_pl.protocol.form import DIGEST, WHOLE, Form, Record
from templar_pl.protocol.keys import MAX_WINDOW
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Window

MAX_NOTICE_BYTES = 1024
"""A notice has some 550 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateNotice:
    """That the aggregate of a window is published, and what it holds. Raises `ValueError` for a value out of range."""

    run: bytes
    """Digest of the run's settings; 32 bytes."""

    window: Window
    """0..MAX_WINDOW."""

    manifest: bytes
    """SHA-256 of the manifest that the aggregate names; 32 bytes."""

    sha256: bytes
    """Of the aggregate; 32 bytes."""

    size: int
    """Bytes of the aggregate; 1..2**53 - 1."""

    def __post_init__(self) -> None:
        check_digests(self, "run", "manifest", "sha256")
        check_between(self, window=(0, MAX_WINDOW), size=(1, MAX_INTEGER))


_FORM = Form(
    kind="aggregate",
    what="notice of an aggregate",
    max_bytes=MAX_NOTICE_BYTES,
    record=Record(
        AggregateNotice, {"run": DIGEST, "window": WHOLE, "manifest": DIGEST, "sha256": DIGEST, "size": WHOLE}
    ),
)


def encode_notice(notice: AggregateNotice, signer: Signer) -> bytes:
    """Write and sign the notice of an aggregate, in at most MAX_NOTICE_BYTES bytes."""
    return _FORM.encode(notice, signer)


def decode_notice(data: bytes, verify: Verify) -> tuple[bytes, AggregateNotice]:
    """Read and check the notice of an aggregate; arguments, result and errors as of `Form.decode`."""
    return _FORM.decode(data, verify)
