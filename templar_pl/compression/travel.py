"""The form in which a body travels: as engines read it, or compact, as the grid of each parameter says."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from templar_pl.compression.body import Body, section_starts
from templar_pl.compression.compact import CompactLayout, pack_section, unpack_section
from templar_pl.compression.grid import ChunkGrid, Grids, as_grids
from templar_pl.compression.native_check import Backend, decode_body, is_native, missing_form
from templar_pl.compression.native_compact import can_pack, native_pack_body, native_unpack_body
from templar_pl.compression.section import SectionError, section_bytes


def travel_bytes(grids: Mapping[str, ChunkGrid]) -> int:
    """Return the length of what travels of every body of a model with these parameters."""
    return _travel_bytes(as_grids(grids))


@functools.lru_cache(maxsize=8)
def _travel_bytes(grids: Grids) -> int:
    return sum(_travel_section_bytes(grid) for grid in grids.values())


def travels_as_made(grids: Mapping[str, ChunkGrid]) -> bool:
    """Return whether what travels of a body are its own bytes."""
    return not _has_compact(grids)


def pack_body(body: Body, *, backend: Backend = "auto") -> bytes:
    """Return what travels of a body: `travel_bytes(body.grids)` bytes, the same for the same meaning.

    Args:
        body: as `encode_body` or a codec gives it.
        backend: which one packs; what `native` has no tables for is packed in numpy.

    Raises:
        ValueError: native was asked for and does not know this form of payloads.
    """
    if not _has_compact(body.grids):
        return body.data
    if _is_native(body.grids, backend):
        return native_pack_body(body)
    parts = []
    for name in section_starts(body.grids):
        section, grid = body.section(name), body.grids[name]
        parts.append(pack_section(section, grid) if grid.index_coding == "compact" else bytes(section))
    return b"".join(parts)


def unpack_body(data: bytes | memoryview, grids: Mapping[str, ChunkGrid], *, backend: Backend = "auto") -> Body:
    """Undo `pack_body`, and check what comes out.

    Args:
        data: bytes of any content and length.
        grids: the chunks of each parameter.
        backend: which one unpacks and checks, as in `pack_body` and `decode_body`.

    Returns:
        A body for which `pack_body` gives the same bytes again.

    Raises:
        SectionError: the bytes are none that `pack_body` returns; the message names the parameter and the chunk.
        ValueError: native was asked for and does not know this form of payloads.
    """
    if len(data) != travel_bytes(grids):
        raise SectionError(f"a body of this model travels as {travel_bytes(grids)} bytes, got {len(data)}")
    if not _has_compact(grids):
        return decode_body(data, grids, backend=backend)
    wrong = None
    if _is_native(grids, backend):
        sections, wrong = native_unpack_body(bytes(data), grids)
        if wrong is None:
            return decode_body(sections, grids, backend=backend)
    sections = _unpack_sections(memoryview(data), grids, only=wrong)
    if wrong is not None:
        raise SectionError(f"the compiled library refuses parameter {wrong}, which numpy accepts: this is a bug")
    return decode_body(sections, grids, backend=backend)


def _unpack_sections(view: memoryview, grids: Mapping[str, ChunkGrid], *, only: str | None) -> bytes:
    """Return the sections of a body, or of one parameter `only`, in numpy. Raises `SectionError` as `unpack_body`."""
    parts, start = [], 0
    for name in section_starts(grids):
        end = start + _travel_section_bytes(grids[name])
        try:
            if only in (None, name):
                parts.append(_unpack_one(view[start:end], grids[name]))
        except SectionError as error:
            raise SectionError(f"parameter {name}: {error}") from error
        start = end
    return b"".join(parts)


def _is_native(grids: Mapping[str, ChunkGrid], backend: Backend) -> bool:
    is_asked = is_native(backend, torch.device("cpu"), torch.float32, missing=missing_form(grids))
    return is_asked and can_pack(grids)


def _has_compact(grids: Mapping[str, ChunkGrid]) -> bool:
    return any(grid.index_coding == "compact" for grid in grids.values())


def _travel_section_bytes(grid: ChunkGrid) -> int:
    return CompactLayout(grid).total_bytes if grid.index_coding == "compact" else section_bytes(grid)


def _unpack_one(part: memoryview, grid: ChunkGrid) -> bytes:
    return unpack_section(part, grid) if grid.index_coding == "compact" else bytes(part)
