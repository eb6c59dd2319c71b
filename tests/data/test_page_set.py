"""Pages of parquet rows."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.data.page_set import MAX_OPEN_FILES, PageSet, PageSetConfig, count_training_pages, open_page_set
from templar_pl.errors import ConfigError
from tests.data.helpers import write_page_set, write_parquet


def opened(folder: Path, *, rows_per_page: int = 4, num_validation_pages: int = 2) -> PageSet:
    return open_page_set(
        folder, text_column="text", rows_per_page=rows_per_page, num_validation_pages=num_validation_pages
    )


@given(
    files=st.lists(st.lists(st.text(max_size=5), max_size=12), min_size=1, max_size=4).filter(any),
    rows_per_group=st.integers(1, 5),
    rows_per_page=st.integers(1, 7),
)
def test_all_pages_together_are_all_rows_in_file_order(
    files: list[list[str]], rows_per_group: int, rows_per_page: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, texts in enumerate(files):
            write_parquet(folder / f"{number}.parquet", [*texts], rows_per_group=rows_per_group)

        pages = opened(folder, rows_per_page=rows_per_page, num_validation_pages=0)

        read = [pages.read(page) for page in range(pages.num_pages)]
        pages.close()
    assert [text for page in read for text in page] == [text for texts in files for text in texts]
    assert all(len(page) == rows_per_page for page in read[:-1])
    assert 1 <= len(read[-1]) <= rows_per_page


def test_validation_pages_are_the_last_ones_and_never_training_pages(tmp_path: Path) -> None:
    texts = write_page_set(tmp_path, 30)

    pages = opened(tmp_path, rows_per_page=4, num_validation_pages=3)

    training = [text for page in range(pages.num_training_pages) for text in pages.read(page)]
    held_out = [text for page in pages.validation_pages for text in pages.read(page)]
    assert (training, held_out) == (texts[:20], texts[20:])


def test_a_page_reads_only_the_row_groups_that_hold_it(tmp_path: Path) -> None:
    texts = [f"{row} " * 2000 for row in range(12)]
    path = tmp_path / "a.parquet"
    write_parquet(path, [*texts], rows_per_group=3)
    pages = opened(tmp_path, rows_per_page=3, num_validation_pages=0)
    column = pq.ParquetFile(path).metadata.row_group(2).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(bytes(data))

    assert [pages.read(page) for page in (0, 1, 3)] == [texts[0:3], texts[3:6], texts[9:12]]
    with pytest.raises(ConfigError, match="fetch it again"):
        pages.read(2)


def test_a_null_row_is_an_empty_document(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["a", None, "b", "c"])

    assert opened(tmp_path, rows_per_page=3, num_validation_pages=0).read(0) == ["a", "", "b"]


def test_more_files_than_may_be_open_are_read_all_the_same(tmp_path: Path) -> None:
    texts = write_page_set(tmp_path, MAX_OPEN_FILES + 20, rows_per_file=1)
    pages = opened(tmp_path, rows_per_page=1, num_validation_pages=0)
    before = len(list(Path("/proc/self/fd").iterdir()))

    assert [pages.read(page)[0] for page in range(pages.num_pages)] == texts

    assert len(list(Path("/proc/self/fd").iterdir())) - before <= MAX_OPEN_FILES
    pages.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_threads_that_read_at_once_read_the_same(tmp_path: Path) -> None:
    texts = write_page_set(tmp_path, 40)
    pages = opened(tmp_path, rows_per_page=4, num_validation_pages=0)
    read: dict[int, list[list[str]]] = {}

    def read_all(thread: int) -> None:
        read[thread] = [pages.read((page + thread) % 10) for page in range(10)]

    threads = [threading.Thread(target=read_all, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    for thread in range(4):
        assert read[thread] == [texts[(page + thread) % 10 * 4 :][:4] for page in range(10)]


def test_a_page_set_can_be_sent_to_another_process(tmp_path: Path) -> None:
    texts = write_page_set(tmp_path, 20)
    pages = opened(tmp_path)
    pages.read(0)

    assert pickle.loads(pickle.dumps(pages)).read(1) == texts[4:8]  # noqa: S301 - our own bytes


def test_the_digest_depends_on_rows_and_pages_and_not_on_who_wrote_the_parquet(tmp_path: Path) -> None:
    texts = [f"text {row}" for row in range(12)]
    write_parquet(tmp_path / "a" / "x.parquet", [*texts], rows_per_group=2)
    write_parquet(tmp_path / "b" / "y.parquet", [*texts], rows_per_group=5)
    write_parquet(tmp_path / "c" / "x.parquet", [*texts[:-1], "text !"], rows_per_group=2)
    write_parquet(tmp_path / "d" / "x.parquet", [*texts], rows_per_group=2)

    same, also, other = (opened(tmp_path / name).digest for name in "abc")
    cut_otherwise = opened(tmp_path / "d", rows_per_page=3).digest

    assert same == also
    assert len({same, other, cut_otherwise}) == 3
    assert len(same) == 32


def test_the_digest_tells_apart_rows_that_join_to_the_same_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a" / "x.parquet", ["ab", "c", "d", "e"])
    write_parquet(tmp_path / "b" / "x.parquet", ["a", "bc", "d", "e"])

    digests = [opened(tmp_path / name, num_validation_pages=0).digest for name in "ab"]

    assert digests[0] != digests[1]


def test_a_second_opening_gives_the_same_digest_and_writes_nothing(tmp_path: Path) -> None:
    write_page_set(tmp_path, 30)
    digest = opened(tmp_path).digest
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    assert opened(tmp_path).digest == digest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


@pytest.mark.parametrize("num_rows", [12, 13, 40])
def test_counting_pages_tells_how_many_opening_will_find_and_writes_nothing(tmp_path: Path, num_rows: int) -> None:
    write_page_set(tmp_path, num_rows)
    before = sorted(tmp_path.iterdir())

    counted = count_training_pages(tmp_path, text_column="text", rows_per_page=4, num_validation_pages=2)

    assert sorted(tmp_path.iterdir()) == before
    assert counted == opened(tmp_path).num_training_pages
    assert counted == count_training_pages(tmp_path, text_column="text", rows_per_page=4, num_validation_pages=2)


def test_counting_refuses_what_opening_refuses_in_the_same_words(tmp_path: Path) -> None:
    write_page_set(tmp_path, 40)
    opened(tmp_path)

    for folder, rows_per_page, column, held_out in (
        (tmp_path / "absent", 4, "text", 2),
        (tmp_path, 5, "text", 2),
        (tmp_path, 4, "words", 2),
        (tmp_path, 4, "text", 10),
    ):
        said = []
        for call in (open_page_set, count_training_pages):
            with pytest.raises(ConfigError) as caught:
                call(folder, text_column=column, rows_per_page=rows_per_page, num_validation_pages=held_out)
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_a_file_that_changed_after_the_manifest_is_refused(tmp_path: Path) -> None:
    write_page_set(tmp_path, 20)
    opened(tmp_path)
    write_parquet(tmp_path / "part-001.parquet", [f"other {row}" for row in range(10)])

    with pytest.raises(ConfigError, match=r"part-001\.parquet is damaged or was changed.*fetch it again"):
        opened(tmp_path)


def test_a_file_that_was_only_touched_is_hashed_again_and_accepted(tmp_path: Path) -> None:
    write_page_set(tmp_path, 20)
    digest = opened(tmp_path).digest
    os.utime(tmp_path / "part-000.parquet", ns=(1, 1))

    assert opened(tmp_path).digest == digest


def test_a_manifest_that_came_with_the_files_is_verified(tmp_path: Path) -> None:
    write_page_set(tmp_path, 20)
    opened(tmp_path)
    (tmp_path / "pages.verified.json").unlink()
    data = bytearray((tmp_path / "part-000.parquet").read_bytes())
    data[10] ^= 1
    (tmp_path / "part-000.parquet").write_bytes(bytes(data))

    with pytest.raises(ConfigError, match=r"part-000\.parquet is damaged"):
        opened(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        opened(tmp_path / "nowhere")


def test_a_folder_without_parquet_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no parquet files"):
        opened(tmp_path)


def test_a_missing_column_lists_the_columns_there_are(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["a"], column="body")

    with pytest.raises(ConfigError, match=r"'text'; set text_column to one of: number \(int64\), body \(string\)"):
        opened(tmp_path)


def test_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")

    with pytest.raises(ConfigError, match=r"text \(int64\)"):
        opened(tmp_path)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"hello")

    with pytest.raises(ConfigError, match=r"a\.parquet is no readable parquet file"):
        opened(tmp_path)


def test_too_few_pages_say_how_many_there_are(tmp_path: Path) -> None:
    write_page_set(tmp_path, 20)

    with pytest.raises(ConfigError, match="has 5 pages of 4 rows; 2 for validation and 4 to train on are needed"):
        open_page_set(tmp_path, text_column="text", rows_per_page=4, num_validation_pages=2, min_training_pages=4)


def test_other_rows_per_page_than_the_manifest_are_refused(tmp_path: Path) -> None:
    write_page_set(tmp_path, 20)
    opened(tmp_path, rows_per_page=4)

    with pytest.raises(ConfigError, match="says rows_per_page 4, got 5"):
        opened(tmp_path, rows_per_page=5)


def test_an_added_or_missing_file_is_refused_and_named(tmp_path: Path) -> None:
    write_page_set(tmp_path, 20)
    opened(tmp_path)
    (tmp_path / "part-000.parquet").rename(tmp_path / "new.parquet")

    with pytest.raises(ConfigError, match=r"missing \['part-000.parquet'\], unknown \['new.parquet'\]"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"files": 3},
        {"files": [{"name": "part-000.parquet"}]},
        {"files": [{"name": "a", "rows": -1, "sha256": "0" * 64, "content": "0" * 64}]},
        {"files": [{"name": "a", "rows": 1, "sha256": "0" * 63, "content": "0" * 64}]},
        {"unknown": 1},
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write_page_set(tmp_path, 20)
    opened(tmp_path)
    manifest = json.loads((tmp_path / "pages.json").read_text())
    (tmp_path / "pages.json").write_text(json.dumps({**manifest, **change}))

    with pytest.raises(ConfigError, match="is no page manifest"):
        opened(tmp_path)


def test_a_page_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    write_page_set(tmp_path, 20)
    pages = opened(tmp_path)

    for page in (-1, 5):
        with pytest.raises(ValueError, match=r"page must be in 0\.\.4"):
            pages.read(page)


@pytest.mark.parametrize(
    "wrong", [{"rows_per_page": 0}, {"num_validation_pages": 0}, {"num_validation_pages": True}, {"text_column": ""}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PageSetConfig(**wrong)  # type: ignore[arg-type]
