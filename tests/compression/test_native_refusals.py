"""Each check of the compiled library on bytes that break just one promise: the words are those of numpy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from templar_pl.compression import ChunkGrid, SectionError, chunk_grid, decode_body, native_fault
from tests.compression.records import FULL, PART, SILENT, Record, Section, good_section

pytestmark = pytest.mark.skipif(bool(native_fault()), reason=native_fault() or "native is there")

LAYOUTS = {"usual": (64, 32), "padded": (60, 5)}  # edge, k; the first is read by code of its own


def be_silent(section: Section, base: int) -> None:
    section.base, section.codes = base, [0] * 3
    section.records = [Record([0] * section.code.num_indices) for _ in range(3)]


def change(chunk: int, **fields: object) -> Callable[[Section], None]:
    """Return what sets fields of a record."""

    def apply(section: Section) -> None:
        for name, value in fields.items():
            setattr(section.records[chunk], name, value)

    return apply


def move(chunk: int, slot: int, place: int) -> Callable[[Section], None]:
    """Return what puts another place into a slot."""

    def apply(section: Section) -> None:
        section.records[chunk].places[slot] = place

    return apply


def set_base(base: int) -> Callable[[Section], None]:
    return lambda section: setattr(section, "base", base)


def set_code(chunk: int, code: int) -> Callable[[Section], None]:
    def apply(section: Section) -> None:
        section.codes[chunk] = code

    return apply


FAULTS: dict[str, Callable[[Section], None]] = {
    "base too low": set_base(-2049),
    "base too high": set_base(2048),
    "base of a silent parameter": lambda section: be_silent(section, 1),
    "loudest code is not 255": set_code(FULL, 254),
    "code 0 of a chunk that sends": set_code(PART, 0),
    "code 0 of a chunk that sends all": lambda section: setattr(section, "codes", [0, 0, 255]),
    "sign in a silent chunk": change(SILENT, signs=1),
    "sign of a filler in a silent chunk": change(SILENT, signs=2),
    "place in a silent chunk": lambda section: setattr(
        section.records[SILENT], "places", [1] * section.code.num_indices
    ),
    "sign of a filler": change(PART, signs=4),
    "repeated place in the middle": move(FULL, 1, 0),
    "repeated place in front of the last": move(FULL, 3, 2),
    "place above the chunk": lambda section: move(FULL, -1, section.code.bound)(section),
}
PADDED: dict[str, Callable[[Section], None]] = {
    "padding of the upper part": change(PART, pads=[1, 0, 0, 0]),
    "padding of the low part": change(PART, pads=[0, 1, 0, 0]),
    "padding of the signs": change(PART, pads=[0, 0, 1, 0]),
    "descending low parts": lambda section: setattr(
        section.records[FULL], "places", [1, 0, *section.records[FULL].places[2:]]
    ),
    "place above the chunk by its low bits": move(FULL, -1, 3600 + 100),
}


def words_of(data: bytes, grid: ChunkGrid) -> list[str]:
    """Return what native and torch say of a body; empty where it is accepted."""
    words = []
    for backend in ("native", "torch"):
        try:
            decode_body(data, {"w": grid}, backend=backend)
        except SectionError as error:
            words.append(str(error))
        else:
            words.append("")
    return words


def grid_of(layout: str) -> ChunkGrid:
    edge, topk = LAYOUTS[layout]
    return chunk_grid((3 * edge, edge), chunk_size=edge, topk=topk)


@pytest.mark.parametrize("layout", ["usual", "padded"])
def test_the_section_that_the_faults_are_put_into_is_accepted(layout: str) -> None:
    grid = grid_of(layout)

    assert words_of(good_section(grid).encode(), grid) == ["", ""]


@pytest.mark.parametrize(
    ("layout", "fault"), [*(("usual", fault) for fault in FAULTS), *(("padded", f) for f in [*FAULTS, *PADDED])]
)
def test_one_broken_promise_is_refused_with_the_same_words(layout: str, fault: str) -> None:
    grid = grid_of(layout)
    section = good_section(grid)
    (FAULTS | PADDED)[fault](section)

    native, plain = words_of(section.encode(), grid)

    assert native == plain != ""


@pytest.mark.parametrize("chunk", [FULL, SILENT, PART])
@pytest.mark.parametrize("layout", ["usual", "padded"])
def test_too_many_and_too_few_bits_of_the_upper_part_are_refused(layout: str, chunk: int) -> None:
    grid = grid_of(layout)
    section = good_section(grid)
    data, code = section.encode(), section.code
    start = 5 + sum(len(record.encode(code)) for record in section.records[:chunk])
    upper = int.from_bytes(data[start : start + code.upper_bytes], "little")

    for bit in range(code.upper_bits):
        changed = (upper ^ 1 << bit).to_bytes(code.upper_bytes, "little")
        native, plain = words_of(data[:start] + changed + data[start + code.upper_bytes :], grid)

        assert native == plain != "", bit
