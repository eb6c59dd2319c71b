"""The compact form of a body by the compiled library: the same bytes as in numpy, several times faster."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping

import torch

from templar_pl.compression.body import Body
from templar_pl.compression.compact import CompactLayout
from templar_pl.compression.enumerative import BLOCK, SetTable, set_table
from templar_pl.compression.grid import ChunkGrid, Grids, as_grids
from templar_pl.compression.native_library import Job, NativeError, address_of, load_library, plan_of

MAX_WORDS = 16
"""Of a number, in `native/compact.c`."""

_POINTER, _I64, _I32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class Compact(ctypes.Structure):
    """`compact_t`."""

    _fields_ = [
        *((name, _POINTER) for name in ("exact", "nearby", "coarse")),
        ("last", ctypes.c_uint64 * MAX_WORDS),
        *((name, _I64) for name in ("records", "record_bits", "num_bytes")),
        *((name, _I32) for name in ("words", "bits", "tail_bits", "blocks")),
    ]


class CompactJob(Job):
    """`compact_job_t`."""

    _fields_ = (("compacts", _POINTER), ("travels", _POINTER))


class CompactPlan:
    """Where the parameters of one model are in the compact form of a body, in the order of the sections."""

    def __init__(self, grids: Mapping[str, ChunkGrid]) -> None:
        """Lay out the parameters.

        Raises:
            NativeError: the library was built from other sources.
        """
        sizes = (ctypes.c_int64 * 2)()
        load_library().measure("native_compact_abi", sizes)
        if list(sizes) != [ctypes.sizeof(Compact), ctypes.sizeof(CompactJob)]:
            raise NativeError(f"it was built from other sources (structures of {list(sizes)} bytes): build it again")
        self.grids, self.plan = dict(grids), plan_of(grids)
        self.total_bytes = 0
        self._kept: list[SetTable] = []  # what the parameters point to
        self._compacts = (Compact * len(grids))()
        self.heads: list[tuple[str, slice, slice]] = []
        """Of each parameter its name, and where base and scale codes are in a body and in what travels."""

        for slot, (name, start) in zip(self._compacts, self.plan.starts.items(), strict=True):
            layout = CompactLayout(grids[name])
            head = layout.records_start
            self.heads.append((name, slice(start, start + head), slice(self.total_bytes, self.total_bytes + head)))
            slot.records = self.total_bytes + head
            self._describe(slot, layout)
            self.total_bytes += layout.total_bytes

    def job(self, body: bytearray | bytes, travels: bytearray | bytes) -> CompactJob:
        """Return a job on all parameters and these bytes; keep them, and what is returned, while it runs."""
        job = CompactJob(num_parameters=len(self.heads), num_chunks=self.plan.num_chunks)
        job.compacts = ctypes.addressof(self._compacts)
        job.body, job.travels = address_of(body), address_of(travels)
        return job

    def _describe(self, slot: Compact, layout: CompactLayout) -> None:
        code, table = layout.code, set_table(layout.code)
        self._kept.append(table)
        slot.exact, slot.nearby, slot.coarse = (
            array.ctypes.data for array in (table.exact, table.nearby, table.coarse)
        )
        last = (code.num_sets - 1).to_bytes(8 * MAX_WORDS, "little")
        slot.last = (ctypes.c_uint64 * MAX_WORDS).from_buffer_copy(last)
        slot.record_bits, slot.num_bytes = layout.record_bits, layout.total_bytes - layout.records_start
        slot.words, slot.bits, slot.tail_bits = code.words, code.bits, layout.tail_bits
        slot.blocks = table.nearby.shape[1] // BLOCK


@functools.lru_cache(maxsize=8)
def _plan_of(grids: Grids) -> CompactPlan:
    return CompactPlan(grids)


def can_pack(grids: Mapping[str, ChunkGrid]) -> bool:
    """Return whether the library packs all these parameters, if values have one bit: all compact, and with a table."""
    return all(grid.index_coding == "compact" and CompactLayout(grid).code.has_table for grid in grids.values())


def native_pack_body(body: Body) -> bytes:
    """Do what `pack_body` does, for values of one bit and if `can_pack`. Raises `NativeError` without the library."""
    compact = _plan_of(body.grids)
    travels = bytearray(compact.total_bytes)
    for _, inside, outside in compact.heads:
        travels[outside] = body.data[inside]
    parameters = compact.plan.parameters()
    job = compact.job(body.data, travels)
    job.parameters = ctypes.addressof(parameters)
    load_library().run("native_pack", job, threads=torch.get_num_threads())
    return bytes(travels)


def native_unpack_body(data: bytes, grids: Mapping[str, ChunkGrid]) -> tuple[bytearray, str | None]:
    """Undo `native_pack_body`.

    Args:
        data: `travel_bytes(grids)` bytes of any content.
        grids: of which `can_pack` is true, with values of one bit.

    Returns:
        The bytes of a body, to be checked still; and the first parameter of which a record is none of compact form.

    Raises:
        NativeError: there is no library.
    """
    compact = _plan_of(as_grids(grids))
    body = bytearray(compact.plan.body_bytes)
    for _, inside, outside in compact.heads:
        body[inside] = data[outside]
    parameters = compact.plan.parameters()
    job = compact.job(body, data)
    job.parameters = ctypes.addressof(parameters)
    load_library().run("native_unpack", job, threads=torch.get_num_threads())
    wrong = (name for (name, _, _), slot in zip(compact.heads, parameters, strict=True) if slot.is_wrong)
    return body, next(wrong, None)
