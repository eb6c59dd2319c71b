"""What one peer says of all parameters, as the bytes that travel: one section each, in the order of the names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from templar_pl.compression.grid import ChunkGrid, alike
from templar_pl.compression.section import (
    SectionError,
    decode_section,
    decode_sections,
    encode_section,
    section_bytes,
)
from templar_pl.compression.sparse import SparseChunks


class Body(Mapping[str, SparseChunks]):
    """The checked bytes of a body; name -> what is sent of a parameter, decoded when it is asked for.

    Every meaning has one encoding: bodies of one model say the same if and only if their bytes are equal. Only
    `encode_body`, `decode_body` and a codec make one, so that nobody need check the bytes again.
    """

    def __init__(
        self, data: bytes, grids: Mapping[str, ChunkGrid], decoded: Mapping[str, SparseChunks] | None = None
    ) -> None:
        """Store the parts.

        Args:
            data: bytes that were checked.
            grids: the chunks of each parameter.
            decoded: what the bytes say, if that is known already.
        """
        self.data, self.grids = data, grids
        self.squares: tuple[tuple[int, int], ...] | None = None
        """Sum of the squares of what is sent of each parameter, times 2**30, if it is known already: with base 0, and
        with the base modulo 4."""

        self._decoded = decoded
        self._starts = section_starts(grids)

    def __getitem__(self, name: str) -> SparseChunks:
        """Return what is sent of a parameter, on the CPU. Raises `KeyError` for one of another model."""
        if self._decoded is not None:
            return self._decoded[name]
        return decode_section(self.section(name), self.grids[name])

    def __iter__(self) -> Iterator[str]:
        """Return the names in the order of the sections."""
        return iter(self._starts)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._starts)

    def section(self, name: str) -> memoryview:
        """Return the bytes of one parameter."""
        start = self._starts[name]
        return memoryview(self.data)[start : start + section_bytes(self.grids[name])]


def section_starts(grids: Mapping[str, ChunkGrid]) -> dict[str, int]:
    """Return name -> offset of the parameter's section in a body, in the order of the sections."""
    starts, start = {}, 0
    for name in sorted(grids):
        starts[name] = start
        start += section_bytes(grids[name])
    return starts


def body_bytes(grids: Mapping[str, ChunkGrid]) -> int:
    """Return the length of every body of a model with these parameters."""
    return sum(section_bytes(grid) for grid in grids.values())


def encode_body(chunks: Mapping[str, SparseChunks], grids: Mapping[str, ChunkGrid]) -> Body:
    """Write what is sent of all parameters; a `Body` of the same model is returned as it is.

    Raises:
        SectionError: chunks do not fit their grid or break a promise of `SparseChunks`; the message names which.
        ValueError: names differ.
    """
    if chunks.keys() != grids.keys():
        raise ValueError(f"chunks and grids must have the same names, got only in one: {chunks.keys() ^ grids.keys()}")
    if isinstance(chunks, Body) and (chunks.grids is grids or dict(chunks.grids) == dict(grids)):
        return chunks
    sections = []
    for name in sorted(grids):
        try:
            sections.append(encode_section(chunks[name], grids[name]))
        except SectionError as error:
            raise SectionError(f"parameter {name}: {error}") from error
    return Body(b"".join(sections), grids)


def read_body(data: bytes | bytearray | memoryview, grids: Mapping[str, ChunkGrid]) -> Body:
    """Check a body and decode all of it, in numpy.

    Raises:
        SectionError: the bytes are none that `encode_body` writes; the message names the parameter and the chunk.
    """
    owned = bytes(data)
    if len(owned) != body_bytes(grids):
        raise SectionError(f"a body of this model has {body_bytes(grids)} bytes, got {len(owned)}")
    view = memoryview(owned)
    sections = {name: view[start : start + section_bytes(grids[name])] for name, start in section_starts(grids).items()}
    try:
        return Body(owned, grids, _decode_alike(sections, grids))
    except SectionError as error:
        _refuse_first(sections, grids)
        raise AssertionError("sections that are right one by one must be right together") from error


def _decode_alike(sections: Mapping[str, memoryview], grids: Mapping[str, ChunkGrid]) -> dict[str, SparseChunks]:
    """Decode sections, those of parameters with chunks of one form at once."""
    decoded = {}
    for names in alike(grids):
        chunks = decode_sections([sections[name] for name in names], [grids[name] for name in names])
        decoded |= zip(names, chunks, strict=True)
    return decoded


def _refuse_first(sections: Mapping[str, memoryview], grids: Mapping[str, ChunkGrid]) -> None:
    """Raise `SectionError` for the first section that is wrong."""
    for name, section in sections.items():
        try:
            decode_section(section, grids[name])
        except SectionError as error:
            raise SectionError(f"parameter {name}: {error}") from error
