"""A set of parquet files as numbered pages of text.

Page p is the p-th run of `rows_per_page` rows, counted over all files in the order of their names; the last page may
be shorter. The last `num_validation_pages` pages are held out: they are never among the training pages.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from templar_pl.data.manifest import MANIFEST_NAME, Manifest, count_rows, ensure_manifest, open_parquet
from templar_pl.errors import ConfigError

MAX_OPEN_FILES = 32  # a set may have thousands of files; a process may open 1024


@dataclass(frozen=True, kw_only=True)
class PageSetConfig:
    """Which text there is, and how it is cut into pages. All nodes of a run must choose alike."""

    folder: str | None = None
    """Folder of parquet files; none for the source files of the Python standard library."""

    cache: str = ".templar/pages"
    """Folder in which the page set of the standard library is built once, about 4 MB."""

    text_column: str = "text"
    """Column of strings, one document a row."""

    rows_per_page: int = 16
    """Rows of a page; 1..2**31."""

    num_validation_pages: int = 8
    """Pages at the end of the set that are held out for validation; 1..2**31."""

    def __post_init__(self) -> None:
        if not self.text_column:
            raise ConfigError("text_column must name a column, got an empty string")
        for name in ("rows_per_page", "num_validation_pages"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
                raise ConfigError(f"{name} must be in 1..{2**31}, got {value!r}")


class PageSet:
    """Pages of text, read from the row groups that hold them and from no others.

    May be read from several threads (one at a time inside) and sent to other processes, which open files of their own.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, row_groups: list[list[int]], num_validation_pages: int
    ) -> None:
        """Use `open_page_set`.

        Args:
            folder: where the files are.
            manifest: of the folder.
            row_groups: rows of each row group of each file of the manifest.
            num_validation_pages: pages held out, 0 or more and fewer than there are.
        """
        self._folder, self._manifest = folder, manifest
        self._file_starts = _starts([file.rows for file in manifest.files])
        self._group_starts = [_starts(rows) for rows in row_groups]
        self._num_validation_pages = num_validation_pages
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def digest(self) -> bytes:
        """32 bytes, equal on all nodes that hold the same pages."""
        return self._manifest.digest

    @property
    def num_pages(self) -> int:
        """All pages, for training and held out."""
        return -(-self._manifest.rows // self._manifest.rows_per_page)

    @property
    def num_training_pages(self) -> int:
        """Pages 0..num_training_pages - 1 are trained on."""
        return self.num_pages - self._num_validation_pages

    @property
    def validation_pages(self) -> range:
        """The pages that are held out."""
        return range(self.num_training_pages, self.num_pages)

    def read(self, page: int) -> list[str]:
        """Return the rows of a page, in order; a null row is an empty string.

        Raises:
            ValueError: there is no such page.
            ConfigError: a file can no longer be read.
        """
        if not 0 <= page < self.num_pages:
            raise ValueError(f"page must be in 0..{self.num_pages - 1}, got {page}")
        first = page * self._manifest.rows_per_page
        last = min(first + self._manifest.rows_per_page, self._manifest.rows)
        texts: list[str] = []
        while first < last:
            file = int(np.searchsorted(self._file_starts, first, side="right")) - 1
            start, end = (int(bound) for bound in self._file_starts[file : file + 2])
            texts += self._read_rows(file, first - start, min(last, end) - start)
            first = end
        return texts

    def close(self) -> None:
        """Close all files; reading opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _read_rows(self, file: int, first: int, last: int) -> list[str]:
        """Read rows first..last - 1 of a file from its row groups."""
        starts = self._group_starts[file]
        from_group = int(np.searchsorted(starts, first, side="right")) - 1
        to_group = int(np.searchsorted(starts, last, side="left"))
        groups = list(range(from_group, to_group))
        with self._lock:
            parquet = self._parquet(file)
            try:
                # use_threads=False: the pool of threads does not survive a fork into a loader's worker.
                table = parquet.read_row_groups(groups, columns=[self._manifest.text_column], use_threads=False)
            except OSError as error:
                name = self._folder / self._manifest.files[file].name
                raise ConfigError(f"cannot read {name} ({error}); fetch it again") from error
        rows = table.column(0).slice(first - int(starts[from_group]), last - first)
        return [text or "" for text in rows.to_pylist()]

    def _parquet(self, file: int) -> pq.ParquetFile:
        """Return the open file, closing the one that was used longest ago when there are too many."""
        if file not in self._open:
            path = self._folder / self._manifest.files[file].name
            self._open[file] = open_parquet(path, self._manifest.text_column)
        self._open.move_to_end(file)
        if len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return self._open[file]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open=OrderedDict(), _lock=threading.Lock())


def open_page_set(
    folder: Path, *, text_column: str, rows_per_page: int, num_validation_pages: int, min_training_pages: int = 1
) -> PageSet:
    """Open a folder of parquet files as pages; the first time, this reads every row once (see `manifest`).

    Args:
        folder: holds the files; `pages.json` is written there if it is missing.
        text_column: column of strings.
        rows_per_page: at least 1.
        num_validation_pages: pages held out, at least 0.
        min_training_pages: how many pages must be left to train on, at least 1.

    Raises:
        ConfigError: no folder, no files, no such column, a damaged file, or too few pages.
    """
    manifest = ensure_manifest(folder, text_column=text_column, rows_per_page=rows_per_page)
    row_groups = [_row_groups(folder / file.name, file.rows, text_column) for file in manifest.files]
    pages = PageSet(folder, manifest, row_groups, num_validation_pages)
    _refuse_too_few(folder, pages.num_pages, rows_per_page, num_validation_pages, min_training_pages)
    return pages


def count_training_pages(
    folder: Path, *, text_column: str, rows_per_page: int, num_validation_pages: int, min_training_pages: int = 1
) -> int:
    """Return how many pages `open_page_set` would leave to train on; nothing is written, and no text is read.

    Args and errors are those of `open_page_set`, but for damage inside the files, which is not looked for.
    """
    rows = count_rows(folder, text_column=text_column, rows_per_page=rows_per_page)
    num_pages = -(-rows // rows_per_page)
    _refuse_too_few(folder, num_pages, rows_per_page, num_validation_pages, min_training_pages)
    return num_pages - num_validation_pages


def _refuse_too_few(
    folder: Path, num_pages: int, rows_per_page: int, num_validation_pages: int, min_training_pages: int
) -> None:
    if num_pages - num_validation_pages < min_training_pages:
        raise ConfigError(
            f"{folder} has {num_pages} pages of {rows_per_page} rows; {num_validation_pages} for validation and "
            f"{min_training_pages} to train on are needed: add text, or lower rows_per_page or num_validation_pages"
        )


def _row_groups(path: Path, rows: int, text_column: str) -> list[int]:
    """Return the rows of each row group, from the footer alone."""
    with open_parquet(path, text_column) as parquet:
        groups = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
    if sum(groups) != rows:
        raise ConfigError(f"{path} has {sum(groups)} rows, {MANIFEST_NAME} says {rows}; delete the manifest")
    return groups


def _starts(sizes: list[int]) -> np.ndarray:
    """Return where each part starts and, last, where all end."""
    return np.cumsum([0, *sizes], dtype=np.int64)
