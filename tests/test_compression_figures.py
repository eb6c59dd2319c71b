"""docs/compression.md says of the wire what the package does."""

from __future__ import annotations

from pathlib import Path

from benchmarks.wire_bytes import table

DOCUMENT = Path(__file__).parents[1] / "docs" / "compression.md"


def test_the_documented_bytes_a_chunk_are_those_of_real_payloads() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8")
