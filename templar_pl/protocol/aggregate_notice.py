"""The notice that the aggregate of a window is complete, signed by the aggregator and published last.

It tells size and SHA-256, so that an aggregate can be fetched in parts, again after a failure, and is known before a
byte of it is applied.
"""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.protocol.document import MAX_INTEGER, JsonMap, open_document, sign_document
from templar_pl.protocol.fields import check_between, check_digests, check_names, digest_of, whole_of
from templar_pl.protocol.keys import MAX_WINDOW
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Window

MAX_NOTICE_BYTES = 1024
"""A notice has some 550 bytes."""

_KIND = "aggregate"
_FIELDS = {"run", "window", "manifest", "sha256", "size"}


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


def encode_notice(notice: AggregateNotice, signer: Signer) -> bytes:
    """Write and sign the notice of an aggregate, in at most MAX_NOTICE_BYTES bytes."""
    statement: JsonMap = {
        "run": notice.run.hex(),
        "window": notice.window,
        "manifest": notice.manifest.hex(),
        "sha256": notice.sha256.hex(),
        "size": notice.size,
    }
    return sign_document(_KIND, statement, signer)


def decode_notice(data: bytes, verify: Verify) -> tuple[bytes, AggregateNotice]:
    """Read and check the notice of an aggregate.

    Args:
        data: bytes of any content and length.
        verify: checks a signature.

    Returns:
        The public key of whoever signed it, which may be anybody, and what it says.

    Raises:
        DocumentError: the bytes are no notice, or the signature is not good. The fault is SIZE, FORMAT, SIGNATURE or
            CONTENT.
    """
    return open_document(_KIND, data, verify, max_bytes=MAX_NOTICE_BYTES).read(_read_notice, "notice of an aggregate")


def _read_notice(statement: JsonMap) -> AggregateNotice:
    """Return what a statement says. Raises `ValueError` if it is none about an aggregate."""
    check_names(statement, _FIELDS)
    return AggregateNotice(
        run=digest_of(statement, "run"),
        window=Window(whole_of(statement, "window")),
        manifest=digest_of(statement, "manifest"),
        sha256=digest_of(statement, "sha256"),
        size=whole_of(statement, "size"),
    )
