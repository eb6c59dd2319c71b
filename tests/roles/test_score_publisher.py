"""What is published when buckets and chain fail, and when they are there again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.config import ScoringConfig
from templar_pl.errors import ChainError, ObjectMissingError, StoreError
from templar_pl.exchange import LocalBucket
from templar_pl.exchange.window_values import Identity
from templar_pl.protocol import HeldList, decode_peer_list, peers_key, score_keys
from templar_pl.roles.score_journal import Journal, Knowledge
from templar_pl.roles.score_publisher import ScorePublisher, are_weights_due
from templar_pl.scoring import Lineage, MinerState, PeerList, Rating, ScoringState
from templar_pl.units import Hotkey, Uid, Window
from tests.chain.nodes import wait_until
from tests.roles.scored_runs import RUN

SCORING = ScoringConfig(windows_per_weights=3)


@dataclass
class Purse:
    """A chain that refuses weights until it is told not to."""

    refuses: bool = False
    taken: list[dict[Uid, float]] = field(default_factory=list)

    def set_weights(self, weights: dict[Uid, float]) -> None:
        if self.refuses:
            raise ChainError("too often")
        self.taken.append(weights)


class Flaky(LocalBucket):
    """A bucket that fails when it is told to."""

    fails = False

    def put(self, key: str, data: bytes) -> None:
        self._refuse()
        super().put(key, data)

    def put_once(self, key: str, data: bytes) -> bool:
        self._refuse()
        return super().put_once(key, data)

    def _refuse(self) -> None:
        if self.fails:
            raise StoreError("the store is away")


def knowledge(
    window: int, *, weights_window: int = -1, earns: bool = True, uids: tuple[int, ...] = (1,), start: int = 2
) -> Knowledge:
    good = MinerState(
        hotkey=Hotkey("5"), waiting_since=Window(0), off_list_since=Window(0), silent=0, rating=Rating(30.0, 1.0),
        indicator=0.9 if earns else 0.0, sync=1.0, observations=50,
    )  # fmt: skip
    peers = PeerList(Window(start), tuple(Uid(uid) for uid in uids))
    state = ScoringState(window=Window(window), miners={Uid(1): good}, peer_list=peers)
    return Knowledge(state, Lineage(Window(0), {}), Window(weights_window))


class Scene:
    """A publisher whose bucket and chain can fail."""

    def __init__(self, folder: Path) -> None:
        self.signer = load_or_create_hotkey(folder / "keys", "validator")
        self.bucket, self.purse = Flaky(folder / "store", self.signer.hotkey), Purse()
        self.journal = Journal(folder / "score", Window(0))
        own = Identity(RUN, bytes(32), Uid(0), self.signer.hotkey, self.signer, verify)
        self.publisher = ScorePublisher(
            self.bucket, self.purse, own, journal=self.journal, keep_windows=2  # type: ignore[arg-type]  # a purse is enough
        )  # fmt: skip

    def judged(self, known: Knowledge) -> Knowledge:
        window = known.scoring.window
        self.journal.write(known, b"record %d" % window)
        return self.publisher.publish(known, SCORING)

    def record(self, window: int) -> bytes:
        return self.bucket.get(score_keys(RUN).key(Window(window)), max_bytes=100)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_records_that_a_store_did_not_take_follow_in_their_order(scene: Scene) -> None:
    scene.bucket.fails = True
    scene.judged(knowledge(0))
    scene.judged(knowledge(1))
    with pytest.raises(ObjectMissingError):
        scene.record(0)
    scene.bucket.fails = False

    scene.judged(knowledge(2))

    assert [scene.record(window) for window in range(3)] == [b"record 0", b"record 1", b"record 2"]
    assert list(scene.journal.unpublished(Window(2))) == []


def test_a_record_that_stands_is_never_changed(scene: Scene) -> None:
    scene.bucket.put(score_keys(RUN).key(Window(0)), b"what was published before the crash")

    scene.judged(knowledge(0))

    assert scene.record(0) == b"what was published before the crash"
    assert list(scene.journal.unpublished(Window(0))) == []


def test_records_that_are_too_old_are_deleted(scene: Scene) -> None:
    for window in range(6):
        scene.judged(knowledge(window))

    def left() -> list[str]:
        return sorted(scene.bucket.list(f"{RUN}/scores/"))

    wait_until(lambda: left() == [score_keys(RUN).key(Window(window)) for window in (3, 4, 5)])
    scene.publisher.close(5.0)


def test_a_list_is_published_when_it_changes_and_in_every_life(scene: Scene, tmp_path: Path) -> None:
    def listed() -> tuple[int, ...]:
        return decode_peer_list(scene.bucket.get(peers_key(RUN), max_bytes=2**14), verify)[1].uids

    scene.judged(knowledge(0, uids=(1, 2)))
    assert listed() == (1, 2)
    scene.bucket.delete([peers_key(RUN)])
    scene.judged(knowledge(1, uids=(1, 2)))
    with pytest.raises(ObjectMissingError):
        listed()

    Scene(tmp_path).judged(knowledge(2, uids=(1, 2)))
    assert listed() == (1, 2)
    scene.judged(knowledge(3, uids=(2, 3)))
    assert listed() == (2, 3)


def test_a_list_tells_those_before_it_that_may_still_be_asked_for_also_in_another_life(
    scene: Scene, tmp_path: Path
) -> None:
    def earlier() -> tuple[HeldList, ...] | None:
        return decode_peer_list(scene.bucket.get(peers_key(RUN), max_bytes=2**14), verify)[1].earlier

    scene.judged(knowledge(0, uids=(1, 2), start=2))
    assert earlier() is None
    scene.judged(knowledge(1, uids=(2, 3), start=3))
    assert earlier() == (HeldList(Window(0), ()), HeldList(Window(2), (Uid(1), Uid(2))))

    Scene(tmp_path).judged(knowledge(5, uids=(3, 4), start=7))  # window 3 is the oldest that is kept
    assert earlier() == (HeldList(Window(3), (Uid(2), Uid(3))),)


def test_a_list_that_is_damaged_is_replaced(scene: Scene) -> None:
    scene.bucket.put(peers_key(RUN), b"no list")

    scene.judged(knowledge(0, uids=(1, 2)))

    assert decode_peer_list(scene.bucket.get(peers_key(RUN), max_bytes=2**14), verify)[1].uids == (1, 2)


def test_no_list_is_published_as_long_as_nobody_is_listed(scene: Scene) -> None:
    scene.judged(knowledge(0, uids=()))

    with pytest.raises(ObjectMissingError):
        scene.bucket.get(peers_key(RUN), max_bytes=100)


def test_weights_are_set_once_in_so_many_windows(scene: Scene) -> None:
    known = knowledge(0)
    for window in range(9):
        known = scene.judged(replace(knowledge(window), weights_window=known.weights_window))

    assert len(scene.purse.taken) == 3
    assert known.weights_window == 8
    assert scene.journal.read().weights_window == 8


def test_weights_that_the_chain_refuses_are_set_with_the_next_window_it_takes_them(scene: Scene) -> None:
    scene.purse.refuses = True
    refused = scene.judged(knowledge(2))
    scene.purse.refuses = False

    taken = scene.judged(replace(knowledge(3), weights_window=refused.weights_window))

    assert (refused.weights_window, taken.weights_window) == (-1, 3)
    assert scene.purse.taken == [{1: 1.0}]


def test_as_long_as_nobody_earns_anything_what_is_set_stays(scene: Scene) -> None:
    nothing = scene.judged(knowledge(2, earns=False))

    assert scene.purse.taken == []
    assert scene.judged(replace(knowledge(3), weights_window=nothing.weights_window)).weights_window == 3


@pytest.mark.parametrize("period", [1, 2, 5, 50])
def test_weights_are_due_when_a_period_has_ended_since_the_last(period: int) -> None:
    last, due = -1, []
    for window in range(101):
        if are_weights_due(Window(window), Window(last), period):
            due.append(window)
            last = window

    assert due == list(range(period - 1, 101, period))
    assert are_weights_due(Window(3 * period), Window(period - 1), period)
