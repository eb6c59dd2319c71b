"""What a folder of parquet files holds, as `pages.json` beside them says it.

Making the manifest reads every row once; opening a set again compares sizes and times of change only, unless a file
changed: then that file is hashed again. On one core, making it takes 0.14 GB of
text a second, and hashing again 1.1 GB of file a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from templar_pl.errors import ConfigError

MANIFEST_NAME = "pages.json"
VERIFIED_NAME = "pages.verified.json"
"""Size, time of change and hash of each file when it was last hashed on this machine; not part of the set."""

VERSION = 1
_DIGEST_TAG = b"templar_pl/page_set/1\0"
_READ_BYTES = 2**20
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class PageFile:
    """One parquet file of a page set."""

    name: str
    """File name inside the folder."""

    rows: int
    """Rows of the file, at least 0."""

    sha256: str
    """SHA-256 of the file's bytes, 64 hex digits: finds damage."""

    content: str
    """SHA-256 of the rows (8 bytes of length, then UTF-8, each), 64 hex digits: the same however they were written."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a page set, in order, and how rows become pages."""

    text_column: str
    rows_per_page: int
    """Rows of a page, at least 1."""

    files: tuple[PageFile, ...]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def digest(self) -> bytes:
        """32 bytes, equal on all nodes that cut the same rows into the same pages, whatever wrote their parquet."""
        hasher = hashlib.sha256(_DIGEST_TAG + self.rows_per_page.to_bytes(8, "little"))
        for file in self.files:
            hasher.update(file.rows.to_bytes(8, "little") + bytes.fromhex(file.content))
        return hasher.digest()


def ensure_manifest(folder: Path, *, text_column: str, rows_per_page: int) -> Manifest:
    """Return the manifest of a folder, made first if there is none, with every file's hash verified.

    Raises:
        ConfigError: the folder, the files, the column or the manifest are not what was asked for.
    """
    if rows_per_page < 1:
        raise ConfigError(f"rows_per_page must be at least 1, got {rows_per_page}")
    names = _file_names(folder)
    if not (folder / MANIFEST_NAME).exists():
        manifest = _make(folder, names, text_column=text_column, rows_per_page=rows_per_page)
        write_atomically(folder / MANIFEST_NAME, _to_json(manifest))
        return manifest
    manifest = _read(folder / MANIFEST_NAME)
    _compare(manifest, folder, names, text_column=text_column, rows_per_page=rows_per_page)
    _verify(manifest, folder)
    return manifest


def count_rows(folder: Path, *, text_column: str, rows_per_page: int) -> int:
    """Return the rows of a folder as its files' footers have it; nothing is written, and no row is read.

    Raises:
        ConfigError: as `ensure_manifest`, but for damage inside the files.
    """
    names = _file_names(folder)
    if (folder / MANIFEST_NAME).exists():
        manifest = _read(folder / MANIFEST_NAME)
        _compare(manifest, folder, names, text_column=text_column, rows_per_page=rows_per_page)
    rows = 0
    for name in names:
        with open_parquet(folder / name, text_column) as parquet:
            rows += parquet.metadata.num_rows
    return rows


def open_parquet(path: Path, text_column: str) -> pq.ParquetFile:
    """Open a parquet file whose text column is a string. Raises `ConfigError` if it is not."""
    try:
        # pre_buffer pays on remote stores only; here it would hold memory for nothing.
        file = pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} is no readable parquet file ({error}); fetch it again") from error
    types = {field.name: field.type for field in file.schema_arrow}
    kind = types.get(text_column)
    if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        listed = ", ".join(f"{name} ({kind})" for name, kind in types.items())
        file.close()
        raise ConfigError(f"{path} has no text column {text_column!r}; set text_column to one of: {listed}")
    return file


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file under its name in one step. Raises `ConfigError` if the folder cannot be written."""
    # Not `tempfile`: its files are for one user's eyes only, and page sets are shared.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}); make {path.parent} writable") from error


def _file_names(folder: Path) -> list[str]:
    """Return the names of the files of a page set, in order. Raises `ConfigError` if there are none."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; give the folder that holds the parquet files")
    names = sorted(path.name for path in folder.glob("*.parquet"))
    if not names:
        raise ConfigError(f"{folder} holds no parquet files; put the files (*.parquet) of the page set there")
    return names


