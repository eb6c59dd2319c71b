"""The manifest of a window: which payloads it consisted of and where that led, signed by the aggregator.

The aggregate of the window comes after it, and names the SHA-256 of the manifest as it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from templar_pl.config import MAX_PEERS
from templar_pl.errors import Fault, PayloadError, StoreError
from templar_pl.protocol.agreement import Settlement
from templar_pl.protocol.document import MAX_INTEGER, JsonMap, JsonValue
from templar_pl.protocol.fields import DIGEST_BYTES, check_between, check_digests, check_names, read_digest
from templar_pl.protocol.form import DIGEST, FAULT, NUMBER, TEXT, WHOLE, Field, Form, Record
from templar_pl.protocol.keys import MAX_UID, MAX_WINDOW
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Uid, Window

MAX_MANIFEST_BYTES = 2**18
"""Each of 512 uids takes some 90 bytes, 310 at most."""

MAX_WORDS = 120
"""Characters of the words with which a uid is left out."""

_MAX_TIME = 2.0**40
_UID = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why a selected uid is left out. Raises `ValueError` for words that a log could not take as they are."""

    fault: Fault
    words: str
    """0..MAX_WORDS printable ASCII characters."""

    def __post_init__(self) -> None:
        if len(self.words) > MAX_WORDS or not (self.words.isascii() and self.words.isprintable()):
            raise ValueError(f"words must be at most {MAX_WORDS} printable ASCII characters, got {self.words[:200]!r}")

    @staticmethod
    def because(error: PayloadError | StoreError) -> Exclusion:
        """Return the exclusion of a peer whose payload could not be taken; a store that failed leaves it MISSING."""
        fault, words = (error.fault, error.reason) if isinstance(error, PayloadError) else (Fault.MISSING, str(error))
        kept = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in words[:MAX_WORDS])
        return Exclusion(fault, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a window was. Raises `ValueError` for a value out of range."""

    run: bytes
    """Digest of the run's settings, as payloads carry it; 32 bytes."""

    window: Window
    """0..MAX_WINDOW."""

    payloads: Mapping[Uid, bytes]
    """SHA-256 (32 bytes) of the payload of each uid that took part."""

    left_out: Mapping[Uid, Exclusion]
    """Every other uid that was selected; both together at most MAX_PEERS, uids 0..MAX_UID."""

    opened_at: float
    """UTC seconds by the store's clock at which uploads were first accepted; 0..2**40."""

    closed_at: float
    """UTC seconds by the store's clock at which the last accepted upload may have landed; opened_at..2**40."""

    before: bytes
    """Fingerprint of the parameters before the update; 32 bytes."""

    after: bytes
    """Fingerprint of the parameters after it; 32 bytes."""

    steps: int
    """Updates applied since the run began, this one included; 1..2**53 - 1."""

    learning_rate: float
    """With which the update was applied; finite, at least 0; it travels with all its bits."""

    def __post_init__(self) -> None:
        check_digests(self, "run", "before", "after")
        check_between(
            self,
            window=(0, MAX_WINDOW),
            opened_at=(0, _MAX_TIME),
            closed_at=(self.opened_at, _MAX_TIME),
            steps=(1, MAX_INTEGER),
            learning_rate=(0, math.nextafter(math.inf, 0)),
        )
        for name in ("opened_at", "closed_at", "learning_rate"):
            if math.copysign(1, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be no negative zero: one number has one encoding")
        _check_peers(self.payloads, self.left_out)

    @property
    def peers(self) -> dict[Uid, bytes | Exclusion]:
        """What is said of every selected uid: the hash of its payload, or why it is left out."""
        return {**self.payloads, **self.left_out}

    def settlement(self) -> Settlement:
        """Return the list that all nodes apply."""
        payloads = {uid: self.payloads[uid] for uid in sorted(self.payloads)}
        return Settlement(self.window, payloads, self.opened_at, self.closed_at)


def encode_manifest(manifest: Manifest, signer: Signer) -> bytes:
    """Write and sign a manifest, in at most MAX_MANIFEST_BYTES bytes."""
    return _FORM.encode(manifest, signer)


def decode_manifest(data: bytes, verify: Verify) -> tuple[bytes, Manifest]:
    """Read and check a manifest; arguments, result and errors as of `Form.decode`."""
    return _FORM.decode(data, verify)


def _check_peers(payloads: Mapping[Uid, bytes], left_out: Mapping[Uid, Exclusion]) -> None:
    if twice := payloads.keys() & left_out.keys():
        raise ValueError(f"a uid takes part or is left out, not both: {sorted(twice)[:8]}")
    if len(payloads) + len(left_out) > MAX_PEERS:
        raise ValueError(f"at most {MAX_PEERS} uids are selected, got {len(payloads) + len(left_out)}")
    for uid in (*payloads, *left_out):
        if not 0 <= uid <= MAX_UID:
            raise ValueError(f"uid must be in 0..{MAX_UID}, got {uid}")
    for uid, sha256 in payloads.items():
        if len(sha256) != DIGEST_BYTES:
            raise ValueError(f"sha256 of the payload of uid {uid} must have {DIGEST_BYTES} bytes, got {len(sha256)}")


def _manifest_of(peers: Mapping[Uid, bytes | Exclusion], **said: Any) -> Manifest:
    payloads = {uid: each for uid, each in peers.items() if isinstance(each, bytes)}
    left_out = {uid: each for uid, each in peers.items() if isinstance(each, Exclusion)}
    return Manifest(payloads=payloads, left_out=left_out, **said)


def _write_peers(peers: Mapping[Uid, bytes | Exclusion]) -> JsonMap:
    return {
        str(uid): {"sha256": each.hex()} if isinstance(each, bytes) else _EXCLUSION.write(each)
        for uid, each in peers.items()
    }


def _read_peers(value: JsonValue, name: str) -> dict[Uid, bytes | Exclusion]:
    if not isinstance(value, dict) or len(value) > MAX_PEERS:
        raise ValueError(f"{name} must be a map of at most {MAX_PEERS}")
    peers: dict[Uid, bytes | Exclusion] = {}
    for uid in sorted(map(_uid, value)):
        entry = value[str(uid)]
        if not isinstance(entry, dict):
            raise ValueError(f"what is said of uid {uid} must be a map")
        if "sha256" in entry:
            check_names(entry, {"sha256"})
            peers[uid] = read_digest(entry["sha256"], "sha256")
        else:
            peers[uid] = _EXCLUSION.read(entry)
    return peers


def _uid(text: str) -> Uid:
    if not _UID.fullmatch(text):
        raise ValueError(f"a uid must be a whole number without leading zeros, got {text!r}")
    return Uid(int(text))


_EXCLUSION = Record(Exclusion, {"fault": FAULT, "words": TEXT})
_FORM = Form(
    kind="manifest",
    what="manifest",
    max_bytes=MAX_MANIFEST_BYTES,
    record=Record(
        _manifest_of,
        {
            "run": DIGEST,
            "window": WHOLE,
            "peers": Field(_write_peers, _read_peers),
            "opened_at": NUMBER,
            "closed_at": NUMBER,
            "before": DIGEST,
            "after": DIGEST,
            "steps": WHOLE,
            "learning_rate": NUMBER,
        },
    ),
)
