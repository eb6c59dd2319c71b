"""Catching up ends with the bits of the live run, or says which window lacks what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from templar_pl.errors import OutOfSyncError, StoreError
from templar_pl.exchange import LocalBuckets
from templar_pl.exchange.window_values import Collected
from templar_pl.units import Window
from tests.training.past_run import (
    START,
    Optimize,
    PastRun,
    adamw,
    ahead,
    assert_is_live,
    decoupled,
    never,
    new_replica,
)


def counting(run: PastRun) -> tuple[list[int], Callable[[Window], Collected]]:
    """Return how many windows were applied before each that was replayed, and what replays them."""
    asked: list[int] = []

    def collect(window: Window) -> Collected:
        asked.append(window - START)
        return run.collect(window)

    return asked, collect


@pytest.mark.parametrize("optimize", [decoupled, adamw])
def test_a_hundred_windows_by_aggregates_end_with_the_bits_of_the_live_run(tmp_path: Path, optimize: Optimize) -> None:
    run, model = PastRun(tmp_path, optimize).go_on(100), new_replica(optimize)

    run.catch_up(model, collect=never).follow(lambda: run.opened)

    assert_is_live(model, run)
    assert not list((tmp_path / "catch-up").iterdir())


def test_a_missing_aggregate_is_replayed_from_the_payloads_of_the_manifest(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(9), new_replica()
    run.delete_aggregate(3)
    run.delete_aggregate(8)
    asked, collect = counting(run)

    run.catch_up(model, collect=collect).follow(lambda: run.opened)

    assert asked == [3, 8]
    assert_is_live(model, run)


def test_a_missing_manifest_is_replayed_from_what_landed(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(9), new_replica()
    run.delete_manifest(3)
    run.delete_manifest(8)

    run.catch_up(model).follow(lambda: run.opened)

    assert_is_live(model, run)


def test_without_an_aggregator_every_window_is_replayed(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(9, manifests=False), new_replica()

    run.catch_up(model, aggregator=lambda: None, leaders=list).follow(lambda: run.opened)

    assert_is_live(model, run)


@pytest.mark.parametrize("place", [5, 150, -40, -100])
def test_an_aggregate_that_is_malformed_is_replayed_and_never_touches_the_model(tmp_path: Path, place: int) -> None:
    run, model = PastRun(tmp_path).go_on(6), new_replica()

    def change(data: bytearray) -> None:
        data[place] ^= 1

    run.replace_aggregate(2, change)
    asked, collect = counting(run)

    run.catch_up(model, collect=collect).follow(lambda: run.opened)

    assert asked == [2]
    assert_is_live(model, run)


def test_an_aggregate_of_another_update_is_found_out_and_replayed_from_a_checkpoint_on(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(1,)).go_on(9), new_replica()
    run.replace_aggregate(4)
    run.replace_aggregate(6)
    asked, collect = counting(run)
    catch_up = run.catch_up(model, collect=collect)

    catch_up.follow(lambda: run.opened)

    assert set(asked) == {4, 6}
    assert_is_live(model, run)


def test_an_aggregate_of_another_update_and_no_checkpoint_to_start_from_is_an_error(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(9), new_replica()
    run.replace_aggregate(4)

    with pytest.raises(OutOfSyncError, match="led to other parameters than the manifests say, and no checkpoint"):
        run.catch_up(model).follow(lambda: run.opened)


def test_a_missing_payload_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(3,)).go_on(9)
    model = ahead(run, 2)
    run.delete_aggregate(4)
    run.delete_payload(4)

    with pytest.raises(OutOfSyncError) as caught:
        run.catch_up(model).follow(lambda: run.opened)

    words = str(caught.value)
    assert f"window {START + 4} cannot be applied" in words
    assert f"aggregate/{START + 4:09d}.json" in words
    assert f"payload/{START + 4:09d}/2.bin" in words
    assert f"its newest checkpoint is of window {START + 3}" in words
    assert model.applied == 4
    assert model.fingerprint() == run.prints[4]


def test_the_target_moves_while_it_is_followed(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(3), new_replica()
    goals: list[int] = []

    def now() -> Window:
        if run.live.applied < 8:
            run.go_on(1)
        goals.append(run.opened - START)
        return run.opened

    run.catch_up(model, collect=never).follow(now)

    assert goals == [4, 5, 6, 7, 8, 8, 8, 8, 8]
    assert_is_live(model, run)


class InterruptedForTestError(Exception):
    """Ends a wait."""


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_node_is_between_two_windows_and_goes_on_later(tmp_path: Path, after: int) -> None:
    run, model = PastRun(tmp_path).go_on(6), new_replica()
    left = [after]

    def check_interrupt() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedForTestError

    catch_up = run.catch_up(model, check_interrupt=check_interrupt, collect=never)
    with pytest.raises(InterruptedForTestError):
        catch_up.follow(lambda: run.opened)
    assert model.applied <= after
    assert model.fingerprint() == run.prints[model.applied]
    left[0] = 10**9
    catch_up.follow(lambda: run.opened)

    assert_is_live(model, run)


class Failing:
    """Buckets whose store does not answer at first."""

    def __init__(self, buckets: LocalBuckets, failures: int) -> None:
        self._buckets, self._left = buckets, failures

    def of(self, address: str):  # type: ignore[no-untyped-def]  # what LocalBuckets returns
        if self._left > 0:
            self._left -= 1
            raise StoreError("the store does not answer")
        return self._buckets.of(address)


def test_a_store_that_fails_for_a_while_is_asked_again(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(3), new_replica()
    run.patience_s = 60.0
    left = [2]

    def collect(window: Window) -> Collected:
        left[0] -= 1
        raise OutOfSyncError("the store does not answer")

    buckets = Failing(LocalBuckets(tmp_path / "store", "joiner"), 5)
    run.catch_up(model, collect=collect, buckets=buckets).follow(lambda: run.opened)

    assert left[0] < 2
    assert_is_live(model, run)


def test_a_store_that_goes_on_failing_is_an_error(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(3), new_replica()

    def collect(window: Window) -> Collected:
        raise OutOfSyncError("no payload can be had")

    buckets = Failing(LocalBuckets(tmp_path / "store", "joiner"), 10**9)

    with pytest.raises(OutOfSyncError, match=r"manifest: the store does not answer. Payloads: no payload can be had"):
        run.catch_up(model, collect=collect, buckets=buckets).follow(lambda: run.opened)
    assert model.applied == 0


def test_a_lost_node_asks_a_store_that_fails_again_for_a_checkpoint(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(4,)).go_on(6), new_replica(seed=3)
    run.patience_s = 60.0
    buckets = Failing(LocalBuckets(tmp_path / "store", "joiner"), 5)  # more often than there are leaders to ask
    catch_up = run.catch_up(model, collect=never, buckets=buckets)

    catch_up.recover("the parameters are wrong")

    assert model.applied == 4
    catch_up.follow(lambda: run.opened)
    assert_is_live(model, run)


def test_a_lost_node_whose_store_goes_on_failing_gives_up(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(4,)).go_on(6), new_replica(seed=3)
    run.patience_s = 0.5
    buckets = Failing(LocalBuckets(tmp_path / "store", "joiner"), 10**9)

    with pytest.raises(OutOfSyncError, match=r"no checkpoint of the network can be used.*the store does not answer"):
        run.catch_up(model, buckets=buckets).recover("the parameters are wrong")


def test_an_aggregate_that_is_on_its_way_is_waited_for_if_a_payload_cannot_be_had(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(3), new_replica()
    run.patience_s = 60.0
    late = {path: path.read_bytes() for path in (tmp_path / "store").rglob(f"aggregate/{START + 2:09d}.*")}
    for path in late:
        path.unlink()
    asked = [0]

    def collect(window: Window) -> Collected:
        asked[0] += 1
        if asked[0] == 2:
            for path, data in late.items():
                path.write_bytes(data)
        raise OutOfSyncError("a payload is gone")

    assert len(late) == 2
    run.catch_up(model, collect=collect).follow(lambda: run.opened)

    assert asked[0] == 2
    assert_is_live(model, run)


def test_an_aggregator_that_nobody_registered_is_said_to_be_missing(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path).go_on(1), new_replica()

    def collect(window: Window) -> Collected:
        raise OutOfSyncError("gone")

    nobody: Sequence[object] = []
    with pytest.raises(OutOfSyncError, match=r"no aggregator is followed.*nobody whose checkpoints count"):
        run.catch_up(model, collect=collect, aggregator=lambda: None, leaders=lambda: nobody).follow(lambda: run.opened)


def test_the_log_says_how_far_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run, model = PastRun(tmp_path).go_on(3), new_replica()

    run.catch_up(model).follow(lambda: run.opened)

    assert f"window {START}: 3 window(s) behind, catching up" in caplog.text
    assert f"window {START + 3}: caught up 3 window(s) in" in caplog.text
