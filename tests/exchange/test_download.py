"""Files that come in parts: what is kept when something goes wrong, and what is not."""

from __future__ import annotations

import hashlib
import resource
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import StoreError
from templar_pl.exchange.download import open_download
from templar_pl.exchange.large_objects import FileDigest, in_parallel, part_ranges

CONTENT = bytes(range(256)) * 4
EXPECTED = FileDigest(len(CONTENT), hashlib.sha256(CONTENT).digest())
RANGES = part_ranges(len(CONTENT), 100, 1000)


def keep(path: Path, starts: list[int]) -> None:
    """Fetch some parts, then stop."""
    with open_download(path, EXPECTED, RANGES) as download:
        for start, length in download.missing:
            if start in starts:
                download.write(start, CONTENT[start : start + length])


def missing(path: Path, expected: FileDigest = EXPECTED) -> list[int]:
    with open_download(path, expected, RANGES) as download:
        return [start for start, _ in download.missing]


@given(size=st.integers(0, 10_000), part_bytes=st.integers(1, 300), max_parts=st.integers(1, 50))
def test_parts_cover_everything_once_and_are_few_enough(size: int, part_bytes: int, max_parts: int) -> None:
    ranges = part_ranges(size, part_bytes, max_parts)

    assert [place for start, length in ranges for place in range(start, start + length)] == list(range(size))
    assert len(ranges) <= max_parts
    assert len({length for _, length in ranges[:-1]}) <= 1


@given(order=st.permutations(RANGES), stop=st.integers(0, len(RANGES)))
def test_parts_in_any_order_and_over_two_lives_make_the_file(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[int, int]], stop: int
) -> None:
    path = tmp_path_factory.mktemp("download") / "file"
    keep(path, [start for start, _ in order[:stop]])

    with open_download(path, EXPECTED, RANGES) as download:
        assert download.missing == [part for part in RANGES if part in order[stop:]]
        for start, length in download.missing:
            download.write(start, CONTENT[start : start + length])
        download.finish()

    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_a_part_whose_line_was_torn_is_fetched_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    keep(path, [0, 1000])
    log = tmp_path / "file.part.log"
    assert log.read_bytes().endswith(b"\n1000\n")
    log.write_bytes(log.read_bytes()[:-2])  # what is left, 100, is the start of another part

    assert missing(path) == [start for start, _ in RANGES if start != 0]


def test_parts_of_other_content_are_not_taken_over(tmp_path: Path) -> None:
    keep(tmp_path / "file", [0, 100])

    assert missing(tmp_path / "file", FileDigest(EXPECTED.size, bytes(32))) == [start for start, _ in RANGES]


def test_a_log_without_its_bytes_counts_for_nothing(tmp_path: Path) -> None:
    keep(tmp_path / "file", [0, 100])
    (tmp_path / "file.part").unlink()

    assert missing(tmp_path / "file") == [start for start, _ in RANGES]


def test_a_log_that_lies_is_found_out_and_all_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "file"
    keep(path, [start for start, _ in RANGES])
    with (tmp_path / "file.part").open("r+b") as file:
        file.write(b"X")

    with open_download(path, EXPECTED, RANGES) as download, pytest.raises(StoreError, match="sha256"):
        download.finish()

    assert list(tmp_path.iterdir()) == []
    assert len(missing(path)) == len(RANGES)


def test_a_file_is_not_fetched_by_two_at_once(tmp_path: Path) -> None:
    with (
        open_download(tmp_path / "file", EXPECTED, RANGES),
        pytest.raises(StoreError, match="another process is fetching"),
    ):
        missing(tmp_path / "file")

    assert len(missing(tmp_path / "file")) == len(RANGES)


def test_a_disk_without_room_says_so_before_anything_is_fetched(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write .*file: File too large; raise the limit"):
            missing(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "file.part").symlink_to(victim)

    with pytest.raises(StoreError, match="link"):
        missing(tmp_path / "file")
    assert victim.read_bytes() == b"precious"


def test_results_come_in_order_and_the_first_error_stops_the_rest() -> None:
    assert in_parallel(lambda number: number * number, range(20), 4) == [number * number for number in range(20)]

    begun: list[int] = []

    def fail_at_first(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise StoreError("part 0")
        threading.Event().wait(0.02)  # long enough for the error to be noticed meanwhile

    with pytest.raises(StoreError, match="part 0"):
        in_parallel(fail_at_first, range(1000), 2)
    assert len(begun) < 1000
