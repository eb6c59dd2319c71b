"""What one peer says of all parameters, as the bytes that travel: one section each, in the order of the names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from templar_pl.compression.grid import ChunkGrid, Grids, alike, as_grids
from templar_pl.compression.section import (
    SectionError,
    decode_section,
    decode_sections,
    encode_section,
    encode_sections,
    section_bytes,
)
from templar_pl.compression.sparse import JoinedChunks, SparseChunks, join


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """Where things are in the bodies of one model."""

    sections: Mapping[str, slice]
    """Of each parameter, in the order of the sections."""

    num_bytes: int
    """Length of a body."""

    forms: tuple[tuple[str, ...], ...]
    """Parameters whose chunks have one form."""

    form_of: Mapping[str, tuple[int, int]]
    """Of each parameter the number of its form, and its place in it."""


class Body(Mapping[str, SparseChunks]):
    """The checked bytes of a body; name -> what is sent of a parameter, decoded when it is asked for.

    Every meaning has one encoding: bodies of one model say the same if and only if their bytes are equal. Only
    `encode_body`, `decode_body` and a codec make one, so that nobody need check the bytes again.
    """

    def __init__(
        self, data: bytes, grids: Mapping[str, ChunkGrid], decoded: Sequence[JoinedChunks] | None = None
    ) -> None:
        """Store the parts.

        Args:
            data: bytes that were checked.
            grids: the chunks of each parameter.
            decoded: what the bytes say of the parameters of each form of `plan_body`, if that is known already.
        """
        self.data, self.grids = data, as_grids(grids)
        self.squares: tuple[tuple[int, int], ...] | None = None
        """Sum of the squares of what is sent of each parameter, times 2**30, if it is known already: with base 0, and
        with the base modulo 4."""

        self._decoded, self._plan = decoded, plan_body(self.grids)

    def __getitem__(self, name: str) -> SparseChunks:
        """Return what is sent of a parameter, on the CPU. Raises `KeyError` for one of another model."""
        if self._decoded is not None:
            form, place = self._plan.form_of[name]
            return self._decoded[form].parameter(place)
        return decode_section(self.section(name), self.grids[name])

    def __iter__(self) -> Iterator[str]:
        """Return the names in the order of the sections."""
        return iter(self._plan.sections)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._plan.sections)

    def section(self, name: str) -> memoryview:
        """Return the bytes of one parameter."""
        return memoryview(self.data)[self._plan.sections[name]]

    def joined(self, names: Sequence[str]) -> JoinedChunks:
        """Return what is sent of parameters with chunks of one form, one behind the other, on the CPU."""
        if self._decoded is not None and tuple(names) in self._plan.forms:
            return self._decoded[self._plan.forms.index(tuple(names))]
        if self._decoded is not None:
            return join([self[name] for name in names])
        return decode_sections([self.section(name) for name in names], self.grids[names[0]])


@functools.lru_cache(maxsize=8)
def _plan_body(grids: Grids) -> BodyPlan:
    sections, start = {}, 0
    for name in sorted(grids):
        end = start + section_bytes(grids[name])
        sections[name], start = slice(start, end), end
    forms = tuple(tuple(names) for names in alike(grids))
    form_of = {name: (form, place) for form, names in enumerate(forms) for place, name in enumerate(names)}
    return BodyPlan(sections, start, forms, form_of)


def plan_body(grids: Mapping[str, ChunkGrid]) -> BodyPlan:
    """Return where things are in the bodies of a model; what was found before for the same parameters, if anything."""
    return _plan_body(as_grids(grids))


def section_starts(grids: Mapping[str, ChunkGrid]) -> dict[str, int]:
    """Return name -> offset of the parameter's section in a body, in the order of the sections."""
    return {name: section.start for name, section in plan_body(grids).sections.items()}


def body_bytes(grids: Mapping[str, ChunkGrid]) -> int:
    """Return the length of every body of a model with these parameters."""
    return plan_body(grids).num_bytes


def encode_body(chunks: Mapping[str, SparseChunks], grids: Mapping[str, ChunkGrid]) -> Body:
    """Write what is sent of all parameters; a `Body` of the same model is returned as it is.

    Raises:
        SectionError: chunks do not fit their grid or break a promise of `SparseChunks`; the message names which.
        ValueError: names differ.
    """
    if chunks.keys() != grids.keys():
        raise ValueError(f"chunks and grids must have the same names, got only in one: {chunks.keys() ^ grids.keys()}")
    if isinstance(chunks, Body) and chunks.grids == grids:
        return chunks
    sections = []
    for name in sorted(grids):
        try:
            sections.append(encode_section(chunks[name], grids[name]))
        except SectionError as error:
            raise SectionError(f"parameter {name}: {error}") from error
    return Body(b"".join(sections), grids)


Ready = Callable[[memoryview], None]
"""Takes the next bytes of a body while later ones are still to be made."""


class SectionsInOrder:
    """Sections of a body that are made in any order and handed on in theirs."""

    def __init__(self, grids: Mapping[str, ChunkGrid], ready: Ready | None) -> None:
        """Start with none.

        Args:
            grids: the chunks of each parameter.
            ready: takes each section as soon as all before it are there too; None if nobody waits for them.
        """
        self._grids, self._ready = grids, ready
        self._names = list(plan_body(grids).sections)
        self._sections: dict[str, bytes] = {}
        self._handed_on = 0

    def add(self, names: Sequence[str], said: JoinedChunks) -> None:
        """Write what is sent of parameters with chunks of one form; nothing is checked."""
        self._sections |= zip(names, encode_sections(said, self._grids[names[0]]), strict=True)
        if self._ready is None:
            return
        while self._handed_on < len(self._names) and self._names[self._handed_on] in self._sections:
            self._ready(memoryview(self._sections[self._names[self._handed_on]]))
            self._handed_on += 1

    def body(self, decoded: Sequence[JoinedChunks]) -> Body:
        """Return all sections as a body; `decoded` is what they say, as `Body` wants it."""
        return Body(b"".join(self._sections[name] for name in self._names), self._grids, decoded)


def read_body(data: bytes | bytearray | memoryview, grids: Mapping[str, ChunkGrid]) -> Body:
    """Check a body and decode all of it, in numpy.

    Raises:
        SectionError: the bytes are none that `encode_body` writes; the message names the parameter and the chunk.
    """
    owned, known = bytes(data), as_grids(grids)
    plan, view = plan_body(known), memoryview(owned)
    if len(owned) != plan.num_bytes:
        raise SectionError(f"a body of this model has {plan.num_bytes} bytes, got {len(owned)}")
    try:
        decoded = [
            decode_sections([view[plan.sections[name]] for name in names], known[names[0]]) for names in plan.forms
        ]
        return Body(owned, known, decoded)
    except SectionError as error:
        for name, section in plan.sections.items():
            _decode_one(view[section], name, known[name])
        raise AssertionError("sections that are right one by one must be right together") from error


def _decode_one(section: memoryview, name: str, grid: ChunkGrid) -> None:
    """Raise `SectionError` with the name of the parameter if its section is wrong."""
    try:
        decode_section(section, grid)
    except SectionError as error:
        raise SectionError(f"parameter {name}: {error}") from error
