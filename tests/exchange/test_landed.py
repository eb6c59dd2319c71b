"""Windows that nobody writes a list for: what landed in time by the clock of the store is applied, by all alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from templar_pl.chain import load_or_create_hotkey
from templar_pl.compression import MomentumCodec
from templar_pl.errors import ChainError, Fault, OutOfSyncError, StoreError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Window
from tests.exchange.landed_worlds import (
    CLOSED,
    CONFIG,
    NAMES,
    NOW,
    OPEN,
    SHAPES,
    Miner,
    World,
    fault,
    raise_store_error,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_landed_in_time_is_applied_by_all_alike(world: World) -> None:
    miners = [world.add(name) for name in NAMES]
    sent = [miner.send() for miner in miners[:2]]  # carol sends nothing
    world.store_time = CLOSED + 2

    collected = [m.record.collect(NOW, own) for m, own in zip(miners, [*sent, None], strict=True)]

    assert [list(c.payloads) for c in collected] == [[0, 1]] * 3
    assert all(c.settlement == collected[0].settlement for c in collected)
    updates = [m.round_trip.update(c) for m, c in zip(miners, collected, strict=True)]
    assert all(torch.equal(updates[0][name], update[name]) for update in updates for name in SHAPES)
    assert updates[0]["matrix"].abs().sum() > 0
    assert fault(collected[0], miners[2]) is Fault.MISSING


def test_a_payload_that_lands_late_counts_for_nobody_and_goes_back_into_the_momentum(world: World) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    own = alice.send()
    bob.train()
    before = bob.momentum()
    bob.codec.load_state_dict(MomentumCodec(SHAPES, CONFIG, torch.device("cpu")).state_dict())
    world.store_time = CLOSED + 0.5

    with pytest.raises(ChainError, match=r"written 0\.500 s after uploads were accepted"):
        bob.send()

    assert all(torch.equal(before[name], bob.codec.momentum[name]) for name in SHAPES)
    world.store_time = CLOSED + 2
    assert fault(alice.record.collect(NOW, own), bob) is Fault.LATE
    assert fault(bob.record.collect(NOW, None), bob) is Fault.LATE


def test_a_payload_that_lands_early_is_written_again_and_counts(world: World) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    world.store_time = OPEN - 1.2  # the miner's clock is ahead by that much
    alice.broken = lambda name, _: setattr(world, "store_time", OPEN + 1) if name == "put" else None

    alice.send()

    assert list(bob.record.collect(NOW, None).payloads) == [alice.uid]


def test_the_second_in_which_uploads_begin_counts_whole(world: World) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    world.store_time = float(int(OPEN))  # what a store that tells whole seconds says of a later moment
    alice.send()
    world.store_time = CLOSED + 2

    assert list(bob.record.collect(NOW, None).payloads) == [alice.uid]


def test_a_hotkey_registered_while_the_window_was_open_counts_from_the_next_one_on(world: World) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    world.since[bob.uid] = Window(NOW + 1)
    own = alice.send()
    bob.send()
    world.store_time = CLOSED + 2

    assert list(alice.record.collect(NOW, own).payloads) == [alice.uid]
    assert bob.record.own_payload(NOW) is None


def another_key(world: World, miner: Miner) -> None:
    stranger = load_or_create_hotkey(world.folder, "stranger")
    peer = world.register[miner.uid]
    world.register[miner.uid] = Peer(peer.uid, stranger.hotkey, stranger.public_key, peer.address)


def another_bucket(world: World, miner: Miner) -> None:
    peer = world.register[miner.uid]
    world.register[miner.uid] = Peer(peer.uid, peer.hotkey, peer.public_key, "moved")


@pytest.mark.parametrize("change", [another_key, another_bucket])
def test_a_uid_that_others_take_for_another_node_or_bucket_is_not_counted_as_the_own(
    world: World, change: Callable[[World, Miner], None]
) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    own, _ = bob.send(), alice.send()
    change(world, bob)
    world.store_time = CLOSED + 2

    collected = [alice.record.collect(NOW, None), bob.record.collect(NOW, own)]

    assert [list(c.payloads) for c in collected] == [[alice.uid]] * 2
    assert bob.record.own_payload(NOW) is None
    world.clock.opened = NOW
    opened = iter([NOW, NOW, NOW + 1])
    world.clock.window = lambda: Window(next(opened))  # type: ignore[method-assign]
    assert bob.record.join(NOW) == NOW + 1


def test_a_node_that_has_lost_its_place_in_the_register_stops(world: World) -> None:
    bob = world.add("bob")
    world.clock.opened = NOW
    assert bob.record.join(NOW) == NOW
    another_key(world, bob)

    with pytest.raises(OutOfSyncError, match="not registered any more: register it again"):
        bob.record.join(NOW)


def test_such_a_node_waits_for_the_window_in_which_it_counts(world: World) -> None:
    bob = world.add("bob")
    world.since[bob.uid] = Window(NOW + 1)
    asked: list[Window] = []

    def window() -> Window:
        asked.append(NOW)
        return NOW if len(asked) < 4 else Window(NOW + 1)

    world.clock.window = window  # type: ignore[method-assign]

    assert bob.record.join(NOW) == NOW + 1
    assert bob.record.join(Window(NOW + 1)) == NOW + 1


def test_a_store_that_answers_for_nobody_is_asked_again_before_nothing_is_applied(world: World) -> None:
    alice, bob = world.add("alice", patience_s=20, timeout_s=0.1), world.add("bob")
    bob.send()
    world.store_time = CLOSED + 2
    failures = iter([True, True])  # both peers, the first time

    def fail_at_first(*_: str) -> None:
        if next(failures, False):
            raise StoreError("no connection")

    alice.broken = fail_at_first

    assert list(alice.record.collect(NOW, None).payloads) == [bob.uid]


def test_a_store_that_never_answers_stops_the_node(world: World) -> None:
    alice = world.add("alice", patience_s=0.1, timeout_s=0.05)
    alice.broken = raise_store_error

    with pytest.raises(OutOfSyncError, match=r"the store answered for no peer within 0\.1 s"):
        alice.record.collect(NOW, None)


def test_one_peer_whose_bucket_does_not_answer_is_left_out_at_the_deadline(world: World) -> None:
    alice, bob = world.add("alice", patience_s=60, timeout_s=0.1), world.add("bob")
    own = alice.send()
    world.store_time = CLOSED + 2
    alice.broken = raise_store_error

    collected = alice.record.collect(NOW, own)

    assert list(collected.payloads) == [alice.uid]
    assert isinstance(collected.skipped[bob.uid], StoreError)


def test_a_window_whose_payloads_are_deleted_by_now_stops_the_node(world: World) -> None:
    alice = world.add("alice")
    world.clock.opened = Window(NOW + 11)

    with pytest.raises(OutOfSyncError, match="kept for 10 windows, and window 16 is open"):
        alice.record.collect(NOW, None)


def test_the_own_payload_of_an_earlier_life_is_known_if_it_counted(world: World) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    sent = alice.send()
    world.store_time = CLOSED + 2

    found = alice.record.own_payload(NOW)

    assert found is not None
    assert found.header == sent.payload.header
    assert bob.record.own_payload(NOW) is None
    alice.broken = raise_store_error
    with pytest.raises(StoreError):
        alice.record.own_payload(NOW)


def test_a_store_that_comes_back_between_two_questions_has_told_too_little(world: World) -> None:
    """A node that applied what came first would differ from all others."""
    alice, bob, carol = (world.add(name, patience_s=60.0) for name in NAMES)
    alice.send()
    bob.send()
    world.store_time = CLOSED + 2
    left = {"0": 1, "1": 2, "2": 1}  # questions that fail, by uid

    def fail_at_first(_: str, key: str) -> None:
        uid = key.rpartition("/")[2].removesuffix(".bin")
        left[uid] -= 1
        if left[uid] >= 0:
            raise StoreError("no connection")

    carol.broken = fail_at_first

    assert list(carol.record.collect(NOW, None).payloads) == [alice.uid, bob.uid]


def test_a_put_may_take_until_uploads_end(world: World) -> None:
    alice = world.add("alice")

    assert CLOSED - OPEN < alice.record.seconds_to_put(NOW) < CLOSED - OPEN + 2.5


def test_a_put_that_cannot_count_any_more_is_not_made(world: World) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    world.clock.left_s = OPEN - CLOSED - 5

    with pytest.raises(ChainError, match=r"uploads ended 5\.0 s before this node was ready"):
        alice.send()

    world.store_time = CLOSED + 2
    assert fault(bob.record.collect(NOW, None), alice) is Fault.MISSING
    assert alice.momentum()["matrix"].abs().sum() > 0


def test_a_put_that_hangs_is_left_when_uploads_have_ended(world: World) -> None:
    alice = world.add("alice", timeout_s=60.0)
    world.clock.left_s = OPEN - CLOSED - 0.5  # uploads ended half a second ago, as far as stores can tell
    release = threading.Event()

    def hang(*_: str) -> None:
        release.wait(30)

    alice.broken = hang
    start = time.monotonic()
    try:
        with pytest.raises(StoreError, match="could not be published by the deadline"):
            alice.send()
        took_s = time.monotonic() - start
    finally:
        release.set()

    assert took_s < 20


def test_a_window_that_is_not_over_is_waited_for(world: World) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    bob.send()
    world.clock.left_s = 0.05
    world.store_time = CLOSED + 2

    assert list(alice.record.collect(NOW, None).payloads) == [bob.uid]
    assert world.clock.left_s == 0
