"""A store that fails for a moment costs a node that looks for a checkpoint a moment, and nothing that is in already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from templar_pl.errors import OutOfSyncError, TransientError
from templar_pl.exchange import LocalBuckets
from templar_pl.exchange.large_objects import FileDigest
from templar_pl.exchange.local_store import LocalBucket
from templar_pl.exchange.window_values import Collected
from templar_pl.units import Window
from tests.exchange.fakes import Scripted
from tests.training.past_run import START, PastRun, adamw, ahead, assert_is_live, new_replica


class Files(Scripted):
    """A bucket that files are fetched from; where that fails, a part is in."""

    def __init__(self, bucket: LocalBucket, before: Callable[[str, str], None]) -> None:
        super().__init__(bucket, before)
        self._files, self._watch = bucket, before

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        try:
            self._watch("get_file", key)
        except TransientError:
            path.with_name(f"{path.name}.part").write_bytes(b"what is in")
            raise
        self._files.get_file(key, path, expected)


class Shaky:
    """Buckets whose store fails at a number of reads of what ends in certain words, once it is `down`."""

    def __init__(self, run: PastRun, end: str, failures: int = 1, *, down: bool = True) -> None:
        self.down, self.left = down, failures
        self._buckets, self._end = LocalBuckets(run.folder / "store", "joiner"), end

    def of(self, address: str) -> Files:
        return Files(self._buckets.of(address), self._fail)  # type: ignore[arg-type]  # LocalBucket reads and writes

    def _fail(self, name: str, key: str) -> None:
        if self.down and self.left > 0 and key.endswith(self._end):
            self.left -= 1
            raise TransientError(f"{name} {key}: 503 Slow Down")


FILES = ["latest.json", "checkpoint.json", "model.safetensors", "optimizer.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_lost_node_outlasts_a_store_that_fails_once_wherever_it_is(tmp_path: Path, name: str) -> None:
    run, model = PastRun(tmp_path, adamw, (2, 4)).go_on(6), new_replica(adamw, seed=3)
    run.patience_s = 60.0
    shaky = Shaky(run, name)

    run.catch_up(model, buckets=shaky).recover("the parameters are wrong")

    assert shaky.left == 0
    assert model.applied == 4
    assert model.fingerprint() == run.prints[4]


@pytest.mark.parametrize("name", FILES)
def test_a_new_node_outlasts_a_store_that_fails_once_wherever_it_is(tmp_path: Path, name: str) -> None:
    run, model = PastRun(tmp_path, adamw, (4,)).go_on(4), new_replica(adamw, seed=3)
    run.patience_s = 60.0
    shaky = Shaky(run, name)

    assert run.catch_up(model, buckets=shaky).restart()

    assert shaky.left == 0
    assert_is_live(model, run)


def test_a_new_node_whose_store_goes_on_failing_begins_without_a_checkpoint_in_the_end(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(0,)), new_replica(seed=3)
    shaky = Shaky(run, "checkpoint.json", 10**9)

    assert not run.catch_up(model, buckets=shaky).restart()

    assert 10**9 - shaky.left == 2, "a store that fails is asked again for half a second"
    assert model.applied == 0


def test_what_is_in_of_a_checkpoint_survives_a_store_that_fails(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, adamw, (2, 4)).go_on(6), new_replica(adamw, seed=3)
    catch_up = run.catch_up(model, buckets=Shaky(run, "optimizer.safetensors", 10**9))

    with pytest.raises(OutOfSyncError, match="503 Slow Down"):
        catch_up.recover("the parameters are wrong")

    found = {path.relative_to(tmp_path / "catch-up").parts[1:] for path in (tmp_path / "catch-up").rglob("*.*")}
    assert found == {(f"{START + 4:09d}", "model.safetensors"), (f"{START + 4:09d}", "optimizer.safetensors.part")}


def test_a_node_that_must_go_round_a_window_outlasts_a_store_that_fails_once(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(5,)).go_on(8)
    run.patience_s = 60.0
    model, shaky = ahead(run, 4), Shaky(run, "checkpoint.json", down=False)
    run.delete_aggregate(4)

    def collect(window: Window) -> Collected:
        shaky.down = True
        raise OutOfSyncError("a payload is gone")

    run.catch_up(model, collect=collect, buckets=shaky).follow(lambda: run.opened)

    assert shaky.left == 0
    assert_is_live(model, run)


def test_an_outage_right_behind_a_checkpoint_is_given_as_much_time_as_the_one_before_it(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(5,)).go_on(7)
    model, shaky = ahead(run, 4), Shaky(run, "checkpoint.json", down=False)
    run.delete_aggregate(4)
    run.delete_aggregate(5)
    asked: list[int] = []

    def collect(window: Window) -> Collected:
        asked.append(window - START)
        shaky.down = True
        if asked.count(5) == 2:
            return run.collect(window)
        raise OutOfSyncError("a payload cannot be had")

    run.catch_up(model, collect=collect, buckets=shaky).follow(lambda: run.opened)

    assert asked == [4, 4, 5, 5]
    assert_is_live(model, run)


def test_a_checkpoint_that_is_wrong_is_still_passed_over_at_once(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(2, 4)).go_on(6), new_replica(seed=3)
    run.break_checkpoint(4)

    run.catch_up(model).recover("the parameters are wrong")

    assert model.applied == 2
