"""What every store must do that takes objects from files and gives them back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from templar_pl.errors import ObjectMissingError, StoreError
from templar_pl.exchange.large_objects import FileDigest, LargeBucket
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.store import Bucket
from tests.servers.nodes import IN_SMALL_PARTS, empty, node_buckets
from tests.servers.seaweed import S3Server

MIB = 2**20


class Store(Bucket, LargeBucket, Protocol):
    """A bucket that does both."""


def local(request: pytest.FixtureRequest) -> Store:
    folder: Path = request.getfixturevalue("tmp_path")
    return LocalBuckets(folder / "store", "me").own()


def moto(request: pytest.FixtureRequest) -> Store:
    url: str = request.getfixturevalue("moto_url")
    empty(url)
    return node_buckets("me", url, IN_SMALL_PARTS).own()


def seaweed(request: pytest.FixtureRequest) -> Store:
    server: S3Server = request.getfixturevalue("seaweed_server")
    empty(server.endpoint_url)
    return node_buckets("me", server.endpoint_url, IN_SMALL_PARTS).own()


STORES: dict[str, Callable[[pytest.FixtureRequest], Store]] = {"local": local, "moto": moto, "seaweed": seaweed}


@pytest.fixture(params=STORES)
def bucket(request: pytest.FixtureRequest) -> Store:
    return STORES[request.param](request)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(12 * MIB + 345))
    return path


def digest_of(path: Path) -> FileDigest:
    return FileDigest(path.stat().st_size, hashlib.sha256(path.read_bytes()).digest())


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, 17 * MIB])
def test_a_file_comes_back_as_it_was(bucket: Store, tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(os.urandom(size))

    digest = bucket.put_file("run/large", tmp_path / "source")
    bucket.get_file("run/large", tmp_path / "copy", digest)

    assert digest == digest_of(tmp_path / "source") == digest_of(tmp_path / "copy")
    assert bucket.head("run/large").size == size
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "copy", "store"}


def test_objects_and_files_are_the_same_to_a_store(bucket: Store, source: Path, tmp_path: Path) -> None:
    bucket.put("a", source.read_bytes())
    bucket.get_file("a", tmp_path / "copy", digest_of(source))
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()

    bucket.put_file("b", source)
    assert bucket.get("b", max_bytes=13 * MIB) == source.read_bytes()


def test_a_file_put_again_replaces_the_object(bucket: Store, source: Path, tmp_path: Path) -> None:
    bucket.put_file("a", source)
    source.write_bytes(b"new")

    bucket.put_file("a", source)

    assert bucket.get("a", max_bytes=10) == b"new"


def test_a_file_that_exists_is_replaced_by_what_is_fetched(bucket: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"old")
    bucket.get_file("a", tmp_path / "copy", bucket.put_file("a", source))

    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_other_content_than_announced_never_gets_the_name(bucket: Store, source: Path, tmp_path: Path) -> None:
    bucket.put_file("a", source)
    (tmp_path / "copy").write_bytes(b"old")
    announced = FileDigest(source.stat().st_size, hashlib.sha256(b"other").digest())

    with pytest.raises(StoreError, match="sha256"):
        bucket.get_file("a", tmp_path / "copy", announced)

    assert (tmp_path / "copy").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "copy", "store"}


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_size_than_announced_is_refused_before_anything_is_fetched(
    bucket: Store, source: Path, tmp_path: Path, difference: int
) -> None:
    digest = bucket.put_file("a", source)

    with pytest.raises(StoreError, match=str(digest.size)):
        bucket.get_file("a", tmp_path / "copy", FileDigest(digest.size + difference, digest.sha256))

    assert {path.name for path in tmp_path.iterdir()} <= {"source", "store"}


def test_an_absent_object_is_said_to_be_missing(bucket: Store, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissingError):
        bucket.get_file("absent", tmp_path / "copy", FileDigest(1, bytes(32)))

    assert not (tmp_path / "copy").exists()


def test_a_source_that_is_not_there_is_the_callers_fault(bucket: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bucket.put_file("a", tmp_path / "absent")


@pytest.mark.parametrize("key", ["", "..", "/a", "a//b"])
def test_an_unsafe_key_is_refused(bucket: Store, source: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="a key must"):
        bucket.put_file(key, source)
    with pytest.raises(ValueError, match="a key must"):
        bucket.get_file(key, tmp_path / "copy", digest_of(source))


def test_a_folder_that_is_not_there_is_explained(bucket: Store, source: Path, tmp_path: Path) -> None:
    digest = bucket.put_file("a", source)

    with pytest.raises(StoreError, match=r"cannot write.*absent"):
        bucket.get_file("a", tmp_path / "absent" / "copy", digest)
