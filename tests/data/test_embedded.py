"""The page set of the Python standard library."""

from __future__ import annotations

import ast
import itertools
import multiprocessing
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.data.embedded import MAX_ROW_BYTES, embedded_folder, ensure_embedded, source_files, split_rows
from templar_pl.data.page_set import PageSet, open_page_set
from templar_pl.errors import ConfigError


@pytest.fixture(scope="module")
def standard_library(tmp_path_factory: pytest.TempPathFactory) -> PageSet:
    folder = ensure_embedded(tmp_path_factory.mktemp("cache"), rows_per_page=16)
    return open_page_set(folder, text_column="text", rows_per_page=16, num_validation_pages=8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "package").mkdir(parents=True)
    (folder / "test").mkdir()
    (folder / "one.py").write_text("x = 1\n" * 700)
    (folder / "package" / "two.py").write_text("y = 'ü'\n" * 300)
    (folder / "package" / "broken.py").write_bytes(b"\xff\xfe")
    (folder / "test" / "test_one.py").write_text("assert False\n")
    (folder / "_sysconfigdata__linux.py").write_text("prefix = '/here'\n")
    (folder / "notes.txt").write_text("no Python\n")
    return folder


@given(st.text(st.sampled_from("ab\n\r\x0c ü𝄞"), max_size=60), st.integers(4, 20))
def test_rows_join_to_the_text_and_none_is_too_long(text: str, max_bytes: int) -> None:
    rows = split_rows(text, max_bytes)

    assert "".join(rows) == text
    assert all(0 < len(row.encode()) <= max_bytes for row in rows)


@given(st.lists(st.text("abc ", max_size=9), max_size=30))
def test_rows_end_where_lines_end_if_no_line_is_too_long(lines: list[str]) -> None:
    rows = split_rows("".join(line + "\n" for line in lines), 10)

    assert all(row.endswith("\n") for row in rows)
    assert all(len(a) + len(b.partition("\n")[0]) + 1 > 10 for a, b in itertools.pairwise(rows))


def test_the_rows_give_back_every_source_file(standard_library: PageSet) -> None:
    text = "".join(row for page in range(standard_library.num_pages) for row in standard_library.read(page))

    library = Path(sysconfig.get_path("stdlib"))
    expected = "".join(path.read_bytes().decode() for path in source_files(library))
    assert text == expected
    assert len(text) > 5_000_000
    ast.parse((library / "argparse.py").read_text())
    assert (library / "argparse.py").read_text() in text


def test_rows_are_small_documents(standard_library: PageSet) -> None:
    sizes = [len(row.encode()) for page in range(20) for row in standard_library.read(page)]

    assert max(sizes) <= MAX_ROW_BYTES
    assert sum(sizes) / len(sizes) > MAX_ROW_BYTES / 2


def test_tests_machine_files_and_unreadable_files_are_left_out(source: Path, tmp_path: Path) -> None:
    folder = ensure_embedded(tmp_path / "cache", rows_per_page=1, source=source)

    pages = open_page_set(folder, text_column="text", rows_per_page=1, num_validation_pages=0)
    text = "".join(row for page in range(pages.num_pages) for row in pages.read(page))
    assert sorted(text) == sorted("x = 1\n" * 700 + "y = 'ü'\n" * 300)


def test_the_folder_is_known_before_it_is_built(source: Path, tmp_path: Path) -> None:
    folder = embedded_folder(tmp_path / "cache", rows_per_page=2, source=source)
    assert not (tmp_path / "cache").exists()

    assert ensure_embedded(tmp_path / "cache", rows_per_page=2, source=source) == folder


def test_a_second_call_builds_nothing(source: Path, tmp_path: Path) -> None:
    folder = ensure_embedded(tmp_path / "cache", rows_per_page=1, source=source)
    written = (folder / "stdlib.parquet").stat()

    assert ensure_embedded(tmp_path / "cache", rows_per_page=1, source=source) == folder
    assert (folder / "stdlib.parquet").stat().st_mtime_ns == written.st_mtime_ns
    assert (folder / "stdlib.parquet").stat().st_ino == written.st_ino


def test_other_sources_and_other_pages_get_folders_of_their_own(source: Path, tmp_path: Path) -> None:
    first = ensure_embedded(tmp_path / "cache", rows_per_page=1, source=source)
    second = ensure_embedded(tmp_path / "cache", rows_per_page=2, source=source)
    (source / "three.py").write_text("z = 3\n")
    third = ensure_embedded(tmp_path / "cache", rows_per_page=1, source=source)

    assert len({first, second, third}) == 3


def test_two_caches_hold_the_same_digest(source: Path, tmp_path: Path) -> None:
    digests = {
        open_page_set(
            ensure_embedded(tmp_path / cache, rows_per_page=1, source=source),
            text_column="text",
            rows_per_page=1,
            num_validation_pages=0,
        ).digest
        for cache in ("a", "b")
    }

    assert len(digests) == 1


def _build(cache: Path, source: Path, barrier: multiprocessing.synchronize.Barrier) -> None:  # type: ignore[name-defined]
    barrier.wait(60)
    ensure_embedded(cache, rows_per_page=1, source=source)


def test_processes_that_build_at_once_end_with_one_set(source: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    builders = [context.Process(target=_build, args=(tmp_path / "cache", source, barrier)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)

    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    (folder,) = (tmp_path / "cache").iterdir()
    assert open_page_set(folder, text_column="text", rows_per_page=1, num_validation_pages=0).num_pages > 3


def test_a_build_that_was_cut_short_is_not_read(source: Path, tmp_path: Path) -> None:
    half = tmp_path / "cache" / ".building-dead"
    half.mkdir(parents=True)
    (half / "stdlib.parquet").write_bytes(b"PAR1")

    folder = ensure_embedded(tmp_path / "cache", rows_per_page=1, source=source)

    assert folder != half
    assert open_page_set(folder, text_column="text", rows_per_page=1, num_validation_pages=0).num_pages > 3


def test_a_cache_that_cannot_be_made_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigError, match=r"cannot write a page set to .*file"):
        ensure_embedded(tmp_path / "file", rows_per_page=1, source=source)


def test_a_folder_without_sources_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no Python source files"):
        ensure_embedded(tmp_path / "cache", rows_per_page=1, source=tmp_path)
