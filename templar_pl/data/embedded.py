"""Text that every machine already has: the source files of the Python standard library, as a page set.

Different patch versions of Python hold different text; the digest of the page set tells them apart.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from templar_pl.data.manifest import ensure_manifest
from templar_pl.errors import ConfigError

MAX_ROW_BYTES = 2048  # a few screens of code: some twenty sequences of the toy model
TEXT_COLUMN = "text"

_ROWS_PER_GROUP = 64  # 128 KiB: read in a millisecond, and one page touches one or two groups
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
_SKIPPED_PREFIXES = ("_sysconfigdata", "sitecustomize", "usercustomize")  # they describe the machine


def ensure_embedded(cache: Path, *, rows_per_page: int, source: Path | None = None) -> Path:
    """Return the folder of the standard library's page set, built in a few seconds if it is not there yet.

    The set appears in one step, complete: two processes that build at once end with one set, and a build that was
    cut short leaves nothing that is read.

    Args:
        cache: folder that holds such sets; made if missing.
        rows_per_page: rows of a page, at least 1.
        source: folder of Python source files; the standard library's if not given.

    Returns:
        The folder, for `open_page_set` with the column TEXT_COLUMN.

    Raises:
        ConfigError: the cache cannot be written, or there are no source files.
    """
    folder, files = _plan(cache, rows_per_page, source)
    if not folder.is_dir():
        try:
            _build(folder, files, rows_per_page)
        except OSError as error:
            raise ConfigError(f"cannot write a page set to {cache} ({error}); choose another cache folder") from error
    return folder


def embedded_folder(cache: Path, *, rows_per_page: int, source: Path | None = None) -> Path:
    """Return the folder that `ensure_embedded` would return, whether it is there yet or not; nothing is made.

    Raises:
        ConfigError: there are no source files.
    """
    return _plan(cache, rows_per_page, source)[0]


def source_files(source: Path) -> list[Path]:
    """List the Python files of a folder, without tests and installed packages, in an order all machines share.

    The order follows a hash of the path, so that the pages held out at the end are a fair sample.
    """
    found = []
    for parent, folders, names in os.walk(source):
        folders[:] = [folder for folder in folders if folder not in _SKIPPED_FOLDERS]
        found += [
            Path(parent, name) for name in names if name.endswith(".py") and not name.startswith(_SKIPPED_PREFIXES)
        ]
    return sorted(found, key=lambda path: hashlib.sha256(path.relative_to(source).as_posix().encode()).digest())


def split_rows(text: str, max_bytes: int) -> list[str]:
    """Cut a text into rows of at most max_bytes UTF-8 bytes (at least 4), at ends of lines where that is possible.

    Joining the rows gives back the text; an empty text has no rows.
    """
    rows: list[str] = []
    row, row_bytes = "", 0
    for piece in _pieces(text, max_bytes):
        size = len(piece.encode())
        if row and row_bytes + size > max_bytes:
            rows.append(row)
            row, row_bytes = "", 0
        row, row_bytes = row + piece, row_bytes + size
    return [*rows, row] if row else rows


def _plan(cache: Path, rows_per_page: int, source: Path | None) -> tuple[Path, list[Path]]:
    """Return the folder of the set and the files it is made of. Raises `ConfigError` if there are none."""
    source = source or Path(sysconfig.get_path("stdlib"))
    files = source_files(source)
    if not files:
        raise ConfigError(f"{source} holds no Python source files; give a folder of parquet files as page set instead")
    return cache / f"python-{platform.python_version()}-{_fingerprint(source, files, rows_per_page)}", files


def _pieces(text: str, max_bytes: int) -> Iterator[str]:
    """Yield the lines of a text, with their ends; a line that is too long comes in parts of whole characters."""
    max_characters = max(1, max_bytes // 4)  # a character has at most 4 bytes
    for line in text.splitlines(keepends=True):
        if len(line.encode()) <= max_bytes:
            yield line
        else:
            yield from (line[i : i + max_characters] for i in range(0, len(line), max_characters))


def _fingerprint(source: Path, files: list[Path], rows_per_page: int) -> str:
    """Name the set by the names and sizes of its source files and by how they are cut."""
    listing = [f"{path.relative_to(source).as_posix()}:{path.stat().st_size}" for path in files]
    text = "\n".join([f"{MAX_ROW_BYTES}/{_ROWS_PER_GROUP}/{rows_per_page}", *listing])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _build(folder: Path, files: list[Path], rows_per_page: int) -> None:
    """Write the set beside its place and move it there; if another process was quicker, take that one's."""
    # Not `tempfile`: its folders are for one user's eyes only, and a cache may be shared.
    temporary = folder.with_name(f".building-{secrets.token_hex(8)}")
    temporary.mkdir(parents=True)
    try:
        _write_parquet(temporary / "stdlib.parquet", files)
        ensure_manifest(temporary, text_column=TEXT_COLUMN, rows_per_page=rows_per_page)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_parquet(path: Path, files: list[Path]) -> None:
    """Write the rows of all files that are UTF-8, one group of rows after the other."""
    schema = pa.schema([(TEXT_COLUMN, pa.string())])
    rows: list[str] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for file in files:
            rows += split_rows(_read_text(file), MAX_ROW_BYTES)
            while len(rows) >= _ROWS_PER_GROUP:
                writer.write_table(pa.table({TEXT_COLUMN: rows[:_ROWS_PER_GROUP]}, schema))
                del rows[:_ROWS_PER_GROUP]
        if rows:
            writer.write_table(pa.table({TEXT_COLUMN: rows}, schema))


def _read_text(file: Path) -> str:
    """Return the text of a source file; nothing if it is not UTF-8 or may not be read."""
    try:
        return file.read_bytes().decode("utf-8")
    except (UnicodeDecodeError, PermissionError, FileNotFoundError):
        return ""
