"""An aggregator whose own bucket fails for a while, or whose register is not what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, cast

import pytest

from templar_pl.chain import Chain
from templar_pl.config import WindowConfig
from templar_pl.errors import OutOfSyncError, StoreError, TransientError
from templar_pl.protocol import Peer, aggregate_keys, notice_keys, payload_key
from templar_pl.roles.aggregate import run_aggregate
from templar_pl.training import Connection, RecoveryConfig
from templar_pl.units import Uid, Window
from tests.roles.past_runs import NUMBERS, Hook, PastRun, WatchedNetwork, aggregator
from tests.roles.published import followed, manifests, standing

HASTY = replace(NUMBERS, window=replace(NUMBERS.window, gather_timeout_seconds=4.5))
BOB = Uid(1)
CHECKPOINT = "run/checkpoint/000000003"


def failing(left: Counter[str], error: type[StoreError]) -> Hook:
    """Return what makes some calls fail, each so many times."""

    def fail(name: str, key: str) -> None:
        call = f"{name} {key}"
        if left[call] > 0:
            left[call] -= 1
            raise error(f"503 Slow Down: {call}")

    return fail


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("get_file run/aggregate/000000004.bin", "the own aggregate of window 4 cannot be fetched, trying again: 503"),
        (f"get_file {CHECKPOINT}/model.safetensors", "the own checkpoint cannot be fetched, trying again: 503"),
        (f"get {CHECKPOINT}/checkpoint.json", "the own checkpoint cannot be fetched, trying again: 503"),
        ("get run/checkpoint/latest.json", "the own checkpoint cannot be fetched, trying again: 503"),
    ],
)
def test_a_start_waits_for_a_store_that_fails_for_a_while(
    past: PastRun, caplog: pytest.LogCaptureFixture, call: str, said: str
) -> None:
    run_aggregate(aggregator(past.folder, 5))  # its checkpoint is that of window 3
    left = Counter({call: 2})
    caplog.clear()

    network = WatchedNetwork(past.folder, before=failing(left, TransientError))
    with caplog.at_level("INFO"):
        run_aggregate(aggregator(past.folder, 6, network=network))

    assert left[call] == 0
    assert said in caplog.text
    assert "going on from the own checkpoint of window 3" in caplog.text
    assert "cannot be used" not in caplog.text
    assert manifests(past, 6)[-1].after == followed(past, 6).fingerprint()


@pytest.mark.parametrize("key", ["aggregate/000000004.bin", "checkpoint/000000003/model.safetensors"])
def test_a_store_that_fails_for_long_ends_the_aggregator(past: PastRun, key: str) -> None:
    run_aggregate(aggregator(past.folder, 5))
    network = WatchedNetwork(past.folder, before=failing(Counter({f"get_file run/{key}": 99}), TransientError))

    with pytest.raises(TransientError, match="503 Slow Down"):
        run_aggregate(aggregator(past.folder, 6, network=network, recovery=RecoveryConfig(patience_s=0.1)))


def test_what_no_later_try_can_mend_is_not_tried_again(past: PastRun, caplog: pytest.LogCaptureFixture) -> None:
    run_aggregate(aggregator(past.folder, 5))
    left = Counter({"get_file run/aggregate/000000004.bin": 9, f"get_file {CHECKPOINT}/model.safetensors": 9})

    run_aggregate(aggregator(past.folder, 6, network=WatchedNetwork(past.folder, before=failing(left, StoreError))))

    assert list(left.values()) == [8, 8]
    assert "window 4: the own aggregate cannot be used: 503" in caplog.text
    assert manifests(past, 6)[-1].after == followed(past, 6).fingerprint()


Look = Callable[[dict[Uid, Peer]], dict[Uid, Peer]]


class ShiftingChain:
    """A chain whose registers are not what they were."""

    def __init__(self, chain: Chain, then: Look, now: Look) -> None:
        self._chain, self._then, self._now = chain, then, now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def candidates(self, window: Window) -> dict[Uid, Peer]:
        found = self._chain.candidates(window)
        return self._then(found) if window == 4 else found

    def peers(self, needed: Collection[Uid] = ()) -> dict[Uid, Peer]:
        return self._now(self._chain.peers(needed))


class ShiftingNetwork(WatchedNetwork):
    def __init__(self, past: PastRun, then: Look, now: Look = dict) -> None:
        super().__init__(past.folder)
        self._looks = then, now

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        connection = super().open(digest, window, sends=sends)
        return replace(connection, chain=cast("Chain", ShiftingChain(connection.chain, *self._looks)))


def without_bob(peers: dict[Uid, Peer]) -> dict[Uid, Peer]:
    return {uid: peer for uid, peer in peers.items() if uid != BOB}


def bob_elsewhere(peers: dict[Uid, Peer]) -> dict[Uid, Peer]:
    return peers | {BOB: replace(peers[BOB], address="another-bucket")}


def bob_nowhere(peers: dict[Uid, Peer]) -> dict[Uid, Peer]:
    return peers | {BOB: replace(peers[BOB], address="")}


@pytest.mark.parametrize("then", [without_bob, bob_elsewhere, bob_nowhere])
def test_a_listed_payload_is_fetched_of_who_has_the_uid_now(past: PastRun, then: Look) -> None:
    run_aggregate(aggregator(past.folder, 4))
    standing(past, 4, leave_out=Uid(2))

    run_aggregate(aggregator(past.folder, 6, hparams=HASTY, network=ShiftingNetwork(past, then)))

    assert manifests(past, 6)[-1].after == followed(past, 6).fingerprint()


def test_a_payload_of_a_peer_that_moved_and_left_its_old_bucket_is_that_of_the_manifest(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 4))
    standing(past, 4, leave_out=Uid(2))

    run_aggregate(aggregator(past.folder, 6, hparams=HASTY, network=ShiftingNetwork(past, dict, bob_elsewhere)))

    assert manifests(past, 6)[-1].after == followed(past, 6).fingerprint()


def test_a_peer_that_no_register_has_is_named(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 4))
    standing(past, 4, leave_out=Uid(2))
    network = ShiftingNetwork(past, without_bob, without_bob)

    with pytest.raises(OutOfSyncError, match=r"window 4: its aggregate is missing.*: uid 1 is not in the register"):
        run_aggregate(aggregator(past.folder, 6, hparams=HASTY, network=network))


def test_what_is_on_the_own_disk_needs_no_register(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 4))

    def end(name: str, key: str) -> None:
        if (name, key) == ("put_file", aggregate_keys("run").key(Window(4))):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_aggregate(aggregator(past.folder, 5, network=WatchedNetwork(past.folder, before=end)))
    past.senders["bob"].bucket.delete([payload_key("run", Window(4), BOB)])

    run_aggregate(aggregator(past.folder, 5, network=ShiftingNetwork(past, without_bob, without_bob)))

    assert notice_keys("run").key(Window(4)) in past.bucket().list("run/")
