"""Windows that an aggregator writes a manifest for: its list is applied, whatever a node has seen itself."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from templar_pl.chain import HotkeySigner, load_or_create_hotkey
from templar_pl.errors import Fault, OutOfSyncError, StoreError
from templar_pl.exchange.window_values import GoneError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Uid, Window
from tests.exchange.fakes import MemoryBucket
from tests.exchange.landed_worlds import NAMES, NOW, SHAPES, do_nothing, fault
from tests.exchange.manifest_worlds import LIVE, PAST, Follower, Scene, key_of, unreadable


@settings(max_examples=15, deadline=None)
@given(unseen=st.sets(st.sampled_from([0, 1, 2])), listed=st.sets(st.sampled_from([0, 1, 2])), sends=st.booleans())
def test_what_is_listed_is_applied_whatever_was_seen(unseen: set[Uid], listed: set[Uid], sends: bool) -> None:
    with TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        scene.publish({}, Window(NOW - 1))
        miners = scene.join(*NAMES, "reader", timeout_s=0.2)
        sent = {miner.uid: miner.send() for miner in miners[:3]}
        own = miners[3].send() if sends else None
        scene.store_time = LIVE
        miners[3].broken = unreadable(unseen)

        def heal() -> None:
            """By the time the manifest is there, all can be read."""
            scene.publish({uid: sent[uid].sha256 for uid in listed})
            miners[3].broken = do_nothing

        scene.on_ask = heal

        collected = miners[3].record.collect(NOW, own)

        assert list(collected.payloads) == sorted(listed)
        assert all(collected.payloads[uid].header == sent[uid].payload.header for uid in listed)
        assert collected.settlement.payloads == {uid: sent[uid].sha256 for uid in sorted(listed)}
        assert collected.skipped.keys() == scene.register.keys() - listed
        assert collected.standing is not None
        assert all(miners[3].gets[key_of(uid)] <= 1 for uid in scene.register)
        update = miners[0].miner.codec.update([sent[uid].payload.chunks for uid in listed])
        applied = miners[3].miner.round_trip.update(collected)
        assert all(torch.equal(update[name], applied[name]) for name in SHAPES)


def test_who_is_left_out_is_reported_with_the_reason_of_the_manifest(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    sent = alice.send()
    bob.send()
    scene.publish({alice.uid: sent.sha256})
    scene.store_time = PAST

    collected = alice.record.collect(NOW, sent)

    assert list(collected.payloads) == [alice.uid]
    assert fault(collected, bob.miner) is Fault.LATE
    assert "left out by the manifest: written 0.5 s" in str(collected.skipped[bob.uid])


def test_a_manifest_of_the_past_is_applied_without_a_gather_by_the_clock(scene: Scene) -> None:
    alice, bob, carol = scene.join(*NAMES)
    sent = alice.send(), bob.send()
    scene.publish({alice.uid: sent[0].sha256, bob.uid: sent[1].sha256})
    scene.store_time, scene.clock.opened = PAST + 3000, Window(NOW + 30)  # payloads are kept for 10 windows

    collected = carol.record.collect(NOW, None)

    assert list(collected.payloads) == [alice.uid, bob.uid]
    assert scene.asked == [NOW]
    assert carol.gets.keys() == {key_of(alice.uid), key_of(bob.uid)}


def test_without_a_manifest_the_past_is_what_landed_as_long_as_payloads_are_kept(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.store_time = PAST + 100

    assert list(bob.record.collect(NOW, None).payloads) == [alice.uid]

    scene.clock.opened = Window(NOW + 11)
    with pytest.raises(OutOfSyncError, match="kept for 10 windows"):
        bob.record.collect(NOW, None)


def test_the_own_payload_is_not_downloaded(scene: Scene) -> None:
    (alice,) = scene.join("alice")
    sent = alice.send()
    scene.publish({alice.uid: sent.sha256})

    for scene.store_time in (LIVE, PAST):
        assert alice.record.collect(NOW, sent).payloads == {alice.uid: sent.payload}

    assert not alice.gets.total()


def test_a_listed_payload_that_cannot_be_had_leaves_the_node_behind(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    sent = alice.send()
    scene.publish({alice.uid: sent.sha256})
    bob.broken = unreadable([alice.uid])

    for scene.store_time in (LIVE, PAST):
        with pytest.raises(OutOfSyncError, match=r"1 agreed payload\(s\) cannot be had"):
            bob.record.collect(NOW, None)


def test_what_there_is_of_a_window_with_a_gone_payload_is_told_and_what_counts_is_not_skipped(scene: Scene) -> None:
    alice, bob, carol = scene.join(*NAMES)
    sent = alice.send(), bob.send()
    scene.publish({alice.uid: sent[0].sha256, bob.uid: sent[1].sha256})
    MemoryBucket(scene.disk, "alice", scene.time).delete([key_of(alice.uid)])

    for scene.store_time in (LIVE, PAST):
        with pytest.raises(GoneError, match=r"1 agreed payload\(s\) cannot be had: .*no object") as caught:
            bob.record.collect(NOW, sent[1])

        collected = caught.value.collected
        assert collected.payloads == {bob.uid: sent[1].payload}
        assert collected.settlement.payloads == {alice.uid: sent[0].sha256, bob.uid: sent[1].sha256}
        assert collected.skipped.keys() == {carol.uid}
        assert collected.standing is not None
        assert collected.gone == str(caught.value)


def test_a_listed_payload_that_is_missing_is_asked_for_once_since_it_was_there(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob", timeout_s=60.0)
    sent = alice.send()
    scene.publish({alice.uid: sent.sha256})
    MemoryBucket(scene.disk, "alice", scene.time).delete([key_of(alice.uid)])
    scene.store_time, asked = PAST, []
    bob.broken = lambda name, key: asked.append(name)

    with pytest.raises(GoneError):
        bob.record.collect(NOW, None)

    assert asked == ["head"]


def test_another_payload_than_the_one_that_is_listed_is_not_applied(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.publish({alice.uid: hashlib.sha256(b"what stood there before").digest()})
    scene.store_time = LIVE

    with pytest.raises(OutOfSyncError, match="sha256 is"):
        bob.record.collect(NOW, None)


def test_a_listed_uid_that_nobody_has_leaves_the_node_behind(scene: Scene) -> None:
    (alice,) = scene.join("alice")
    scene.publish({Uid(50): bytes(32)})
    scene.store_time = PAST

    with pytest.raises(OutOfSyncError, match=r"uids \[50\], which are not in the register"):
        alice.record.collect(NOW, None)


def garbage(scene: Scene, of: Follower) -> bytes:
    """Put bytes that are no payload in the place of one; return their hash."""
    data = bytes(len(of.send().data))
    MemoryBucket(scene.disk, scene.register[of.uid].address, scene.time).put(key_of(of.uid), data)
    return hashlib.sha256(data).digest()


def of_another_hotkey(scene: Scene, of: Follower) -> bytes:
    """Send a payload, whose uid has another hotkey in the register that is known; return its hash."""
    sent, stranger = of.send(), load_or_create_hotkey(scene.folder, "stranger")
    scene.register[of.uid] = replace(scene.register[of.uid], hotkey=stranger.hotkey, public_key=stranger.public_key)
    return sent.sha256


@pytest.mark.parametrize("listed", [garbage, of_another_hotkey])
def test_a_listed_payload_that_this_node_cannot_verify_leaves_it_behind(
    scene: Scene, listed: Callable[[Scene, Follower], bytes]
) -> None:
    alice, bob, carol = scene.join(*NAMES)
    sent = bob.send()
    hashes = {alice.uid: listed(scene, alice), bob.uid: sent.sha256}
    scene.publish(hashes)

    for scene.store_time in (LIVE, PAST):
        for follower, own in ((bob, sent), (carol, None)):
            with pytest.raises(GoneError, match=r"1 agreed payload\(s\) cannot be had: peer 0") as caught:
                follower.record.collect(NOW, own)

            collected = caught.value.collected
            assert list(collected.payloads) == [bob.uid]
            assert collected.skipped.keys() == {carol.uid}
            assert collected.settlement.payloads == hashes
            assert collected.gone == str(caught.value)


def other_signer(scene: Scene) -> None:
    scene.writer, writer = load_or_create_hotkey(scene.folder, "stranger"), scene.writer
    scene.publish({})
    scene.writer = writer


WRONG: dict[str, Callable[[Scene], None]] = {
    "signer": other_signer,
    "run": lambda scene: scene.publish({}, run=bytes(32)),
    "window": lambda scene: scene.publish({}, window=Window(NOW + 1)),
    "bytes": lambda scene: scene.put(b"{}"),
    "size": lambda scene: scene.put(bytes(2**18 + 1)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_manifest_to_follow_counts_for_none_and_is_named(
    scene: Scene, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    WRONG[wrong](scene)
    scene.store_time = PAST

    with caplog.at_level(logging.WARNING):
        collected = bob.record.collect(NOW, None)

    assert list(collected.payloads) == [alice.uid]
    assert collected.standing is None
    assert "what the aggregator published is no manifest to follow" in caplog.text
    assert "no manifest, applying the 1 payload(s) that landed" in caplog.text


def test_the_own_payload_of_an_earlier_life_counts_if_the_manifest_lists_it(scene: Scene) -> None:
    (alice,) = scene.join("alice")
    sent = alice.send()
    scene.store_time = PAST + 100
    landed = alice.record.own_payload(NOW)
    scene.publish({alice.uid: sent.sha256})
    listed = alice.record.own_payload(NOW)
    scene.publish({})

    assert landed is not None
    assert listed is not None
    assert landed.header == listed.header == sent.payload.header
    assert alice.record.own_payload(NOW) is None


def test_a_listed_payload_of_an_earlier_life_that_is_gone_is_an_error(scene: Scene) -> None:
    (alice,) = scene.join("alice")
    sent = alice.send()
    scene.publish({alice.uid: sent.sha256})
    alice.broken = unreadable([alice.uid])
    scene.store_time = PAST + 100

    with pytest.raises(StoreError, match="the own payload cannot be had"):
        alice.record.own_payload(NOW)


def test_a_listed_payload_of_who_had_the_uid_before_is_not_the_own(scene: Scene) -> None:
    (alice,) = scene.join("alice")
    sent = alice.send()
    scene.publish({alice.uid: sent.sha256})
    stranger: HotkeySigner = load_or_create_hotkey(scene.folder, "stranger")
    scene.register[alice.uid] = Peer(alice.uid, stranger.hotkey, stranger.public_key, "alice")
    scene.store_time = PAST + 100

    assert alice.record.own_payload(NOW) is None
