"""Signed documents: small facts that one hotkey states and anybody can check, in JSON that people can read.

    {"format":1,"kind":"run","public_key":"...","signature":"...","statement":{...}}

One byte string for one meaning: maps are sorted by key, there is no space, text is UTF-8 and escaped only where JSON
needs it (these are the bytes of RFC 8785). A statement is made of maps, lists, texts and whole numbers. JSON writes one
fraction in many ways, and readers round it differently, so a number with a fraction travels as the text that
`float.hex` gives. The signature is over a tag and the SHA-256 of the same bytes without the signature.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, Union, cast

from templar_pl.errors import DocumentError, Fault
from templar_pl.protocol.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer, Verify

T = TypeVar("T")

# Unions of names that are not there yet cannot be written with a bar before Python 3.14.
JsonValue: TypeAlias = Union[int, str, "list[JsonValue]", "JsonMap"]
JsonMap: TypeAlias = "dict[str, JsonValue]"
"""What a statement is made of; truth values, nothing and numbers with a fraction are not part of it."""

FORMAT = 1
MAX_INTEGER = 2**53 - 1
"""Whole numbers of either sign up to this one; readers in other languages round larger ones."""

MAX_DEPTH = 16
"""Maps and lists inside one another, the statement included."""

_SIGNATURE_TAG = b"templar_pl/document/1\0"
_FIELDS = {"format", "kind", "public_key", "signature", "statement"}
_KIND = re.compile(r"[a-z]{1,32}")
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,200}")


@dataclass(frozen=True, slots=True)
class Document:
    """What a hotkey has signed."""

    public_key: bytes
    """32 bytes: who states it."""

    statement: JsonMap

    def read(self, read: Callable[[JsonMap], T], what: str) -> tuple[bytes, T]:
        """Return whose document it is, and what it says.

        Args:
            read: makes a value of the statement, or raises `ValueError`.
            what: it should be, for the message.

        Raises:
            DocumentError: the statement is no such thing; the fault is CONTENT.
        """
        try:
            return self.public_key, read(self.statement)
        except ValueError as error:
            raise DocumentError(f"no {what}: {error}", fault=Fault.CONTENT) from error


def sign_document(kind: str, statement: JsonMap, signer: Signer) -> bytes:
    """Write and sign a document.

    Args:
        kind: what the statement is about, 1..32 of a-z; a signature for one kind is none for another.
        statement: keys have 1..200 letters, digits and `_.:-`.
        signer: the hotkey that states it.

    Returns:
        The same bytes for the same meaning, up to the signature, whose length is always the same.

    Raises:
        ValueError: the kind is malformed, or the statement holds something else than `JsonMap` names.
    """
    if not _KIND.fullmatch(kind):
        raise ValueError(f"the kind of a document must be 1..32 of a-z, got {kind!r}")
    _check(statement, 1)
    fields: JsonMap = {
        "format": FORMAT,
        "kind": kind,
        "public_key": signer.public_key.hex(),
        "statement": statement,
    }
    return _canonical(fields | {"signature": signer.sign(_signed_message(fields)).hex()})


def open_document(kind: str, data: bytes, verify: Verify, *, max_bytes: int) -> Document:
    """Read and check a document.

    Args:
        kind: that was asked for.
        data: bytes of any content and length.
        verify: checks a signature.
        max_bytes: more are refused unread; opening takes some 50 times as much memory at worst.

    Returns:
        The document; whoever states it may be anybody, so compare the public key.

    Raises:
        DocumentError: the bytes are no document of this kind in its only form, or the signature is not good. The fault
            is SIZE, FORMAT or SIGNATURE.
    """
    if len(data) > max_bytes:
        raise DocumentError(f"a {kind} document has at most {max_bytes} bytes, got {len(data)}", fault=Fault.SIZE)
    try:
        fields = _parse(data, kind)
        public_key = _unhex(fields, "public_key", PUBLIC_KEY_BYTES)
        signature = _unhex(fields, "signature", SIGNATURE_BYTES)
    except ValueError as error:
        raise DocumentError(f"no {kind} document: {error}", fault=Fault.FORMAT) from error
    del fields["signature"]
    if not verify(public_key, _signed_message(fields), signature):
        raise DocumentError(f"the signature is not one of {public_key.hex()} over this", fault=Fault.SIGNATURE)
    return Document(public_key, cast("JsonMap", fields["statement"]))


def _parse(data: bytes, kind: str) -> JsonMap:
    """Return the fields of a document in its only form. Raises `ValueError` if it is none."""
    try:
        fields = json.loads(data.decode())
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    if not isinstance(fields, dict) or type(fields.get("format")) is not int:
        raise ValueError("it must be a map with the number of its format")
    if fields["format"] != FORMAT:
        raise ValueError(f"format must be {FORMAT}, got another one")
    if fields.keys() != _FIELDS or not isinstance(fields["statement"], dict):
        raise ValueError(f"it must have the fields {', '.join(sorted(_FIELDS))}, the last one a map, and no others")
    if fields["kind"] != kind:
        raise ValueError(f"it is of another kind, {str(fields['kind'])[:40]!r}")
    _check(fields, 0)
    if _canonical(fields) != data:
        raise ValueError("it is not in its only form: sorted keys, each once, no spaces, no needless escapes")
    return fields


def _check(value: object, depth: int) -> None:
    """Refuse what no statement is made of. Raises `ValueError`."""
    if isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            _check_keys(value)
        for part in value.values() if isinstance(value, dict) else value:
            _check(part, depth + 1)
    elif isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"only maps, lists, texts and whole numbers are allowed, got a {type(value).__name__}")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError(f"a number must be in -{MAX_INTEGER}..{MAX_INTEGER}, got one of {value.bit_length()} bits")


def _check_keys(keys: Iterable[object]) -> None:
    for key in keys:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"a key must be 1..200 letters, digits and `_.:-`, got {str(key)[:80]!r}")


def _canonical(fields: JsonMap) -> bytes:
    """Return the only form of what `_check` lets pass. Raises `ValueError` for text that is no Unicode."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _signed_message(fields: JsonMap) -> bytes:
    """Return what the hotkey signs, from all fields but the signature."""
    return _SIGNATURE_TAG + hashlib.sha256(_canonical(fields)).digest()


def _unhex(fields: JsonMap, name: str, length: int) -> bytes:
    """Return the bytes that a field says in lower-case hexadecimal digits. Raises `ValueError` if it does not."""
    text = fields[name]
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text):
        raise ValueError(f"{name} must be {2 * length} of 0-9 and a-f")
    return bytes.fromhex(text)
