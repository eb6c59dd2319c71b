"""Bytes in a stranger's bucket that are wrong outside of the body, and addresses that lead nowhere."""

from __future__ import annotations

import math
from collections.abc import Callable

from templar_pl.errors import Fault
from templar_pl.protocol.header import HEADER_BYTES
from templar_pl.protocol.signing import SIGNATURE_BYTES
from tests.exchange.hostile.cast import OTHER_RUN_DIGEST, STRANGER, WINDOW, Cast
from tests.exchange.hostile.row import FORBIDDEN, NOTHING, PAYLOAD, AddressRow, PayloadRow

Make = Callable[[Cast], bytes | None]

_FIELDS = {  # name of a field that only the signature protects -> its first byte in the header
    "pages digest": 84,
    "fingerprint": 116,
    "loss": 148,
    "batches": 152,
    "tokens": 156,
}


def _signed(**fields: object) -> Make:
    return lambda cast: cast.payload(**fields)  # pyright: ignore[reportArgumentType]  # a table of mixed types


def _flipped(place: int) -> Make:
    """Return what changes a bit of the good payload after it was signed."""

    def make(cast: Cast) -> bytes:
        data = bytearray(cast.payload())
        data[place] ^= 1
        return bytes(data)

    return make


def _with_signature(signature: Callable[[Cast], bytes]) -> Make:
    return lambda cast: cast.payload()[:-SIGNATURE_BYTES] + signature(cast)[-SIGNATURE_BYTES:]


def _row(name: str, make: Make, fault: Fault, reason: str, *, reads: str = PAYLOAD, agreed: bool = False) -> PayloadRow:
    return PayloadRow(name=name, make=make, fault=fault, reason=reason, reads=reads, agreed=agreed)


def _size(name: str, make: Make, reason: str) -> PayloadRow:
    return _row(name, make, Fault.SIZE, reason, reads=NOTHING)


def _forged(name: str, make: Make) -> PayloadRow:
    return _row(name, make, Fault.SIGNATURE, "the signature is not one of")


HEADER = [
    _row("magic of another format", _signed(magic=b"PK\3\4"), Fault.FORMAT, r"got b'PK\x03\x04'"),
    _row("version 0", _signed(version=0), Fault.FORMAT, "version must be 1, got 0"),
    _row("version of the future", _signed(version=2), Fault.FORMAT, "version must be 1, got 2"),
    _row("length of the body off by one", _signed(length=33), Fault.FORMAT, "the header says 33"),
    _row("length of the body 2^64 - 1", _signed(length=2**64 - 1), Fault.FORMAT, f"the header says {2**64 - 1}"),
    _row("loss is NaN", _signed(loss=math.nan), Fault.FORMAT, "no negative zero, got nan"),
    _row("loss is infinite", _signed(loss=math.inf), Fault.FORMAT, "no negative zero, got inf"),
    _row("loss is minus infinity", _signed(loss=-math.inf), Fault.FORMAT, "no negative zero, got -inf"),
    _row("loss is minus zero", _signed(loss=-0.0), Fault.FORMAT, "no negative zero, got -0.0"),
    _row("digest of no run", _signed(run=bytes(32)), Fault.RUN, f"got {'00' * 32}"),
    _row("payload of the same sender in another run", _signed(run=OTHER_RUN_DIGEST), Fault.RUN, OTHER_RUN_DIGEST.hex()),
    _row("replay of the own window before", _signed(window=WINDOW - 1), Fault.WINDOW, "window must be 7, got 6"),
    _row("replay of the own window 0", _signed(window=0), Fault.WINDOW, "window must be 7, got 0"),
    _row("window of the future", _signed(window=2**64 - 1), Fault.WINDOW, f"got {2**64 - 1}"),
    _row("another uid, signed by the own key", _signed(uid=2), Fault.SENDER, "uid must be 1, got 2"),
    _row("payload of another peer, copied", lambda cast: cast.honest_payload(), Fault.SENDER, "uid must be 1, got 0"),
    _row(
        "a key that is not registered for the uid",
        lambda cast: cast.payload(signer=cast.honest),
        Fault.SENDER,
        "public key must be",
    ),
]

