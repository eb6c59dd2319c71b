"""A validator whose own parameters are not those of the miners says so, judges nothing by them, and finds back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from templar_pl.chain import verify
from templar_pl.errors import OutOfSyncError
from templar_pl.exchange import LocalBuckets, fetch_score_record
from templar_pl.protocol import EvaluationNote, Peer, ScoreRecord
from templar_pl.training.replica import Replica
from templar_pl.units import Uid, Window
from tests.roles.lost_copies import Lonely
from tests.roles.scored_runs import RUN, Replay, World, validator_of


def record_of(world: World, window: int) -> ScoreRecord:
    validator = Peer(Uid(0), world.validator.hotkey, world.validator.public_key, world.validator.hotkey)
    return fetch_score_record(LocalBuckets(world.folder / "store", "reader"), validator, RUN, Window(window), verify)


def behind(world: World, window: int) -> set[object]:
    return {miner.steps_behind for miner in record_of(world, window).miners.values()}


def is_evaluated(world: World, window: int) -> bool:
    return isinstance(record_of(world, window).evaluation, EvaluationNote)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(3)
    world.train(range(2, 12))  # who registers while window 0 is open counts later
    return world


def test_a_gather_that_differed_once_costs_one_window_and_no_miner_anything(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    lonely = Lonely(world, world.folder / "lonely")
    lonely.misses = [4]

    with caplog.at_level(logging.WARNING, "templar_pl"):
        lonely.judge(*range(2, 9))

    assert [window for window in range(2, 9) if not is_evaluated(world, window)] == [5]
    assert behind(world, 5) == {None}
    assert [behind(world, window) for window in (4, 6, 7, 8)] == [{0.0}] * 4
    assert [record_of(world, window).penalties for window in range(2, 9)] == [()] * 7
    assert record_of(world, 5).evaluation == "3 miners agree on other parameters than those of the own copy"
    assert lonely.times_lost == 1
    assert "window 5: uids 1, 2, 3 agree on other parameters than those of the own copy" in caplog.text
    assert "window 6: the own copy was lost, and starts from the checkpoint of window 4" in caplog.text
    twin = world.replica()
    Replay(world, twin).follow(lambda: Window(8))
    assert lonely.fingerprint == twin.fingerprint()


def test_wrong_parameters_are_never_published(world: World) -> None:
    lonely = Lonely(world, world.folder / "lonely")
    lonely.misses = [5]

    lonely.judge(*range(2, 8))

    assert published(world) == {f"{window:09d}" for window in (2, 4)}  # before 6 the own copy was lost


def published(world: World) -> set[str]:
    return {path.parent.name for path in world.folder.glob(f"store/*/{RUN}/checkpoint/*/checkpoint.json")}


def test_parameters_that_no_miner_had_since_a_checkpoint_was_loaded_are_not_published(world: World) -> None:
    lonely = Lonely(world, world.folder / "lonely")
    lonely.misses = [4, 4]  # also when it is replayed
    for miner in world.miners[:2]:  # one alone cannot tell that the own copy is wrong again
        miner.buckets.own().delete([f"{RUN}/payload/000000006/{miner.uid}.bin"])

    lonely.judge(*range(2, 7))

    assert lonely.times_lost == 1
    assert published(world) == {"000000002", "000000004"}


def test_parameters_after_a_start_from_a_checkpoint_are_not_published_either(world: World) -> None:
    Lonely(world, world.folder / "lonely").judge(2, 3, 4)
    lonely = Lonely(world, world.folder / "lonely")
    lonely.misses = [4]
    for miner in world.miners[:2]:
        for window in (5, 6):
            miner.buckets.own().delete([f"{RUN}/payload/00000000{window}/{miner.uid}.bin"])

    lonely.judge(5, 6)

    assert published(world) == {"000000002", "000000004"}


def test_a_checkpoint_that_leads_elsewhere_again_is_not_taken_a_third_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    lonely = Lonely(world, world.folder / "lonely")
    lonely.misses = [4, 4]  # also when it is replayed

    with caplog.at_level(logging.WARNING, "templar_pl"):
        lonely.judge(*range(2, 9))

    assert [window for window in range(2, 9) if not is_evaluated(world, window)] == [5, 6]
    starts = [line for line in caplog.messages if "was lost, and starts from the checkpoint" in line]
    assert [line.rpartition(" ")[2] for line in starts] == ["4", "2"]
    assert lonely.times_lost == 2
    assert behind(world, 8) == {0.0}


def test_a_validator_without_any_checkpoint_judges_what_needs_no_copy(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    other = World(world.folder / "other")
    other.add(3)
    replica = other.replica()
    replica.apply((name, parameter.detach() * 0 + 1) for name, parameter in replica.parameters.items())
    replica.applied = 0
    scorer, journal = validator_of(world, replica=replica)
    world.miners[0].buckets.own().delete([f"{RUN}/payload/000000003/1.bin"])

    with caplog.at_level(logging.WARNING, "templar_pl"):
        for window in range(2, 6):
            world.open(window + 2)
            scorer.run(1)

    assert not any(is_evaluated(world, window) for window in range(2, 6))
    assert [(cut.uid, cut.reason) for cut in record_of(world, 3).penalties] == [(1, "missing")]
    assert journal.read().lineage.prints == {}
    assert caplog.text.count("the own copy stays lost, asking again") == 3


def test_a_lost_validator_whose_aggregator_died_stays_lost_also_in_its_next_life(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    miner = world.miners[0]
    dead = Peer(miner.uid, miner.signer.hotkey, miner.signer.public_key, miner.signer.hotkey)
    folder = world.folder / "lonely"
    lonely = Lonely(world, folder, aggregator=dead, keep_windows=3)
    lonely.misses = [4]

    with caplog.at_level(logging.WARNING, "templar_pl"):
        lonely.judge(*range(2, 7))
        Lonely(world, folder, aggregator=dead, keep_windows=3).judge(7)

    assert [is_evaluated(world, window) for window in range(2, 8)] == [True] * 3 + [False] * 3
    assert [record_of(world, window).penalties for window in range(2, 8)] == [()] * 6
    assert "window 6: the own copy stays lost, asking again with the next window" in caplog.text
    assert "window 7: the own copy stays lost, asking again with the next window" in caplog.text
    assert "no checkpoint leads on: payloads before window" in str(record_of(world, 7).evaluation)


class Dwindling(Replay):
    """Goes to a checkpoint from which the windows cannot be applied, the first time."""

    def __init__(self, world: World, replica: Replica) -> None:
        super().__init__(world, replica)
        self.recoveries: list[bool] = []

    def follow(self, now: Callable[[], Window]) -> None:
        if len(self.recoveries) == 1:
            raise OutOfSyncError("window 1 cannot be applied")
        super().follow(now)

    def recover(self, until: Window, *, is_vain: bool) -> str:
        self.recoveries.append(is_vain)
        return ""


def test_a_checkpoint_that_leads_nowhere_leaves_the_copy_lost_until_the_next_window(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    replica = world.replica()
    guide = Dwindling(world, replica)
    scorer, _ = validator_of(world, replica=replica, guide=guide, lost="nobody knows")

    with caplog.at_level(logging.WARNING, "templar_pl"):
        for window in (2, 3):
            world.open(window + 2)
            scorer.run(1)

    assert record_of(world, 2).evaluation == "nobody knows"
    assert "window 2: the own copy stays lost, asking again with the next window: window 1 cannot" in caplog.text
    assert is_evaluated(world, 3)
    assert guide.recoveries == [False, False]  # it did not lead to wrong parameters


class Trusting(Replay):
    """Follows manifests that say what somebody's parameters are."""

    def __init__(self, world: World, replica: Replica, said: bytes) -> None:
        super().__init__(world, replica)
        self._said = said

    def said_before(self, window: Window) -> bytes | None:
        return self._said


@pytest.mark.parametrize(("says_own", "expected"), [(True, "unknown"), (False, None)])
def test_where_a_manifest_has_the_own_parameters_miners_who_agree_on_others_are_wrong(
    world: World, says_own: bool, expected: str | None
) -> None:
    for miner in world.miners:
        miner.put(world, Window(2), world.sent[Window(2)][miner.uid], fingerprint=b"x" * 32)
    twin, replica = world.replica(), world.replica()
    Replay(world, twin).follow(lambda: Window(2))
    guide = Trusting(world, replica, twin.fingerprint() if says_own else b"x" * 32)
    world.open(4)

    validator_of(world, replica=replica, guide=guide)[0].run(1)

    assert behind(world, 2) == {expected}
