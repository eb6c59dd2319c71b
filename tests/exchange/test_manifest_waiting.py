"""How long a manifest is waited for: as long as the aggregator keeps up, and a moment where it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from templar_pl.errors import ObjectMissingError, StoreError
from templar_pl.exchange.manifest_record import SHARE_WHEN_SILENT
from templar_pl.units import Window
from tests.exchange.landed_worlds import CLOSED, NOW, raise_store_error
from tests.exchange.manifest_worlds import LIVE, PAST, WAIT_S, Scene


def after_asking(times: int, action: Callable[[], None]) -> Callable[[], None]:
    """Return what does something when it is called for the so-many-th time."""
    left = iter(range(times - 1, -1, -1))

    def count() -> None:
        if next(left, None) == 0:
            action()

    return count


def test_a_manifest_is_waited_for_while_the_aggregator_keeps_up(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    sent = alice.send()
    scene.publish({}, Window(NOW - 1))
    scene.store_time = LIVE
    scene.on_ask = after_asking(3, lambda: scene.publish({alice.uid: sent.sha256}))

    collected = bob.record.collect(NOW, None)

    assert collected.standing is not None
    assert list(collected.payloads) == [alice.uid]
    assert scene.asked == [NOW, NOW - 1, NOW]


def test_it_is_waited_for_no_longer_than_told_after_the_end_of_uploads(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.publish({}, Window(NOW - 1))
    scene.store_time = CLOSED + WAIT_S - 0.01
    scene.on_ask = after_asking(3, lambda: setattr(scene, "store_time", CLOSED + WAIT_S))

    collected = bob.record.collect(NOW, None)

    assert list(collected.payloads) == [alice.uid]
    assert scene.asked == [NOW, NOW - 1, NOW]


def test_an_aggregator_that_did_not_write_the_window_before_is_waited_for_a_moment_only(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.publish({}, Window(NOW - 2))
    scene.store_time = PAST
    bob.record.collect(Window(NOW - 2), None)
    scene.asked, scene.store_time = [], LIVE
    scene.on_ask = after_asking(3, lambda: setattr(scene, "store_time", CLOSED + 0.01 + SHARE_WHEN_SILENT * WAIT_S))

    collected = bob.record.collect(NOW, None)

    assert list(collected.payloads) == [alice.uid]
    assert scene.asked == [NOW, NOW - 1] * 2


def test_an_aggregator_that_never_wrote_anything_is_not_waited_for(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.store_time = LIVE
    scene.on_ask = after_asking(2, lambda: setattr(scene, "store_time", CLOSED + 0.01))

    assert list(bob.record.collect(NOW, None).payloads) == [alice.uid]
    assert scene.asked == [NOW, NOW - 1]


def test_an_aggregator_that_comes_back_is_followed_at_once(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.publish({}, Window(NOW - 2))
    scene.store_time = PAST
    bob.record.collect(Window(NOW - 2), None)
    scene.asked, scene.store_time = [], LIVE

    def come_back() -> None:
        if len(scene.asked) == 1:
            scene.store_time = CLOSED + 0.5 * SHARE_WHEN_SILENT * WAIT_S
        if len(scene.asked) == 3:
            scene.publish({}, Window(NOW - 1))
            scene.store_time = CLOSED + 0.01 + SHARE_WHEN_SILENT * WAIT_S  # from here on it counts that it keeps up
        if len(scene.asked) == 5:
            scene.publish({})

    scene.on_ask = come_back

    assert bob.record.collect(NOW, None).standing is not None


def test_in_the_first_window_of_a_run_the_aggregator_is_waited_for(scene: Scene) -> None:
    (alice,) = scene.join("alice", first=NOW)
    sent = alice.send()
    scene.store_time = LIVE
    scene.on_ask = after_asking(2, lambda: scene.publish({}))

    assert not alice.record.collect(NOW, sent).payloads
    assert scene.asked == [NOW, NOW]


def test_a_store_that_fails_for_a_while_does_not_hide_a_manifest(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.publish({})
    failures = iter([True, True])

    def fail() -> None:
        if next(failures, False):
            raise StoreError("503 Slow Down")

    scene.on_ask = fail
    scene.store_time = PAST + 100

    assert not bob.record.collect(NOW, None).payloads


def test_a_store_that_failed_for_one_window_is_not_waited_for_in_the_next(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.on_ask = raise_store_error
    scene.store_time = PAST

    assert list(bob.record.collect(NOW, None).payloads) == [alice.uid]
    asked = len(scene.asked)
    bob.record.collect(NOW, None)

    assert asked >= WAIT_S
    assert len(scene.asked) == asked + 1


def test_the_end_of_manifests_and_their_return_are_said_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    (alice,) = scene.join("alice")
    scene.store_time = PAST
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            alice.record.collect(NOW, None)
        scene.publish({})
        for _ in range(3):
            alice.record.collect(NOW, None)

    assert caplog.text.count("no manifest, applying the 0 payload(s)") == 1
    assert caplog.text.count("there are manifests again") == 1


def test_an_aggregator_without_a_bucket_is_one_without_a_manifest(scene: Scene) -> None:
    alice, bob = scene.join("alice", "bob")
    alice.send()
    scene.store_time = PAST

    def unknown() -> None:
        raise ObjectMissingError("the aggregator has no bucket")

    scene.on_ask = unknown

    assert list(bob.record.collect(NOW, None).payloads) == [alice.uid]
