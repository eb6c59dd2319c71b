"""Manifests and aggregates in buckets, those of strangers among them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.errors import AggregateError, ConfigError, DocumentError, Fault, ObjectMissingError, StoreError
from templar_pl.exchange import AggregatePublisher, AggregateSource, LocalBuckets, StandingManifest, read_aggregate
from templar_pl.exchange.aggregates import FileBucket
from templar_pl.exchange.large_objects import FileDigest
from templar_pl.protocol import (
    MAX_MANIFEST_BYTES,
    AggregateNotice,
    Manifest,
    Peer,
    aggregate_keys,
    encode_aggregate,
    encode_manifest,
    encode_notice,
    manifest_keys,
    max_aggregate_bytes,
    notice_keys,
)
from templar_pl.units import Uid, Window
from tests.exchange.fakes import Calls, Scripted
from tests.protocol.aggregates import by_name, manifest, shapes_of, small_update
from tests.protocol.samples import RUN
from tests.servers.nodes import IN_SMALL_PARTS, empty, node_buckets
from tests.servers.seaweed import S3Server

WINDOW = manifest().window
MANIFEST, NOTICE, AGGREGATE = (keys("my-run").key(WINDOW) for keys in (manifest_keys, notice_keys, aggregate_keys))
UPDATE = small_update()
SHAPES = shapes_of(UPDATE)


class ScriptedFiles(Scripted):
    """A bucket whose calls are watched, those with files too."""

    def __init__(self, bucket: FileBucket, before: Callable[[str, str], None]) -> None:
        super().__init__(bucket, before)
        self._files = bucket

    def put_file(self, key: str, path: Path) -> FileDigest:
        self._before("put_file", key)
        return self._files.put_file(key, path)

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        self._before("get_file", key)
        self._files.get_file(key, path, expected)


@dataclass(frozen=True)
class Scene:
    """An aggregator, a stranger, and a node that follows."""

    folder: Path
    owner: HotkeySigner
    stranger: HotkeySigner

    @property
    def bucket(self) -> FileBucket:
        return LocalBuckets(self.folder / "store", self.owner.hotkey).own()

    def publisher(self, bucket: FileBucket | None = None) -> AggregatePublisher:
        return AggregatePublisher(bucket or self.bucket, "my-run", self.folder, self.owner, verify)

    def source(self, digest: bytes = RUN, address: str | None = None) -> AggregateSource:
        address = self.owner.hotkey if address is None else address
        peer = Peer(Uid(7), self.owner.hotkey, self.owner.public_key, address)
        return AggregateSource(LocalBuckets(self.folder / "store", "joiner"), peer, "my-run", digest, verify)

    def publish(self) -> tuple[StandingManifest, AggregateNotice]:
        standing = self.publisher().publish_manifest(manifest())
        return standing, self.publisher().publish_aggregate(standing, by_name(UPDATE), SHAPES)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    keys = tmp_path / "keys"
    return Scene(tmp_path, load_or_create_hotkey(keys, "owner"), load_or_create_hotkey(keys, "stranger"))


def assert_is_update(tensors: Iterator[tuple[str, Tensor]]) -> None:
    decoded = dict(tensors)
    assert decoded.keys() == UPDATE.keys()
    assert all(torch.equal(decoded[name], tensor) for name, tensor in UPDATE.items())


def test_what_was_published_can_be_fetched_and_applied(scene: Scene) -> None:
    scene.publish()
    path = scene.folder / "fetched"

    standing = scene.source().fetch_manifest(WINDOW)
    scene.source().fetch_aggregate(scene.source().fetch_notice(standing), SHAPES, path)

    assert standing.manifest == manifest()
    assert standing.sha256 == hashlib.sha256(scene.bucket.get(MANIFEST, max_bytes=MAX_MANIFEST_BYTES)).digest()
    assert_is_update(read_aggregate(path, SHAPES, standing.head, verify))
    assert {entry.name for entry in scene.folder.iterdir()} == {"keys", "store", "fetched"}


def in_moto(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("moto_url")


def in_seaweed(request: pytest.FixtureRequest) -> str:
    server: S3Server = request.getfixturevalue("seaweed_server")
    return server.endpoint_url


@pytest.mark.parametrize("server", [in_moto, in_seaweed])
def test_an_aggregate_in_several_parts_goes_through_an_s3_store(
    scene: Scene, request: pytest.FixtureRequest, server: Callable[[pytest.FixtureRequest], str]
) -> None:
    url = server(request)
    empty(url)
    buckets = node_buckets("me", url, IN_SMALL_PARTS)
    own = buckets.own()
    signs = torch.randint(0, 2, (50_000_000,), dtype=torch.int8).mul_(2).sub_(1)
    publisher = AggregatePublisher(own, "my-run", scene.folder, scene.owner, verify)
    peer = Peer(Uid(7), scene.owner.hotkey, scene.owner.public_key, buckets.own_address())
    source = AggregateSource(buckets, peer, "my-run", RUN, verify)

    standing = publisher.publish_manifest(manifest())
    published = publisher.publish_aggregate(standing, [("w", signs)], {"w": (50_000_000,)})
    fetched = source.fetch_manifest(WINDOW)
    notice = source.fetch_notice(fetched)
    source.fetch_aggregate(notice, {"w": (50_000_000,)}, scene.folder / "fetched")

    assert (fetched, notice) == (standing, published)
    assert notice.size > IN_SMALL_PARTS.multipart_bytes
    [(_, tensor)] = read_aggregate(scene.folder / "fetched", {"w": (50_000_000,)}, fetched.head, verify)
    assert torch.equal(tensor, signs)


def test_a_manifest_published_again_stands_as_it_is_also_where_it_says_something_else(scene: Scene) -> None:
    first = scene.publisher().publish_manifest(manifest())

    again = scene.publisher().publish_manifest(manifest(steps=36, payloads={}))

    assert again == first
    assert scene.source().fetch_manifest(WINDOW) == first


def test_an_aggregate_that_is_there_is_not_made_again(scene: Scene) -> None:
    standing, notice = scene.publish()
    before = scene.bucket.get(AGGREGATE, max_bytes=10**6)

    def fail() -> Iterator[tuple[str, Tensor]]:
        raise AssertionError("the update was asked for")
        yield

    assert scene.publisher().publish_aggregate(standing, fail(), SHAPES) == notice
    assert scene.bucket.get(AGGREGATE, max_bytes=10**6) == before


@pytest.mark.parametrize("failing", ["get", "put_file", "put_once"])
def test_after_a_failure_an_aggregate_can_be_published_again(scene: Scene, failing: str) -> None:
    standing = scene.publisher().publish_manifest(manifest())
    bucket = ScriptedFiles(scene.bucket, Calls(**{failing: 1}))

    with pytest.raises(StoreError, match="503"):
        scene.publisher(bucket).publish_aggregate(standing, by_name(UPDATE), SHAPES)
    assert not list(scene.folder.glob("*outgoing*"))
    with pytest.raises(ObjectMissingError):
        scene.source().fetch_notice(standing)

    notice = scene.publisher(bucket).publish_aggregate(standing, by_name(UPDATE), SHAPES)

    assert scene.source().fetch_notice(standing) == notice
    scene.source().fetch_aggregate(notice, SHAPES, scene.folder / "fetched")


def test_the_notice_is_put_last(scene: Scene) -> None:
    asked: list[tuple[str, str]] = []
    bucket = ScriptedFiles(scene.bucket, lambda name, key: asked.append((name, key)))

    standing = scene.publisher(bucket).publish_manifest(manifest())
    scene.publisher(bucket).publish_aggregate(standing, by_name(UPDATE), SHAPES)

    puts = [entry for entry in asked if entry[0].startswith("put")]
    assert puts == [("put_once", MANIFEST), ("put_file", AGGREGATE), ("put_once", NOTICE)]


def test_an_update_that_does_not_fit_leaves_nothing_behind(scene: Scene) -> None:
    standing = scene.publisher().publish_manifest(manifest())

    with pytest.raises(ValueError, match="-1, 0 and 1, got 7 in w"):
        scene.publisher().publish_aggregate(standing, [("w", torch.tensor([7]))], {"w": (1,)})

    assert list(scene.bucket.list("")) == [MANIFEST]
    assert not list(scene.folder.glob("*outgoing*"))


def test_two_aggregators_with_one_hotkey_are_found_out(scene: Scene) -> None:
    standing = scene.publisher().publish_manifest(manifest())

    def other(name: str, key: str) -> None:
        if name == "put_file":
            folder = scene.folder / "store"  # each process has its own
            rival = AggregatePublisher(scene.bucket, "my-run", folder, scene.owner, verify)
            rival.publish_aggregate(standing, by_name(UPDATE), SHAPES)

    with pytest.raises(ConfigError, match=r"another process with this hotkey has just published .*000001234\.json"):
        scene.publisher(ScriptedFiles(scene.bucket, other)).publish_aggregate(standing, by_name(UPDATE), SHAPES)


@pytest.mark.parametrize("data", [b"", b"{}", bytes(MAX_MANIFEST_BYTES + 1)])
def test_something_else_in_the_own_bucket_is_refused(scene: Scene, data: bytes) -> None:
    standing = scene.publisher().publish_manifest(manifest())
    scene.bucket.put(MANIFEST, data)
    scene.bucket.put(NOTICE, data)

    with pytest.raises(
        ConfigError, match=r"000001234\.json in the own bucket cannot be used.*; restore it, or begin another"
    ):
        scene.publisher().publish_manifest(manifest())
    with pytest.raises(
        ConfigError, match=r"000001234\.json in the own bucket cannot be used.*; delete it, or give the run another"
    ):
        scene.publisher().publish_aggregate(standing, by_name(UPDATE), SHAPES)


def test_a_notice_of_another_manifest_in_the_own_bucket_is_refused(scene: Scene) -> None:
    standing, _ = scene.publish()

    with pytest.raises(ConfigError, match="of another manifest than the one that stands"):
        scene.publisher().publish_aggregate(replace(standing, sha256=b"x" * 32), by_name(UPDATE), SHAPES)


def test_what_is_not_there_is_told_from_what_is_wrong(scene: Scene) -> None:
    with pytest.raises(ObjectMissingError):
        scene.source().fetch_manifest(WINDOW)

    standing = scene.publisher().publish_manifest(manifest())
    with pytest.raises(ObjectMissingError):
        scene.source().fetch_notice(standing)

    notice = scene.publisher().publish_aggregate(standing, by_name(UPDATE), SHAPES)
    scene.bucket.delete([AGGREGATE])
    with pytest.raises(ObjectMissingError):
        scene.source().fetch_aggregate(notice, SHAPES, scene.folder / "fetched")


@pytest.mark.parametrize("address", ["", "../up", "a/b"])
def test_an_aggregator_without_a_usable_address_is_a_fault_of_the_way_to_it(scene: Scene, address: str) -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        scene.source(address=address).fetch_manifest(WINDOW)


def _manifest(scene: Scene, signer: HotkeySigner, **changes: object) -> bytes:
    return encode_manifest(manifest(**changes), signer)


def _hex(signer: HotkeySigner) -> bytes:
    return signer.public_key.hex().encode()


HOSTILE: dict[str, tuple[Callable[[Scene], bytes], Fault]] = {
    "signed by a stranger": (lambda s: _manifest(s, s.stranger), Fault.SENDER),
    "a stranger's under the owner's key": (
        lambda s: _manifest(s, s.stranger).replace(_hex(s.stranger), _hex(s.owner)),
        Fault.SIGNATURE,
    ),
    "of another run": (lambda s: _manifest(s, s.owner, run=b"x" * 32), Fault.RUN),
    "of another window": (lambda s: _manifest(s, s.owner, window=Window(1235)), Fault.WINDOW),
    "of another kind": (
        lambda s: encode_notice(AggregateNotice(run=RUN, window=WINDOW, manifest=RUN, sha256=RUN, size=1), s.owner),
        Fault.FORMAT,
    ),
    "nothing": (lambda _: b"", Fault.FORMAT),
    "too long": (lambda _: b" " * (MAX_MANIFEST_BYTES + 1), Fault.SIZE),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_in_the_bucket_of_an_aggregator_is_refused_with_its_fault(scene: Scene, name: str) -> None:
    make, fault = HOSTILE[name]
    scene.bucket.put(MANIFEST, make(scene))

    with pytest.raises(DocumentError) as caught:
        scene.source().fetch_manifest(WINDOW)

    assert caught.value.fault is fault
    assert str(caught.value).startswith(f"my-run/manifest/000001234.json of peer 7 ({scene.owner.hotkey}): ")


def test_a_notice_of_another_manifest_is_refused(scene: Scene) -> None:
    standing, notice = scene.publish()
    scene.bucket.put(NOTICE, encode_notice(replace(notice, manifest=b"x" * 32), scene.owner))

    with pytest.raises(DocumentError, match=f"is of manifest 7878.*must be of {standing.sha256.hex()}") as caught:
        scene.source().fetch_notice(standing)

    assert caught.value.fault is Fault.HASH


def test_a_notice_of_more_bytes_than_an_aggregate_can_have_is_refused_before_anything_is_fetched(scene: Scene) -> None:
    _, notice = scene.publish()
    too_long = replace(notice, size=max_aggregate_bytes(SHAPES) + 1)

    with pytest.raises(DocumentError, match=f"can have {max_aggregate_bytes(SHAPES)} bytes") as caught:
        scene.source().fetch_aggregate(too_long, SHAPES, scene.folder / "fetched")

    assert caught.value.fault is Fault.SIZE
    assert not list(scene.folder.glob("fetched*"))


def test_an_aggregate_that_is_not_what_the_notice_says_is_never_given_its_name(scene: Scene) -> None:
    _, notice = scene.publish()
    changed = bytearray(scene.bucket.get(AGGREGATE, max_bytes=10**6))
    changed[200] ^= 1
    scene.bucket.put(AGGREGATE, bytes(changed))

    with pytest.raises(StoreError, match="sha256"):
        scene.source().fetch_aggregate(notice, SHAPES, scene.folder / "fetched")

    assert not list(scene.folder.glob("fetched*"))


def test_a_file_that_is_no_aggregate_or_not_there_is_refused(scene: Scene) -> None:
    standing, _ = scene.publish()
    path = scene.folder / "a"
    path.write_bytes(b"".join(encode_aggregate(standing.head, by_name(UPDATE), SHAPES, scene.owner))[:-1])

    with pytest.raises(AggregateError) as caught:
        list(read_aggregate(path, SHAPES, standing.head, verify))
    assert caught.value.fault is Fault.SIZE
    with pytest.raises(StoreError, match="cannot read"):
        list(read_aggregate(scene.folder / "absent", SHAPES, standing.head, verify))


def test_a_full_disk_is_told_with_its_remedy(scene: Scene) -> None:
    standing = scene.publisher().publish_manifest(manifest())
    publisher = AggregatePublisher(scene.bucket, "my-run", scene.folder / "absent", scene.owner, verify)

    with pytest.raises(StoreError, match=r"cannot write .*absent"):
        publisher.publish_aggregate(standing, by_name(UPDATE), SHAPES)


def test_the_settlement_of_a_fetched_manifest_is_that_of_the_published_one(scene: Scene) -> None:
    wanted: Manifest = manifest()
    scene.publish()

    assert scene.source().fetch_manifest(WINDOW).manifest.settlement() == wanted.settlement()
