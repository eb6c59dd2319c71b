"""Run files in buckets, those of strangers among them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.errors import ConfigError, DocumentError, Fault, ObjectMissingError, StoreError
from templar_pl.exchange import LocalBucket, LocalBuckets, fetch_run_file, publish_run_file
from templar_pl.protocol import MAX_RUN_FILE_BYTES, Peer, RunFile, decode_run_file, encode_run_file, run_key
from templar_pl.units import Uid, Window
from tests.exchange.fakes import Calls, Scripted
from tests.protocol.documents import GOLDEN, run_file, slow_document

KEY = run_key("my-run")


@dataclass(frozen=True)
class Scene:
    """A publisher, a stranger, and a node that wants to join."""

    root: Path
    owner: HotkeySigner
    stranger: HotkeySigner

    @property
    def bucket(self) -> LocalBucket:
        return LocalBuckets(self.root, self.owner.hotkey).own()

    @property
    def peer(self) -> Peer:
        owner = self.owner
        return Peer(Uid(7), owner.hotkey, owner.public_key, address=owner.hotkey)

    def publish(self, wanted: RunFile) -> RunFile:
        return publish_run_file(self.bucket, wanted, self.owner, verify)

    def fetch(self, peer: Peer | None = None, run: str = "my-run") -> RunFile:
        return fetch_run_file(LocalBuckets(self.root, "joiner"), peer or self.peer, run, verify)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    keys = tmp_path / "keys"
    return Scene(tmp_path / "store", load_or_create_hotkey(keys, "owner"), load_or_create_hotkey(keys, "stranger"))


def test_a_run_file_that_was_published_can_be_fetched(scene: Scene) -> None:
    assert scene.publish(run_file()) == run_file()

    assert scene.fetch() == run_file()


def test_an_equal_run_file_published_again_leaves_the_bytes_as_they_are(scene: Scene) -> None:
    scene.publish(run_file())
    before = scene.bucket.get(KEY, max_bytes=MAX_RUN_FILE_BYTES)
    assert encode_run_file(run_file(), scene.owner) != before  # signatures are randomised

    assert scene.publish(run_file()) == run_file()

    assert scene.bucket.get(KEY, max_bytes=MAX_RUN_FILE_BYTES) == before


def test_a_newer_version_of_the_package_goes_on_with_the_run_file_that_stands(scene: Scene) -> None:
    scene.publish(run_file(version="0.1.0"))

    assert scene.publish(run_file(version="0.2.0")).version == "0.1.0"

    assert scene.fetch().version == "0.1.0"


def test_another_run_file_is_refused_and_both_are_said(scene: Scene) -> None:
    scene.publish(run_file())

    with pytest.raises(ConfigError) as caught:
        scene.publish(run_file(start_window=Window(5), digest=b"d" * 32, version="9"))

    assert str(caught.value) == (
        f"my-run/run.json in the own bucket says another thing than these settings: digest is "
        f"{run_file().digest.hex()}, not {b'd'.hex() * 32}, start_window is 1234, not 5; delete it, or give the run "
        "another name"
    )
    assert scene.fetch() == run_file()


def test_a_checkpoint_that_was_not_there_before_is_another_run_file(scene: Scene) -> None:
    scene.publish(run_file(checkpoint=None))

    with pytest.raises(ConfigError, match=r"checkpoint is None, not StoredFile\("):
        scene.publish(run_file())


def test_a_run_file_of_another_hotkey_in_the_own_bucket_is_refused(scene: Scene) -> None:
    scene.bucket.put(KEY, encode_run_file(run_file(), scene.stranger))

    keys = scene.stranger.public_key.hex(), scene.owner.public_key.hex()
    with pytest.raises(ConfigError, match="signed by {}, this hotkey is {}".format(*keys)):
        scene.publish(run_file())


@pytest.mark.parametrize("data", [b"", b"{}", bytes(MAX_RUN_FILE_BYTES + 1)])
def test_something_else_in_its_place_is_refused(scene: Scene, data: bytes) -> None:
    scene.bucket.put(KEY, data)

    with pytest.raises(ConfigError, match=r"my-run/run\.json in the own bucket cannot be used"):
        scene.publish(run_file())


@pytest.mark.parametrize("name", ["put_once", "get"])
def test_after_a_failure_it_can_be_published_again(scene: Scene, name: str) -> None:
    if name == "get":
        scene.publish(run_file())
    failing = Scripted(scene.bucket, Calls(**{name: 1}))

    with pytest.raises(StoreError):
        publish_run_file(failing, run_file(), scene.owner, verify)

    assert publish_run_file(failing, run_file(), scene.owner, verify) == run_file()


def test_a_run_file_that_is_not_there_is_told_from_a_wrong_one(scene: Scene) -> None:
    with pytest.raises(ObjectMissingError):
        scene.fetch()


@pytest.mark.parametrize("address", ["", "../up", "a/b"])
def test_a_peer_without_a_usable_address_is_a_fault_of_the_way_to_it(scene: Scene, address: str) -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        scene.fetch(replace(scene.peer, address=address))


def _flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


HOSTILE: dict[str, tuple[Callable[[Scene], bytes], Fault, str]] = {
    "signed by a stranger": (
        lambda scene: encode_run_file(run_file(), scene.stranger), Fault.SENDER, "must be signed by",
    ),
    "a stranger's under the owner's key": (
        lambda scene: encode_run_file(run_file(), scene.stranger).replace(
            scene.stranger.public_key.hex().encode(), scene.owner.public_key.hex().encode()
        ),
        Fault.SIGNATURE,
        "the signature is not one of",
    ),
    "of another run": (
        lambda scene: encode_run_file(run_file(run="other-run", checkpoint=None), scene.owner),
        Fault.RUN,
        "is about another run, 'other-run'",
    ),
    "a bit of the statement flipped": (
        lambda scene: _flipped(encode_run_file(run_file(), scene.owner), -8), Fault.SIGNATURE, "the signature is not",
    ),
    "the signature of another run file": (
        lambda scene: slow_document("run", {}, scene.owner), Fault.CONTENT, "it must have the fields",
    ),
    "of another kind": (
        lambda scene: encode_run_file(run_file(), scene.owner).replace(b'"kind":"run"', b'"kind":"peers"'),
        Fault.FORMAT,
        "it is of another kind, 'peers'",
    ),
    "a number out of range": (
        lambda scene: slow_document("run", {**_statement(scene), "netuid": -1}, scene.owner), Fault.CONTENT, "netuid",
    ),
    "nothing": (lambda _: b"", Fault.FORMAT, "Expecting value"),
    "a page of a web server": (lambda _: b"<html></html>", Fault.FORMAT, "Expecting value"),
    "a pickle": (lambda _: b"\x80\4cos\nsystem\n", Fault.FORMAT, "can't decode byte"),
    "two in one": (lambda scene: encode_run_file(run_file(), scene.owner) * 2, Fault.FORMAT, "Extra data"),
    "too long": (lambda _: b" " * (MAX_RUN_FILE_BYTES + 1), Fault.SIZE, "no more than 4096"),
    "8 MiB of brackets": (lambda _: b"[" * 2**23, Fault.SIZE, "no more than 4096"),
}  # fmt: skip


def _statement(scene: Scene) -> dict[str, object]:
    return json.loads(encode_run_file(run_file(), scene.owner))["statement"]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_in_a_strangers_bucket_is_refused_with_its_fault(scene: Scene, name: str) -> None:
    make, fault, reason = HOSTILE[name]
    scene.bucket.put(KEY, make(scene))

    with pytest.raises(DocumentError) as caught:
        scene.fetch()

    assert caught.value.fault is fault
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"my-run/run.json of peer 7 ({scene.owner.hotkey})")


def test_any_bit_flipped_in_a_real_run_file_is_refused(scene: Scene) -> None:
    good = encode_run_file(run_file(), scene.owner)

    for place in range(len(good)):
        scene.bucket.put(KEY, _flipped(good, place))
        with pytest.raises(DocumentError):
            scene.fetch()


def test_a_run_file_that_was_signed_long_ago_is_still_good() -> None:
    public_key, wanted = decode_run_file((GOLDEN / "run_v1_sr25519.json").read_bytes(), verify)

    assert wanted == run_file()
    # //Alice, from the documentation of Substrate's well-known development accounts.
    assert public_key.hex() == "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
