"""A validator goes through the windows of a run in which miners really train."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from templar_pl.chain import verify
from templar_pl.errors import ConfigError, Fault
from templar_pl.exchange import LocalBuckets, fetch_peer_list, fetch_score_record
from templar_pl.protocol import EvaluationNote, Peer, ScoreRecord, payload_key
from templar_pl.scoring import Draw
from templar_pl.training import Replica
from templar_pl.training.evaluation import Model, evaluate_payloads
from templar_pl.training.evaluation_pages import draw_batches
from templar_pl.training.precision import precision_plugin
from templar_pl.units import Uid, Window
from tests.roles.scored_runs import COMPRESSION, CPU, RUN, Memory, World, loader, validator_of


def record_of(world: World, window: int) -> ScoreRecord:
    buckets = LocalBuckets(world.folder / "store", "reader")
    return fetch_score_record(buckets, peer_of(world), RUN, Window(window), verify)


def peer_of(world: World) -> Peer:
    return Peer(Uid(0), world.validator.hotkey, world.validator.public_key, world.validator.hotkey)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(3)
    world.open(1)
    return world


def test_what_is_published_of_a_window_can_be_computed_again_by_anybody(world: World) -> None:
    world.train(range(1))
    twin = world.replica()
    world.train(range(1, 4))
    world.open(4)
    scorer, _ = validator_of(world)

    scorer.run(1)

    record = record_of(world, 2)
    note = record.evaluation
    assert isinstance(note, EvaluationNote)
    assert {uid: miner.fault for uid, miner in record.miners.items()} == {1: None, 2: None, 3: None}
    assert [miner.steps_behind for miner in record.miners.values()] == [0.0, 0.0, 0.0]
    for window in (0, 1):
        twin.apply(twin.codec.updates([world.sent[Window(window)][Uid(uid)] for uid in (1, 2, 3)]))
    assert note.fingerprint == twin.fingerprint()
    assert note.rate == pytest.approx(0.02 * 0.2)
    batches = draw_batches(loader(), Draw(note.secret), Window(2), [Uid(1), Uid(2), Uid(3)], 1.0)
    payloads = {Uid(uid): (lambda uid=uid: twin.codec.updates([world.sent[Window(2)][Uid(uid)]])) for uid in (1, 2, 3)}
    again = evaluate_payloads(Model(twin.module, twin.parameters, CPU), payloads, batches, note.rate)
    assert note.random_pages == batches.random_pages
    assert {found.uid: (found.own.after, found.random.after) for found in again} == {
        uid: (losses.own_after, losses.random_after) for uid, losses in note.losses.items()
    }


def test_losses_are_those_of_the_precision_that_was_asked_for(world: World) -> None:
    world.train(range(3))
    world.open(4)
    mixed = Replica(Memory(), COMPRESSION, world.hparams.peers, b"", CPU, precision="bf16-mixed")
    scorer, _ = validator_of(world, replica=mixed)

    scorer.run(1)

    note = record_of(world, 2).evaluation
    assert isinstance(note, EvaluationNote)
    found: dict[str, dict[int, float]] = {}
    twin = world.replica()
    for window in (0, 1):
        twin.apply(twin.codec.updates([world.sent[Window(window)][Uid(uid)] for uid in (1, 2, 3)]))
    batches = draw_batches(loader(), Draw(note.secret), Window(2), [Uid(1), Uid(2), Uid(3)], 1.0)
    payloads = {Uid(uid): (lambda uid=uid: twin.codec.updates([world.sent[Window(2)][Uid(uid)]])) for uid in (1, 2, 3)}
    for precision in ("bf16-mixed", "32-true"):
        model = Model(twin.module, twin.parameters, CPU, precision_plugin(precision, CPU))
        again = evaluate_payloads(model, payloads, batches, note.rate)
        found[precision] = {one.uid: one.own.after for one in again}
    said = {uid: losses.own_after for uid, losses in note.losses.items()}
    assert found["bf16-mixed"] == said
    assert found["32-true"] != said


def test_honest_miners_earn_and_one_who_sends_noise_does_not(world: World) -> None:
    world.add(1)
    world.open(2)
    noisy = world.miners[-1]

    def noise(world: World, window: Window) -> None:
        torch.manual_seed(window)
        gradients = {name: torch.randn(p.shape) for name, p in world.model.parameters.items()}
        noisy.send_(world, window, gradients=gradients)

    world.train(range(12), noise)
    world.open(4)
    scorer, journal = validator_of(world)
    for window in range(2, 12):
        world.open(window + 2)
        scorer.run(1)

    weights = journal.read().scoring.weights(world.hparams.scoring)
    assert weights.get(noisy.uid, 0.0) < min(weights.get(miner.uid, 0.0) for miner in world.miners[:-1]) / 3
    peers = fetch_peer_list(
        world.buckets,
        Peer(Uid(0), world.validator.hotkey, world.validator.public_key, world.validator.hotkey),
        RUN,
        verify,
    )
    assert {miner.uid for miner in world.miners[:-1]} <= set(peers.uids)
    assert set(world.chain.weights()[Uid(0)]) <= set(weights) | {noisy.uid}
    assert sum(world.chain.weights()[Uid(0)].values()) == pytest.approx(1.0)


def test_a_copy_of_a_payload_is_found_and_said_with_both_hashes(world: World) -> None:
    world.add(1)
    world.open(2)
    thief = world.miners[-1]

    def copy(world: World, window: Window) -> None:
        thief.put(world, window, world.sent[window][Uid(2)], after_s=3.0)

    world.train(range(5), copy)
    scorer, journal = validator_of(world)
    for window in (2, 3, 4):
        world.open(window + 2)
        scorer.run(1)

    record = record_of(world, 4)
    copied = [penalty for penalty in record.penalties if penalty.reason == "copied"]
    assert [penalty.uid for penalty in copied] == [thief.uid]
    evidence = copied[0].evidence
    assert evidence["second"]["sha256"] == record.miners[thief.uid].sha256.hex()  # type: ignore[index,union-attr,call-overload]
    assert evidence["first"]["uid"] == 2  # type: ignore[index,call-overload]
    assert journal.read().scoring.scores(world.hparams.scoring)[thief.uid] == 0


def test_a_copy_of_the_window_before_is_found_by_the_first_life_and_by_a_later_one(world: World) -> None:
    world.add(1)
    world.open(2)
    thief = world.miners[-1]

    def copy(world: World, window: Window) -> None:
        thief.put(world, window, world.sent[Window(max(0, window - 1))][Uid(2)], after_s=0.5)

    world.train(range(6), copy)
    first, later = validator_of(world)[0], validator_of(world)[0]
    for scorer, opened in [(first, 5), (first, 6), (later, 7)]:
        world.open(opened)
        scorer.run(1)

    for window in (3, 4, 5):
        copied = [penalty for penalty in record_of(world, window).penalties if penalty.reason == "copied"]
        assert [penalty.uid for penalty in copied] == [thief.uid]


def test_absent_late_and_stale_miners_are_told_apart(world: World) -> None:
    world.train(range(3))
    old = world.replica().fingerprint()
    world.train(range(3, 5))
    world.miners[0].buckets.own().delete([payload_key(RUN, Window(4), Uid(1))])
    late, stale = world.miners[1], world.miners[2]
    late.put(world, Window(4), world.sent[Window(4)][Uid(2)], after_s=4.5)
    stale.put(world, Window(4), world.sent[Window(4)][Uid(3)], fingerprint=b"x" * 32)
    scorer, _ = validator_of(world)
    for opened in (4, 5, 6):
        world.open(opened)
        scorer.run(1)

    record = record_of(world, 4)
    assert record.miners[Uid(1)].fault is Fault.MISSING
    assert record.miners[Uid(2)].fault is Fault.LATE
    assert record.miners[Uid(3)].steps_behind == "unknown"
    assert {(penalty.uid, penalty.reason) for penalty in record.penalties} == {
        (1, "missing"), (2, "missing"), (3, "out_of_sync"),
    }  # fmt: skip
    assert old != world.model.fingerprint()


def test_windows_that_come_too_fast_are_judged_without_evaluation(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.train(range(8))
    scorer, journal = validator_of(world)
    world.open(4)
    scorer.run(1)
    world.open(8)

    with caplog.at_level(logging.INFO, "templar_pl"):
        scorer.run(4)

    assert journal.read().scoring.window == 6
    for window, is_late in [(3, True), (4, True), (5, False), (6, False)]:
        evaluation = record_of(world, window).evaluation
        assert isinstance(evaluation, str) == is_late
        if is_late:
            assert evaluation == "window 8 is open already: there was no time to evaluate"
    assert "nobody is evaluated: window 8 is open already" in caplog.text


def test_the_secret_of_a_window_is_published_whether_payloads_are_evaluated_or_not(world: World) -> None:
    world.train(range(7))
    scorer, _ = validator_of(world)
    for opened in (4, 8, 8):
        world.open(opened)
        scorer.run(1)

    assert isinstance(record_of(world, 2).evaluation, EvaluationNote)
    assert record_of(world, 2).secret is None  # it is in the evaluation
    late = [record_of(world, window).secret for window in (3, 4)]
    assert [len(secret or b"") for secret in late] == [32, 32]
    assert late[0] != late[1]


def test_windows_whose_payloads_are_deleted_are_left_out_and_nobody_is_silent_in_them(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.train(range(5))
    world.open(4)
    scorer, journal = validator_of(world)
    scorer.run(1)
    before = journal.read().scoring
    world.open(50)
    for miner in world.miners:
        miner.put(world, Window(48), world.sent[Window(4)][miner.uid])

    with caplog.at_level(logging.WARNING, "templar_pl"):
        scorer.run(1)

    after = journal.read().scoring
    assert (before.window, after.window) == (2, 48)
    assert [miner.silent for miner in after.miners.values()] == [0, 0, 0]
    assert "windows 3 to 47 are not judged: their payloads are deleted by now" in caplog.text


def test_the_model_is_as_before_after_each_window(world: World) -> None:
    world.train(range(5))
    replica = world.replica()
    scorer, _ = validator_of(world, replica=replica)

    for window in (2, 3, 4):
        world.open(window + 2)
        scorer.run(1)

    twin = world.replica()
    for window in range(4):
        twin.apply(twin.codec.updates([world.sent[Window(window)][Uid(uid)] for uid in (1, 2, 3)]))
    assert replica.applied == 4
    assert replica.fingerprint() == twin.fingerprint()
    assert all(part.training for part in replica.module.modules())


def test_a_folder_of_another_chain_is_refused(world: World) -> None:
    world.train(range(8))
    world.open(9)
    validator_of(world)[0].run(1)
    other = World(world.folder / "other")
    other.open(5)

    with pytest.raises(ConfigError, match="window 7 was judged, but the chain is at window 5 only"):
        validator_of(other, world.folder / "validator")[0].run(1)
