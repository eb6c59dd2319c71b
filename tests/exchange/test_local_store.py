"""What is special about buckets that are folders: crashes, links, disks."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from templar_pl.errors import ObjectMissingError, StoreError
from templar_pl.exchange.local_store import LEFTOVER_AGE_S, LocalBucket, LocalBuckets
from tests.exchange import crashing_writer, limited_writer, racing_writer
from tests.exchange.test_store import KEY


def start(module: object, *arguments: object) -> subprocess.Popen[str]:
    name = module.__name__  # type: ignore[attr-defined]  # modules have names; `object` does not say so
    command = [sys.executable, "-m", name, *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def hidden_files(root: Path, address: str) -> set[Path]:
    """Return the files that are no objects."""
    listed = {root / address / key for key in LocalBucket(root, address).list("")}
    return files(root / address) - listed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_writer_killed_at_any_moment_leaves_only_whole_objects(root: Path) -> None:
    for life in range(3):
        with start(crashing_writer, root, "me", 1_000_000) as writer:
            assert writer.stdout is not None
            writer.stdout.read(life * 4 + 1)  # a different number of puts each time, then in the middle of the next
            writer.send_signal(signal.SIGKILL)

    bucket = LocalBuckets(root, "you").of("me")
    keys = list(bucket.list(""))
    assert len(keys) >= 9
    for key in keys:
        assert re.fullmatch(r"run/(once/\d{4}|again)", key)
        data = bucket.get(key, max_bytes=2 * 10**6)
        assert hashlib.sha256(data[32:]).digest() == data[:32], key


def test_what_a_killed_process_left_is_never_listed_and_swept_by_a_later_put(root: Path) -> None:
    bucket = LocalBuckets(root, "me").own()
    bucket.put("a", b"x")
    (folder,) = [path for path in (root / "me").iterdir() if path.is_dir()]
    old, young = folder / "old", folder / "young"
    for leftover in (old, young):
        leftover.write_bytes(b"half")
    long_ago = time.time() - LEFTOVER_AGE_S - 1
    os.utime(old, (long_ago, long_ago))
    assert list(bucket.list("")) == ["a"]
    assert hidden_files(root, "me") == {old, young}

    bucket.put("b", b"y")

    assert hidden_files(root, "me") == {young}


def test_of_two_processes_that_put_once_exactly_one_wins_each_key(root: Path) -> None:
    count = 60
    writers = {name: start(racing_writer, root, count, name) for name in ("left", "right")}
    for writer in writers.values():
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    won = {name: writer.communicate(timeout=60)[0].split() for name, writer in writers.items()}

    assert sorted(won["left"] + won["right"]) == sorted(map(str, range(count)))
    bucket = LocalBuckets(root, "me").of("shared")
    for name, numbers in won.items():
        assert all(bucket.get(f"run/{number}", max_bytes=9) == name.encode() for number in numbers)


def test_a_full_disk_is_explained_and_harms_nothing(root: Path) -> None:
    bucket = LocalBuckets(root, "me").own()
    bucket.put("run/a", b"before")

    with start(limited_writer, root, "run/a", 100_000, 50_000) as writer:
        message = writer.communicate(timeout=60)[0]

    assert "cannot write" in message
    assert str(root / "me/run/a") in message
    assert "ulimit" in message
    assert bucket.get("run/a", max_bytes=10) == b"before"
    assert hidden_files(root, "me") == set()


def test_a_file_where_the_store_should_be_is_explained(root: Path) -> None:
    root.write_text("not a folder")

    with pytest.raises(StoreError, match="a file is where a folder must be"):
        LocalBuckets(root, "me").own().put("a", b"")


def test_an_object_cannot_take_the_place_of_a_folder(root: Path) -> None:
    bucket = LocalBuckets(root, "me").own()
    bucket.put("a/b", b"x")

    with pytest.raises(StoreError, match="folder"):
        bucket.put("a", b"")
    with pytest.raises(StoreError, match="folder"):
        bucket.put_once("a", b"")
    with pytest.raises(StoreError, match="folder"):
        bucket.put("a/b/c", b"")
    assert hidden_files(root, "me") == set()


def test_reading_writes_nothing_not_even_the_root(root: Path) -> None:
    reader = LocalBuckets(root, "me").of("you")

    assert list(reader.list("")) == []
    with pytest.raises(ObjectMissingError):
        reader.head("a")

    assert not root.exists()


def test_links_out_of_the_bucket_are_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    LocalBuckets(root, "me").own().put("run/a", b"x")
    (root / "me/run/file").symlink_to(outside / "secret")
    (root / "me/run/folder").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "linked").symlink_to(outside)
    buckets = LocalBuckets(root, "me")

    for address, key in (("me", "run/file"), ("me", "run/folder/secret"), ("linked", "secret"), ("loop", "secret")):
        with pytest.raises(StoreError, match="link"):
            buckets.of(address).head(key)
        with pytest.raises(StoreError, match="link"):
            buckets.of(address).get(key, max_bytes=100)
    with pytest.raises(StoreError, match="link"):
        buckets.own().put("run/folder/new", b"")
    with pytest.raises(StoreError, match="link"):
        buckets.own().delete(["run/folder/secret"])
    with pytest.raises(StoreError, match="link"):
        buckets.of("linked").list("")
    assert list(buckets.own().list("")) == ["run/a"]
    assert files(outside) == {outside / "secret"}


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    root.symlink_to(tmp_path / "disk")
    bucket = LocalBuckets(root, "me").own()

    bucket.put("run/a", b"x")

    assert bucket.get("run/a", max_bytes=1) == b"x"
    assert list(bucket.list("run/")) == ["run/a"]


def test_a_pipe_in_a_bucket_is_no_object_and_holds_nobody_up(root: Path) -> None:
    bucket = LocalBuckets(root, "me").own()
    bucket.put("run/a", b"x")
    os.mkfifo(root / "me/run/pipe")

    with pytest.raises(ObjectMissingError):
        bucket.get("run/pipe", max_bytes=1)
    assert list(bucket.list("run/")) == ["run/a"]


def test_times_of_objects_compare_with_the_clock_to_the_microsecond(root: Path) -> None:
    bucket = LocalBuckets(root, "me").own()
    for number in range(20):
        before = time.time()
        bucket.put_once(f"a{number}", b"")
        assert before <= bucket.head(f"a{number}").modified <= time.time()


def test_a_folder_emptied_by_delete_is_removed(root: Path) -> None:
    bucket = LocalBuckets(root, "me").own()
    bucket.put("run/payload/1/a", b"")
    bucket.put("run/payload/2/a", b"")

    bucket.delete(["run/payload/1/a"])

    assert not (root / "me/run/payload/1").exists()
    assert (root / "me/run/payload/2").exists()


@pytest.mark.parametrize("address", ["", "..", "a/b", "/etc"])
def test_a_malformed_own_address_is_a_bug_of_the_caller(root: Path, address: str) -> None:
    with pytest.raises(ValueError, match="address must be"):
        LocalBuckets(root, address)


@settings(max_examples=25)  # every put waits for the disk
@given(keys=st.sets(KEY, min_size=1, max_size=5), data=st.binary(max_size=100))
def test_any_keys_hold_what_was_put(tmp_path_factory: pytest.TempPathFactory, keys: set[str], data: bytes) -> None:
    bucket = LocalBuckets(tmp_path_factory.mktemp("store", numbered=True), "me").own()
    files_only = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
    for key in files_only:
        bucket.put(key, data + key.encode())

    assert list(bucket.list("")) == sorted(files_only)
    assert all(bucket.get(key, max_bytes=1000) == data + key.encode() for key in files_only)