SIGNATURES = [
    *(_forged(f"{name} changed after signing", _flipped(place)) for name, place in _FIELDS.items()),
    _forged("a bit of the body changed after signing", _flipped(HEADER_BYTES)),
    _forged("a bit of the signature changed", _flipped(-1)),
    _forged("signature of zeros", _with_signature(lambda _: bytes(SIGNATURE_BYTES))),
    _forged(
        "signature by another key",
        lambda cast: cast.payload(signer=cast.honest, public_key=cast.stranger.public_key, uid=STRANGER),
    ),
    _forged("signature of another peer's payload", _with_signature(lambda cast: cast.honest_payload())),
    _forged("signature of the own window before", _with_signature(lambda cast: cast.payload(window=WINDOW - 1))),
    _forged(
        "body of another run under a new header",
        lambda cast: cast.payload()[:HEADER_BYTES] + cast.payload(run=OTHER_RUN_DIGEST)[HEADER_BYTES:],
    ),
]

OBJECTS = [
    _row("no object", lambda _: None, Fault.MISSING, "there is no such object", reads=NOTHING),
    _size("an empty object", lambda _: b"", "the object has 0 bytes"),
    _size("one byte less", lambda cast: cast.payload()[:-1], "the object has 267 bytes"),
    _size("one byte more", lambda cast: cast.payload() + b"\0", "the object has 269 bytes"),
    _size("cut behind the header", lambda cast: cast.payload()[:HEADER_BYTES], "the object has 172 bytes"),
    _size("two payloads in one", lambda cast: cast.payload() * 2, "the object has 536 bytes"),
    _size("8 MiB of zeros", lambda _: bytes(8 * 2**20), f"the object has {8 * 2**20} bytes"),
    _size(
        "payload in another index coding",
        lambda cast: Cast(cast.honest, cast.stranger, "compact").payload(),
        "the object has 263 bytes",
    ),
    _row("zeros of the right length", lambda cast: bytes(cast.size), Fault.FORMAT, r"got b'\x00\x00\x00\x00'"),
    _row(
        "a pickle of the right length",
        lambda cast: b"\x80\4cos\nsystem\n".ljust(cast.size),
        Fault.FORMAT,
        r"got b'\x80\x04co'",
    ),
    _row(
        "a good payload, but not the agreed one",
        lambda cast: cast.payload(tokens=1),
        Fault.HASH,
        "sha256 is",
        agreed=True,
    ),
]

LEGAL: dict[str, Make] = {
    "pages digest of pages that were not assigned": _signed(pages=b"x" * 32),
    "fingerprint of other parameters": _signed(fingerprint=b"x" * 32),
    "a loss that nobody has": _signed(loss=-3e38),
    "no batches, and as many tokens as there are numbers": _signed(batches=0, tokens=2**64 - 1),
    "the body of another peer under the own header": lambda cast: cast.payload(body=cast.body()),
    "the largest base": lambda cast: cast.payload(body=cast.body(lambda section: setattr(section, "base", 2047))),
}
"""Validly signed and well formed: only scores can tell that it is wrong."""

ADDRESSES = [
    AddressRow(name="an empty address", make=lambda _: "", fault=Fault.MISSING, reason="128 characters, got 0"),
    AddressRow(
        name="an address that is cut short",
        make=lambda good: good.to_text()[:-1],
        fault=Fault.MISSING,
        reason="got 127",
    ),
    AddressRow(
        name="an address that is too long",
        make=lambda good: good.to_text() + "0",
        fault=Fault.MISSING,
        reason="got 129",
    ),
    AddressRow(name="a megabyte of address", make=lambda _: "0" * 2**20, fault=Fault.MISSING, reason=f"got {2**20}"),
    AddressRow(
        name="an account that is a path",
        make=lambda good: "../" * 10 + "ab" + good.to_text()[32:],
        fault=Fault.MISSING,
        reason="the account",
    ),
    AddressRow(
        name="a key id in capitals",
        make=lambda good: good.account + "A" * 32 + good.key.secret.reveal(),
        fault=Fault.MISSING,
        reason="the key id of a bucket's address",
    ),
    AddressRow(
        name="a secret that is not hexadecimal",
        make=lambda good: good.to_text()[:64] + "\u0660" * 64,
        fault=Fault.MISSING,
        reason="the secret of a bucket's address",
    ),
    AddressRow(name="a wrong secret", make=lambda good: good.to_text()[:64] + "f" * 64, reason=FORBIDDEN),
    AddressRow(name="a key that does not exist", make=lambda good: good.account + "f" * 96, reason=FORBIDDEN),
    AddressRow(
        name="an account that does not exist", make=lambda good: "f" * 32 + good.to_text()[32:], reason=FORBIDDEN
    ),
]