def _make(folder: Path, names: list[str], *, text_column: str, rows_per_page: int) -> Manifest:
    """Read every row of every file once, and remember the files as verified."""
    files = []
    for name in names:
        with open_parquet(folder / name, text_column) as parquet:
            rows, content = _hash_rows(_texts(parquet, text_column))
        files.append(PageFile(name, rows, _hash_file(folder / name), content))
    manifest = Manifest(text_column, rows_per_page, tuple(files))
    _write_verified(manifest, folder)
    return manifest


def _texts(parquet: pq.ParquetFile, text_column: str) -> Iterator[str | None]:
    for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=[text_column], use_threads=False):
        yield from batch.column(0).to_pylist()


def _hash_rows(texts: Iterator[str | None]) -> tuple[int, str]:
    """Return how many rows there are and the hash of their contents; a null counts as empty."""
    hasher, rows = hashlib.sha256(), 0
    for text in texts:
        data = (text or "").encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
        rows += 1
    return rows, hasher.hexdigest()


def _hash_file(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def _to_json(manifest: Manifest) -> str:
    return json.dumps({"version": VERSION, **asdict(manifest)}, indent=1) + "\n"


def _read(path: Path) -> Manifest:
    """Read a manifest. Raises `ConfigError` if it is not one of this version."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        files = tuple(PageFile(**file) for file in fields.pop("files"))
        manifest = Manifest(**fields, files=files)
        _check_types(manifest)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is no page manifest ({error!r}); delete it to make it anew") from error
    return manifest


def _check_types(manifest: Manifest) -> None:
    """Raise `ValueError` for a value that no manifest of ours holds."""
    for file in manifest.files:
        if not isinstance(file.rows, int) or file.rows < 0:
            raise ValueError(f"rows must be at least 0, got {file.rows!r}")
        if len(bytes.fromhex(file.sha256)) != 32 or len(bytes.fromhex(file.content)) != 32:
            raise ValueError(f"hashes of {file.name!r} must have 64 hex digits")


def _compare(manifest: Manifest, folder: Path, names: list[str], *, text_column: str, rows_per_page: int) -> None:
    """Raise `ConfigError` where the manifest says something else than the settings or the folder."""
    for name, said, asked in (
        ("text_column", manifest.text_column, text_column),
        ("rows_per_page", manifest.rows_per_page, rows_per_page),
    ):
        if said != asked:
            raise ConfigError(
                f"{folder / MANIFEST_NAME} says {name} {said!r}, got {asked!r}; set {name} to {said!r}, or delete "
                "the manifest to cut pages anew (all nodes of a run must cut them alike)"
            )
    listed = {file.name for file in manifest.files}
    if listed != set(names):
        raise ConfigError(
            f"{folder} and its {MANIFEST_NAME} list different files: missing {sorted(listed - set(names))}, "
            f"unknown {sorted(set(names) - listed)}; fetch or remove them, or delete the manifest to make it anew"
        )


def _verify(manifest: Manifest, folder: Path) -> None:
    """Hash the files that changed since they were last hashed. Raises `ConfigError` for a hash that differs."""
    verified = _read_verified(folder)
    stale = [file for file in manifest.files if verified.get(file.name) != _stamp(folder, file)]
    for file in stale:
        found = _hash_file(folder / file.name)
        if found != file.sha256:
            raise ConfigError(
                f"{folder / file.name} is damaged or was changed: its SHA-256 is {found}, {MANIFEST_NAME} says "
                f"{file.sha256}; fetch it again, or delete the manifest to take the files as they are"
            )
    if stale:
        _write_verified(manifest, folder)


def _stamp(folder: Path, file: PageFile) -> list[Any]:
    status = (folder / file.name).stat()
    return [status.st_size, status.st_mtime_ns, file.sha256]


def _read_verified(folder: Path) -> dict[str, Any]:
    """Return what was verified before; nothing if that cannot be read, for it only saves work."""
    try:
        verified = json.loads((folder / VERIFIED_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def _write_verified(manifest: Manifest, folder: Path) -> None:
    """Remember sizes and times; a folder that cannot be written is hashed again at each start."""
    if os.access(folder, os.W_OK):
        stamps = {file.name: _stamp(folder, file) for file in manifest.files}
        write_atomically(folder / VERIFIED_NAME, json.dumps(stamps, indent=1))
