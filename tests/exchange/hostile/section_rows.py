"""Bodies with one wrong section, validly signed by their sender: nothing but their content speaks against them."""

from __future__ import annotations

from collections.abc import Callable

from templar_pl.compression.enumerative import SetCode
from templar_pl.errors import Fault
from tests.compression.records import FULL, PART, SILENT, Record, Section
from tests.exchange.hostile.row import PAYLOAD, PayloadRow

Change = Callable[[Section], None]


def _base(base: int) -> Change:
    return lambda section: setattr(section, "base", base)


def _codes(*codes: int) -> Change:
    return lambda section: setattr(section, "codes", list(codes))


def _record(chunk: int, **fields: object) -> Change:
    """Return what sets fields of a record."""

    def change(section: Section) -> None:
        for name, value in fields.items():
            setattr(section.records[chunk], name, value)

    return change


def _silent(section: Section) -> None:
    """Send nothing at all, but with a base."""
    section.base, section.codes = 1, [0, 0, 0]
    section.records = [Record([0] * 5, 0, [0] * 5 * bool(section.width)) for _ in range(3)]


def _with_bit(body: bytes, place: int) -> bytes:
    return (int.from_bytes(body, "little") | 1 << place).to_bytes(len(body), "little")


def _row(name: str, change: Change, reason: str, form: str = "one bit") -> PayloadRow:
    return PayloadRow(
        name=name,
        make=lambda cast: cast.payload(body=cast.body(change)),
        fault=Fault.CONTENT,
        reason=reason,
        reads=PAYLOAD,
        form=form,
    )


def _level(name: str, change: Change, reason: str) -> PayloadRow:
    return _row(name, change, reason, "levels")


def _compact(name: str, change: Change, reason: str, form: str = "compact") -> PayloadRow:
    return _row(f"{name} ({form})", change, reason, form)


_NUM_SETS = SetCode(5, 3600).num_sets
_BOTH = "compact levels"
_PADDING = "padding behind the"

SECTIONS = [
    _row("base below the lowest", _base(-2049), "base must be in -2048..2047, got -2049"),
    _row("base above the highest", _base(2048), "base must be in -2048..2047, got 2048"),
    _row("base where nothing is sent", _silent, "base must be 0 where no chunk sends anything, got 1"),
    _row(
        "loudest scale code is not 255", _codes(254, 0, 9), "the largest scale code must be 255, or 0 for all, got 254"
    ),
    _row("scale code 0 of a chunk that sends", _codes(255, 0, 0), "chunk 2: scale code 0 allows only index 0"),
    _row("entries in a chunk with scale code 0", _record(SILENT, places=[1] * 5), "chunk 1: scale code 0 allows only"),
    _row("sign of a filler", _record(PART, signs=4), "chunk 2: a filler is negative"),
    _row(
        "index out of range by one",
        _record(FULL, places=[0, 1, 2, 3, 3600]),
        "chunk 0: the last index is not in 0..3599",
    ),
    _row("index twice", _record(FULL, places=[0, 0, 2, 3, 9]), "chunk 0: an index comes twice, not as a filler"),
    _row("indices that descend", _record(FULL, places=[1, 0, 2, 3, 9]), "chunk 0: indices descend"),
    PayloadRow(
        name="an index too many",
        make=lambda cast: cast.payload(body=_with_bit(cast.body(), 8 * 23 + 7)),
        fault=Fault.CONTENT,
        reason="chunk 2: the upper part must have 5 set bits, one an index",
        reads=PAYLOAD,
    ),
    _row("bits behind the upper part", _record(PART, pads=[1, 0, 0, 0]), f"chunk 2: {_PADDING} upper part"),
    _row("bits behind the low bits", _record(PART, pads=[0, 1, 0, 0]), f"chunk 2: {_PADDING} low bits"),
    _row("bits behind the signs", _record(PART, pads=[0, 0, 1, 0]), f"chunk 2: {_PADDING} signs"),
    _level("bits behind the levels", _record(PART, pads=[0, 0, 0, 1]), f"chunk 2: {_PADDING} levels"),
    _level("level of a filler", _record(PART, levels=[0, 0, 0, 0, 1]), "chunk 2: a filler has a level"),
    _level("no value has level 0", _record(FULL, levels=[1, 2, 3, 2, 1]), "chunk 0: no value has level 0"),
    _compact("base below the lowest", _base(-2050), "got -2050"),
    _compact("base above the highest", _base(2049), "got 2049"),
    _compact("base where nothing is sent", lambda section: (_silent(section), _base(2)(section))[0], "got 2"),
    _compact("loudest scale code is not 255", _codes(253, 0, 9), "0 for all, got 253"),
    _compact(
        "number of no set", _record(FULL, number=_NUM_SETS), "chunk 0: its number is not below the number of sets"
    ),
    _compact(
        "the highest number", _record(SILENT, number=2 ** SetCode(5, 3600).bits - 1), "chunk 1: its number is not below"
    ),
    _compact("empty set with a scale code", _codes(255, 1, 9), "chunk 1: it must send something if and only if"),
    _compact("entries with scale code 0", _codes(255, 0, 0), "chunk 2: it must send something if and only if"),
    _compact("sign behind the last place", _record(PART, signs=8), "chunk 2: a filler is negative"),
    _compact("level of a filler", _record(PART, levels=[0, 0, 1, 0, 0]), "chunk 2: a filler has a level", _BOTH),
    _compact("no value has level 0", _record(PART, levels=[3, 3, 0, 0, 0]), "chunk 2: no value has level 0", _BOTH),
    _compact(
        "bits behind the last record", lambda section: setattr(section, "compact_pad", 1), f"{_PADDING} last record"
    ),
]
