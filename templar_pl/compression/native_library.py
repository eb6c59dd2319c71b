"""The compiled part of this room: where it is, and what is handed to it.

The C sources lie in `native/`; `build_native.py` compiles them when the package is installed, if there is a compiler.
The classes mirror the structures of `native/native.h`, field by field.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from templar_pl.compression.body import body_bytes, section_starts
from templar_pl.compression.dct import dct_basis
from templar_pl.compression.grid import ChunkGrid, Grids, as_grids
from templar_pl.compression.quantise import HIGHEST, LOWEST, NOTHING, magnitude_table, octave_borders
from templar_pl.compression.section import Layout
from templar_pl.compression.tables import eighth_mantissas, integer_basis, quarter_mantissas, scale_table
from templar_pl.config import MAX_CHUNK_SIZE

LEVELS = {"AVX512": "avx512", "AVX2": "avx2"}
"""What torch calls the abilities of this processor -> the library that uses them; `default` for all others."""

CHUNKS_A_HELPER = {
    "native_check": 8192,
    "native_finish": 8192,
    "native_restore": 1024,
    "native_pack": 256,
    "native_unpack": 64,
}
MIN_CHUNKS_A_HELPER = 32
"""Chunks for which one more thread is worth its start, some 30 us: by function, and for all others."""

FOLD, TAKE = 1, 2
"""Steps of a send."""

_CPU = torch.device("cpu")
_POINTER, _I64, _I32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class NativeError(RuntimeError):
    """The compiled library is not there, or not to be trusted; the message says why."""


class _Splits(ctypes.Structure):
    _fields_ = [(name, _I32 * (size**2 // 2)) for name, size in (("a", 32), ("b", 16), ("c", 8), ("d", 8))]


class Tables(ctypes.Structure):
    """`tables_t`."""

    _fields_ = [
        ("forward", _POINTER * (MAX_CHUNK_SIZE + 1)),
        ("inverse", _POINTER * (MAX_CHUNK_SIZE + 1)),
        ("magnitudes", _POINTER),
        ("borders", ctypes.c_double * 8),
        ("quarters", _I64 * 4),
        ("lowest", _I32),
        ("highest", _I32),
        ("scales", _I32 * 129),
        ("eighths", _I32 * 8),
        ("cosines", ctypes.c_float * (MAX_CHUNK_SIZE + 1)),
        ("inverse64", _Splits),
    ]


class Parameter(ctypes.Structure):
    """`parameter_t`."""

    _fields_ = [
        *((name, _POINTER) for name in ("gradient", "momentum", "originals", "scales", "update")),
        *((name, _I64) for name in ("rows", "columns", "chunk_columns", "num_chunks", "first_chunk", "section")),
        *((name, _I32) for name in ("height", "width", "topk", "is_vector")),
        *((name, _I32) for name in ("low_bits", "upper_bytes", "index_bytes", "record_bytes")),
        ("weight", ctypes.c_float),
        ("largest", _I32),
        ("is_wrong", _I32),
        ("square", ctypes.c_uint64 * 4),
        ("shifted", ctypes.c_uint64 * 4),
    ]


class Job(ctypes.Structure):
    """`job_t`."""

    _fields_ = [
        *((name, _POINTER) for name in ("tables", "parameters", "body", "bodies", "mantissas", "exponents")),
        *((name, _I64) for name in ("num_parameters", "num_chunks", "num_peers", "next")),
        ("decay", ctypes.c_float),
        ("steps", _I32),
        ("is_mean", _I32),
        ("is_clip", _I32),
    ]


class Library:
    """The functions of the compiled library, and the tables they need."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Fill the tables. Raises `NativeError` if the library was built from other sources."""
        sizes = (ctypes.c_int64 * 3)()
        library.native_abi(sizes)
        if list(sizes) != [ctypes.sizeof(structure) for structure in (Tables, Parameter, Job)]:
            raise NativeError(f"it was built from other sources (structures of {list(sizes)} bytes): build it again")
        self._library = library
        self._kept: list[Tensor] = []  # what the tables point to
        self.tables = self._new_tables()
        library.native_prepare(ctypes.byref(self.tables))

    def run(self, function: str, job: Job, *, threads: int) -> None:
        """Call a function on a job in several threads, which share the work."""
        job.tables, job.next = ctypes.addressof(self.tables), 0
        work = getattr(self._library, function)
        helpers = min(threads - 1, job.num_chunks // CHUNKS_A_HELPER.get(function, MIN_CHUNKS_A_HELPER))
        self._library.native_run(work, ctypes.byref(job), helpers)

    def measure(self, function: str, sizes: ctypes.Array[ctypes.c_int64]) -> None:
        """Let a function write the sizes of its structures."""
        getattr(self._library, function)(sizes)

    def _new_tables(self) -> Tables:
        sizes = range(1, MAX_CHUNK_SIZE + 1)
        return Tables(
            forward=(_POINTER * (MAX_CHUNK_SIZE + 1))(
                None, *(self._address(dct_basis(n, _CPU).T.contiguous()) for n in sizes)
            ),
            inverse=(_POINTER * (MAX_CHUNK_SIZE + 1))(
                None, *(self._address(integer_basis(n, _CPU, torch.float32)) for n in sizes)
            ),
            magnitudes=self._address(magnitude_table(_CPU)[LOWEST - NOTHING :].clone()),
            borders=(ctypes.c_double * 8)(*octave_borders()),
            quarters=(_I64 * 4)(*quarter_mantissas()),
            lowest=LOWEST,
            highest=HIGHEST,
            scales=(_I32 * 129)(*scale_table()),
            eighths=(_I32 * 8)(*eighth_mantissas()),
            cosines=(ctypes.c_float * (MAX_CHUNK_SIZE + 1))(
                *(math.cos(math.pi * i / 128) for i in range(MAX_CHUNK_SIZE + 1))
            ),
        )

    def _address(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()


class Plan:
    """The parameters of one model as the library sees them, in the order of the sections, without addresses."""

    def __init__(self, grids: Mapping[str, ChunkGrid]) -> None:
        """Lay out the parameters."""
        self.starts = section_starts(grids)
        self.body_bytes = body_bytes(grids)
        self.num_chunks = 0
        self._template = (Parameter * len(grids))()
        for slot, (name, start) in zip(self._template, self.starts.items(), strict=True):
            _describe(slot, grids[name], start, self.num_chunks)
            self.num_chunks += grids[name].num_chunks

    def parameters(self, places: Sequence[int] | None = None) -> ctypes.Array[Parameter]:
        """Return a copy that addresses may be put into, of all parameters or of those at some places."""
        if places is None or len(places) == len(self._template):
            return type(self._template).from_buffer_copy(self._template)
        chosen = (Parameter * len(places))(*(self._template[place] for place in places))
        first_chunk = 0
        for slot in chosen:
            slot.first_chunk = first_chunk
            first_chunk += slot.num_chunks
        return chosen

    def job(self, parameters: ctypes.Array[Parameter]) -> Job:
        """Return a job on parameters that `parameters` returned, all or some in a row. Keep them while it runs."""
        last = parameters[-1] if len(parameters) else None
        num_chunks = 0 if last is None else last.first_chunk + last.num_chunks
        job = Job(num_parameters=len(parameters), num_chunks=num_chunks)
        job.parameters = ctypes.addressof(parameters)
        return job


def _describe(slot: Parameter, grid: ChunkGrid, start: int, first_chunk: int) -> None:
    layout = Layout(grid)
    slot.rows, slot.columns, slot.chunk_columns = grid.rows, grid.columns, grid.chunk_columns
    slot.num_chunks, slot.first_chunk, slot.section = grid.num_chunks, first_chunk, start
    slot.height, slot.width, slot.topk, slot.is_vector = grid.height, grid.width, grid.topk, grid.is_vector
    slot.low_bits, slot.upper_bytes = layout.code.low_bits, layout.code.upper_bytes
    slot.index_bytes, slot.record_bytes = layout.code.row_bytes, layout.record_bytes


@functools.lru_cache(maxsize=8)
def _plan_of(grids: Grids) -> Plan:
    return Plan(grids)


def plan_of(grids: Mapping[str, ChunkGrid]) -> Plan:
    """Return the plan of a model; the one made before for the same parameters, if there is one."""
    return _plan_of(as_grids(grids))


@functools.cache
def load_library() -> Library:
    """Load the library for this processor.

    Raises:
        NativeError: it was not built, or was built from other sources.
    """
    level = LEVELS.get(torch.backends.cpu.get_cpu_capability(), "default")
    path = Path(__file__).parent / "native" / f"kernels_{level}.so"
    if not path.exists():
        raise NativeError(
            f"{path.name} was not built: when the package was installed no C compiler was there, or it failed; "
            "`python build_native.py` in the repository says what is wrong"
        )
    try:
        return Library(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:
        raise NativeError(f"{path.name} cannot be loaded: {error}") from error


def address_of(data: bytes | bytearray) -> int:
    """Return where bytes lie; keep them while the address is in use."""
    return np.frombuffer(data, dtype=np.uint8).ctypes.data if data else 0
