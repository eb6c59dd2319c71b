"""What a validator sees of miners whose buckets fail in one way or another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from templar_pl.errors import Fault, StoreError
from templar_pl.exchange import LocalBucket
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.store import BucketReader, ObjectInfo
from templar_pl.protocol import payload_key
from templar_pl.roles.sightings import DOUBTED_WINDOWS, Lookout, Sighting
from templar_pl.training.patience import Patience
from templar_pl.units import Uid, Window
from tests.roles.lost_copies import Silent
from tests.roles.scored_runs import DELTA_S, RUN, World, limits_and_identity

WINDOW = Window(1)
SPAN = 12
TIMEOUT_S = 0.4


class Buckets:
    """The buckets of a world, of which some do not answer."""

    def __init__(self, world: World, broken: Collection[int]) -> None:
        self._world = world
        self.break_(broken)

    def break_(self, broken: Collection[int]) -> None:
        self._broken = {miner.signer.hotkey for miner in self._world.miners if miner.uid in broken}

    def own(self) -> LocalBucket:
        return self._world.buckets.own()

    def of(self, address: str) -> BucketReader:
        return Silent() if address in self._broken else self._world.buckets.of(address)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(3)
    world.open(1)
    world.train(range(2))
    world.open(3)
    return world


def look(world: World, window: Window = WINDOW, *, broken: Collection[int] = ()) -> Sighting:
    return lookout(world, Buckets(world, broken)).look(window)


def lookout(world: World, buckets: Buckets) -> Lookout:
    identity, limits = limits_and_identity(world, timeout_s=TIMEOUT_S)
    source = PayloadSource(world.model.codec, identity, buckets, limits)
    return Lookout(world.chain, buckets, RUN, source, Patience(0.1, lambda: None), doubt_span=SPAN)


def faults_of(seen: Sighting) -> dict[int, Fault | None]:
    return {int(presence.uid): presence.fault for presence in seen.presences}


def test_everybody_who_may_send_is_seen_with_hash_and_time(world: World) -> None:
    seen = look(world)

    opened = world.chain.upload_interval(WINDOW)[0]
    assert [(p.uid, p.hotkey, p.fault) for p in seen.presences] == [
        (miner.uid, miner.signer.hotkey, None) for miner in world.miners
    ]
    assert {uid: upload.sha256 for uid, upload in seen.uploads.items()} == {
        uid: fetched.sha256.hex() for uid, fetched in seen.payloads.items()
    }
    for uid, upload in seen.uploads.items():
        assert upload.uploaded_at == pytest.approx(opened + 1 + 0.1 * uid, abs=1e-3)


def test_a_bucket_that_does_not_answer_while_others_do_has_no_payload(world: World) -> None:
    seen = look(world, broken={2})

    assert {p.uid: p.fault for p in seen.presences} == {1: None, 2: Fault.MISSING, 3: None}
    assert set(seen.payloads) == set(seen.uploads) == {1, 3}


def test_a_store_that_answers_for_nobody_is_an_outage_and_no_silence(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "templar_pl"), pytest.raises(StoreError, match="answers for no miner"):
        look(world, broken={1, 2, 3})

    assert "window 1 cannot be judged, trying again" in caplog.text


def test_a_miner_without_a_bucket_is_missing(world: World) -> None:
    world.add(1)
    nameless = world.miners.pop()
    chain = world.chain_of(nameless.signer)
    chain.commit("")
    chain.close()
    world.open(12)
    for miner in world.miners:
        miner.put(world, Window(8), world.sent[WINDOW][miner.uid])

    seen = look(world, Window(8))

    assert {p.uid: p.fault for p in seen.presences} == {1: None, 2: None, 3: None, nameless.uid: Fault.MISSING}


def test_an_early_and_a_damaged_payload_have_their_faults(world: World) -> None:
    early, damaged, late = world.miners
    early.put(world, WINDOW, world.sent[WINDOW][early.uid], after_s=-5.0)
    key = payload_key(RUN, WINDOW, damaged.uid)
    data = bytearray(damaged.buckets.own().get(key, max_bytes=10**6))
    data[-1] ^= 1
    world.place(damaged, WINDOW, bytes(data), 1.0)
    late.put(world, WINDOW, world.sent[WINDOW][late.uid], after_s=DELTA_S + 2.0)

    seen = look(world)

    faults = {p.uid: p.fault for p in seen.presences}
    assert faults == {1: Fault.EARLY, 2: Fault.SIGNATURE, 3: Fault.LATE}
    assert seen.payloads == {}
    assert Uid(1) not in seen.uploads


def test_most_buckets_that_fail_are_unseen_and_after_some_windows_missing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.train(range(2, 12))
    world.open(13)
    buckets = Buckets(world, ())
    out = lookout(world, buckets)
    assert faults_of(out.look(WINDOW)) == {1: None, 2: None, 3: None}
    buckets.break_({1, 2})

    with caplog.at_level(logging.WARNING, "templar_pl"):
        found = [faults_of(out.look(Window(window))) for window in range(2, 4 + DOUBTED_WINDOWS)]

    assert found[:DOUBTED_WINDOWS] == [{1: Fault.UNSEEN, 2: Fault.UNSEEN, 3: None}] * DOUBTED_WINDOWS
    assert found[DOUBTED_WINDOWS:] == [{1: Fault.MISSING, 2: Fault.MISSING, 3: None}] * 2
    assert "window 2: 2 of 3 buckets fail, most of those that answered before" in caplog.text


@pytest.mark.parametrize(("later", "expected"), [(13, []), (14, [14])])  # the last and the first beyond the span
def test_buckets_that_answer_now_and_then_are_not_unseen_more_often(
    world: World, later: int, expected: list[int]
) -> None:
    world.train(range(2, 16))
    world.open(17)
    buckets = Buckets(world, ())
    out = lookout(world, buckets)

    def look_at(windows: range, broken: set[int]) -> list[int]:
        """Return the windows in which somebody was unseen."""
        buckets.break_(broken)
        return [w for w in windows if Fault.UNSEEN in faults_of(out.look(Window(w))).values()]

    look_at(range(1, 2), set())
    unseen = look_at(range(2, 7), {1, 2}) + look_at(range(7, 8), set()) + look_at(range(8, 9), {1, 2})
    unseen += look_at(range(9, later), set()) + look_at(range(later, later + 1), {1, 2})

    assert unseen == [2, 3, 4, 5, 6, *expected]


def test_buckets_that_hung_until_the_deadline_are_not_asked_once_more(world: World) -> None:
    buckets = Hanging(world, {1, 2})

    seen = lookout(world, buckets).look(WINDOW)

    assert faults_of(seen) == {1: Fault.UNSEEN, 2: Fault.UNSEEN, 3: None}
    assert buckets.asked == 2


class Hanging(Buckets):
    """Buckets of which some hang."""

    asked = 0

    def of(self, address: str) -> BucketReader:
        if address not in self._broken:
            return super().of(address)
        self.asked += 1
        return Hung()


class Hung(Silent):
    """A bucket that answers when it is too late."""

    def head(self, key: str) -> ObjectInfo:
        threading.Event().wait(5 * TIMEOUT_S)
        raise StoreError("no answer")


def test_buckets_that_failed_for_long_do_not_speak_for_others(world: World) -> None:
    world.add(3)
    world.open(3)
    world.train(range(4, 12))
    world.open(13)
    dead = {4, 5, 6}
    buckets = Buckets(world, dead)
    out = lookout(world, buckets)
    out.look(Window(4))
    buckets.break_(dead | {1})

    assert faults_of(out.look(Window(5))) == {1: Fault.MISSING, 2: None, 3: None, **dict.fromkeys(dead, Fault.MISSING)}


def test_buckets_that_answer_when_they_are_asked_once_more_are_seen(world: World) -> None:
    buckets = Recovering(world, {1, 2})

    assert faults_of(lookout(world, buckets).look(WINDOW)) == {1: None, 2: None, 3: None}


class Recovering(Buckets):
    """Buckets that do not answer when they are asked first."""

    def of(self, address: str) -> BucketReader:
        bucket = super().of(address)
        self._broken.discard(address)
        return bucket
