"""Small parquet page sets for tests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path: Path, texts: list[str | None], *, rows_per_group: int = 3, column: str = "text") -> None:
    table = pa.table({"number": list(range(len(texts))), column: pa.array(texts, pa.string())})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group)


def write_page_set(folder: Path, num_rows: int, *, rows_per_file: int = 10) -> list[str]:
    """Write `num_rows` different texts, some of them long and not ASCII, and return them."""
    texts = [f"row {row} " + "wörds " * (row * 7 % 23) for row in range(num_rows)]
    for number, first in enumerate(range(0, num_rows, rows_per_file)):
        write_parquet(folder / f"part-{number:03d}.parquet", [*texts[first : first + rows_per_file]])
    return texts
