"""Records and lists of peers in buckets, those of strangers among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.errors import DocumentError, Fault, ObjectMissingError, StoreError
from templar_pl.exchange import LocalBucket, LocalBuckets, fetch_peer_list, fetch_score_record, publish_peer_list
from templar_pl.protocol import (
    MAX_PEER_LIST_BYTES,
    MAX_SCORE_BYTES,
    Peer,
    encode_peer_list,
    encode_score_record,
    peers_key,
    score_keys,
)
from templar_pl.units import Uid, Window
from tests.protocol.judgements import peer_list, score_record

PEERS, SCORES = peers_key("my-run"), score_keys("my-run").key(Window(42))


@dataclass(frozen=True)
class Scene:
    """A validator, a stranger, and a node that reads what they publish."""

    root: Path
    owner: HotkeySigner
    stranger: HotkeySigner

    @property
    def bucket(self) -> LocalBucket:
        return LocalBuckets(self.root, self.owner.hotkey).own()

    def peer(self, address: str | None = None) -> Peer:
        owner = self.owner
        return Peer(Uid(7), owner.hotkey, owner.public_key, address=owner.hotkey if address is None else address)

    def fetch(self, key: str, address: str | None = None) -> object:
        buckets = LocalBuckets(self.root, "reader")
        if key == PEERS:
            return fetch_peer_list(buckets, self.peer(address), "my-run", verify)
        return fetch_score_record(buckets, self.peer(address), "my-run", Window(42), verify)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    keys = tmp_path / "keys"
    return Scene(tmp_path / "store", load_or_create_hotkey(keys, "owner"), load_or_create_hotkey(keys, "stranger"))


def test_a_list_that_was_published_can_be_fetched_and_the_next_one_takes_its_place(scene: Scene) -> None:
    for uids in ((Uid(1), Uid(2)), (Uid(2), Uid(5))):
        publish_peer_list(scene.bucket, peer_list(uids=uids), scene.owner)

        assert scene.fetch(PEERS) == peer_list(uids=uids)


def test_a_record_that_was_published_can_be_fetched(scene: Scene) -> None:
    scene.bucket.put(SCORES, encode_score_record(score_record(), scene.owner))

    assert scene.fetch(SCORES) == score_record()


@pytest.mark.parametrize("key", [PEERS, SCORES])
def test_what_was_not_published_is_missing(scene: Scene, key: str) -> None:
    with pytest.raises(ObjectMissingError):
        scene.fetch(key)


@pytest.mark.parametrize("key", [PEERS, SCORES])
def test_a_malformed_address_is_an_error_of_the_store(scene: Scene, key: str) -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        scene.fetch(key, address="../owner")


HOSTILE: dict[str, tuple[str, Callable[[Scene], bytes], Fault, str]] = {
    "a list of another key": (
        PEERS, lambda s: encode_peer_list(peer_list(), s.stranger), Fault.SENDER, "must be signed by"),
    "a list of another run": (
        PEERS, lambda s: encode_peer_list(peer_list(run="other"), s.owner), Fault.RUN, "not 'my-run'"),
    "a list that is too large": (PEERS, lambda s: bytes(MAX_PEER_LIST_BYTES + 1), Fault.SIZE, "no more than"),
    "a list that is none": (PEERS, lambda s: b"{}", Fault.FORMAT, "no peers document"),
    "a record for a list": (
        PEERS, lambda s: encode_score_record(score_record(), s.owner), Fault.FORMAT, "of another kind, 'scores'"),
    "a record of another key": (
        SCORES, lambda s: encode_score_record(score_record(), s.stranger), Fault.SENDER, "must be signed by"),
    "a record of another run": (
        SCORES, lambda s: encode_score_record(score_record(run="other"), s.owner), Fault.RUN, "about run 'other'"),
    "a record of another window": (
        SCORES, lambda s: encode_score_record(score_record(window=Window(41)), s.owner), Fault.WINDOW,
        "about window 41, not 42"),
    "a record that is too large": (SCORES, lambda s: bytes(MAX_SCORE_BYTES + 1), Fault.SIZE, "no more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_stranger_put_there_is_refused_with_its_fault(scene: Scene, name: str) -> None:
    key, make, fault, reason = HOSTILE[name]
    scene.bucket.put(key, make(scene))

    with pytest.raises(DocumentError, match=reason) as caught:
        scene.fetch(key)

    assert caught.value.fault is fault
    assert f"{key} of peer 7 ({scene.owner.hotkey})" in str(caught.value)
