"""Sections of a body as numbers, right or wrong, in both forms in which they travel."""

from __future__ import annotations

from dataclasses import dataclass, field

from templar_pl.compression import ChunkGrid
from templar_pl.compression.elias_fano import IndexCode
from templar_pl.compression.enumerative import SetCode, number_of

FULL, SILENT, PART = range(3)  # the chunks of a section: all slots used, none, two


@dataclass
class Record:
    """A record as numbers."""

    places: list[int]
    signs: int = 0
    levels: list[int] = field(default_factory=list)
    """One a place, if values have more than one bit."""

    pads: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Bits behind the four parts: upper, low, signs, levels."""

    number: int | None = None
    """Instead of that of the set of the places, in the compact form."""

    def encode(self, code: IndexCode, width: int = 0) -> bytes:
        """Write the parts as they are, right or wrong, with `width` bits a level."""
        low_bits, count = code.low_bits, len(self.places)
        upper = sum(1 << ((place >> low_bits) + i) for i, place in enumerate(self.places))
        low = sum((place & ((1 << low_bits) - 1)) << (i * low_bits) for i, place in enumerate(self.places))
        levels = self._level_bits(width)
        parts = [(upper, code.upper_bits), (low, count * low_bits), (self.signs, count), (levels, count * width)]
        return b"".join(
            (number | pad << bits).to_bytes(-(-bits // 8), "little")
            for (number, bits), pad in zip(parts, self.pads, strict=True)
        )

    def packed(self, code: SetCode, width: int = 0) -> tuple[int, int]:
        """Return the bits of the compact form as a number, and how many they are."""
        places = [] if not any(self.places) else sorted(set(self.places))
        number = number_of(places, code) if self.number is None else self.number
        count = len(self.places)
        bits = number | self.signs << code.bits | self._level_bits(width) << (code.bits + count)
        return bits, code.bits + count * (1 + width)

    def _level_bits(self, width: int) -> int:
        return sum(level << (i * width) for i, level in enumerate(self.levels))


@dataclass
class Section:
    """A body of one parameter as numbers."""

    records: list[Record]
    code: IndexCode
    base: int = 7
    codes: list[int] = field(default_factory=lambda: [255, 0, 9])
    width: int = 0
    """Bits a level."""

    compact_pad: int = 0
    """Bits behind the last record, in the compact form."""

    def encode(self) -> bytes:
        """Write it."""
        return self._head() + b"".join(record.encode(self.code, self.width) for record in self.records)

    def encode_compact(self) -> bytes:
        """Write it in compact form."""
        code, bits, total = SetCode(self.code.num_indices, self.code.bound), 0, 0
        for record in self.records:
            number, size = record.packed(code, self.width)
            bits, total = bits | number << total, total + size
        return self._head() + (bits | self.compact_pad << total).to_bytes(-(-total // 8), "little")

    def _head(self) -> bytes:
        return self.base.to_bytes(2, "little", signed=True) + bytes(self.codes)


def good_section(grid: ChunkGrid) -> Section:
    k, last = grid.topk, grid.chunk_numel - 1
    code, width = IndexCode(k, grid.chunk_numel), grid.value_bits - 1
    levels = [[0] * k for _ in range(3)] if width else [[], [], []]
    records = [
        Record([*range(k - 1), last], 5, levels[FULL]),
        Record([0] * k, 0, levels[SILENT]),
        Record([3] + [9] * (k - 1), 2, levels[PART]),
    ]
    return Section(records, code, width=width)
