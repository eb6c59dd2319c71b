"""Values <-> statements <-> signed documents, by one table of fields that is written and read alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from templar_pl.errors import Fault
from templar_pl.protocol.document import JsonMap, JsonValue, open_document, sign_document
from templar_pl.protocol.fields import (
    check_names,
    read_any_number,
    read_digest,
    read_list,
    read_map,
    read_number,
    read_text,
    read_whole,
)
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Uid

T = TypeVar("T")
V = TypeVar("V")

_UID = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Field(Generic[V]):
    """How a value stands in a statement."""

    write: Callable[[V], JsonValue]
    read: Callable[[JsonValue, str], V]
    """Of what stands there and the name of the field; raises `ValueError` with that name."""


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """A map of fields that stands for one value."""

    make: Callable[..., T]
    """Takes what the fields say by their names, None for those that are not there; raises `ValueError`."""

    fields: Mapping[str, Field[Any]]
    """By name; written are the attributes of these names."""

    optional: Mapping[str, Field[Any]] = field(default_factory=dict)
    """The same of those that are not there where the attribute is None."""

    def write(self, value: T) -> JsonMap:
        """Return the statement of a value."""
        given = {name: each for name, each in self.optional.items() if getattr(value, name) is not None}
        return {name: each.write(getattr(value, name)) for name, each in {**self.fields, **given}.items()}

    def read(self, statement: JsonMap) -> T:
        """Return what a statement says. Raises `ValueError` if it lacks a field, has one too many or a wrong one."""
        check_names(statement, self.fields.keys() | (self.optional.keys() & statement.keys()))
        known = {**self.fields, **self.optional}
        said = {name: each.read(statement[name], name) for name, each in known.items() if name in statement}
        return self.make(**{**dict.fromkeys(self.optional), **said})


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Generic[T]):
    """Documents of one kind."""

    kind: str
    """What `sign_document` takes."""

    what: str
    """The same in words, for messages."""

    max_bytes: int
    record: Record[T]

    def encode(self, value: T, signer: Signer) -> bytes:
        """Write and sign a value.

        Raises:
            ValueError: it takes more than `max_bytes` bytes, or holds what no statement is made of.
        """
        data = sign_document(self.kind, self.record.write(value), signer)
        if len(data) > self.max_bytes:
            raise ValueError(f"{self.what} has at most {self.max_bytes} bytes, got {len(data)}")
        return data

    def decode(self, data: bytes, verify: Verify) -> tuple[bytes, T]:
        """Read and check a document.

        Args:
            data: bytes of any content and length.
            verify: checks a signature.

        Returns:
            The public key of whoever signed it, which may be anybody, and what it says.

        Raises:
            DocumentError: the bytes are no such document, or the signature is not good. The fault is SIZE, FORMAT,
                SIGNATURE or CONTENT.
        """
        document = open_document(self.kind, data, verify, max_bytes=self.max_bytes)
        return document.read(self.record.read, self.what)


def nested(record: Record[T]) -> Field[T]:
    """Return the field of a map that stands for one value."""
    return Field(record.write, lambda value, name: record.read(read_map(value, name)))


def list_of(one: Field[V], what: str) -> Field[Iterable[V]]:
    """Return the field of several values, which reads a tuple.

    Args:
        one: of each.
        what: an element is, for messages.
    """
    return Field(
        lambda values: [one.write(value) for value in values],
        lambda value, name: tuple(one.read(each, what) for each in read_list(value, name)),
    )


def by_uid(record: Record[T]) -> Field[Mapping[Uid, T]]:
    """Return the field of a map by uid, which is read in uid order."""

    def read(value: JsonValue, name: str) -> dict[Uid, T]:
        found: dict[Uid, T] = {}
        for text, each in read_map(value, name).items():
            if not _UID.fullmatch(text) or not isinstance(each, dict):
                raise ValueError(f"{name} must be maps by uid, got {text[:40]!r}")
            found[Uid(int(text))] = record.read(each)
        return dict(sorted(found.items()))

    return Field(lambda values: {str(uid): record.write(each) for uid, each in values.items()}, read)


def _as_it_is(value: V) -> V:
    return value


def _write_number(number: float) -> str:
    return float(number).hex()


TEXT: Field[str] = Field(_as_it_is, read_text)
WHOLE: Field[int] = Field(_as_it_is, read_whole)
MAP: Field[JsonMap] = Field(_as_it_is, read_map)
DIGEST = Field(bytes.hex, read_digest)
NUMBER = Field(_write_number, read_number)
ANY_NUMBER = Field(_write_number, read_any_number)
FAULT = Field(lambda fault: fault.value, lambda value, name: Fault(read_text(value, name)))
