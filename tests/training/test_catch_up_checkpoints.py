"""Where a node begins that is far behind or lost: at the newest checkpoint of the network that proves right."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("optimize", [decoupled, adamw])
def test_a_newcomer_starts_from_the_newest_checkpoint_whatever_it_drew_itself(
    tmp_path: Path, optimize: Optimize
) -> None:
    run, model = PastRun(tmp_path, optimize, (0, 4, 8)).go_on(11), new_replica(optimize, seed=3)
    for applied in range(7):
        run.delete_manifest(applied)
    catch_up = run.catch_up(model, collect=never)

    assert catch_up.restart()
    assert model.applied == 8
    catch_up.follow(lambda: run.opened)

    assert_is_live(model, run)
    assert not [path for path in (tmp_path / "catch-up").rglob("*") if path.is_file()]


def test_before_the_first_window_a_newcomer_takes_the_first_parameters_of_the_network(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(0,)), new_replica(seed=3)

    assert run.catch_up(model).restart()

    assert_is_live(model, run)


def test_a_broken_newest_checkpoint_gives_way_to_the_next_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, model = PastRun(tmp_path, checkpoints=(4, 8)).go_on(11), new_replica(seed=3)
    run.break_checkpoint(8)
    catch_up = run.catch_up(model, collect=never)

    assert catch_up.restart()
    assert model.applied == 4
    catch_up.follow(lambda: run.opened)

    assert_is_live(model, run)
    assert f"checkpoint/{START + 8:09d}/checkpoint.json of peer 0" in caplog.text


def test_the_newest_checkpoint_counts_whoever_published_it(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(4,)).go_on(8), new_replica(seed=3)
    run.publish_checkpoint(run.validator)

    assert run.catch_up(model, collect=never).restart()

    assert model.applied == 8
    assert_is_live(model, run)


def test_a_checkpoint_of_other_parameters_than_the_manifests_say_is_passed_over(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(4,)).go_on(8), new_replica(seed=3)
    stray = new_replica(seed=5)
    for _ in range(8):
        stray.apply(dict(run.live.codec.updates([])).items())
    run.publish_checkpoint(run.validator, stray)
    catch_up = run.catch_up(model)

    assert catch_up.restart()
    assert model.applied == 4
    catch_up.follow(lambda: run.opened)

    assert_is_live(model, run)


def test_checkpoints_that_are_too_new_cost_no_try(tmp_path: Path) -> None:
    run, model = PastRun(tmp_path, checkpoints=(2, 4, 5, 6, 7, 8, 9)).go_on(9), new_replica(seed=3)

    assert run.catch_up(model, collect=never).restart(until=Window(START + 3))

    assert model.applied == 2
    assert model.fingerprint() == run.prints[2]


def test_where_all_checkpoints_are_too_new_none_is_fetched_and_the_reason_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, model = PastRun(tmp_path, checkpoints=(8,)).go_on(9), new_replica(seed=3)

    with caplog.at_level(logging.DEBUG, logger="templar_pl"):
        assert not run.catch_up(model, collect=never).restart(until=Window(START + 3))

    assert model.applied == 0
    assert f"the newest is of window {START + 8}, wanted is one of {START}..{START + 3}" in caplog.text
    assert not [path for path in (tmp_path / "catch-up").rglob("*") if path.is_file()]


def test_a_node_with_a_place_of_its_own_does_not_go_back(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(4,)).go_on(9)
    model = ahead(run, 6)

    assert not run.catch_up(model).restart()
    assert model.applied == 6


def test_parameters_that_are_not_those_of_the_others_are_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = PastRun(tmp_path, checkpoints=(2,)).go_on(9)
    model = ahead(run, 5)
    model.parameters["values.vector"].data[3] += 1e-3

    run.catch_up(model, collect=never).follow(lambda: run.opened)

    assert_is_live(model, run)
    assert f"window {START + 5}: the manifest is of parameters {run.prints[5].hex()[:16]}, those of" in caplog.text


def test_a_window_that_nothing_is_left_of_is_passed_by_a_later_checkpoint(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(7,)).go_on(9)
    model = ahead(run, 2)
    run.delete_aggregate(4)
    run.delete_payload(4)

    run.catch_up(model).follow(lambda: run.opened)

    assert_is_live(model, run)


def test_a_far_checkpoint_saves_the_way_and_a_near_one_does_not(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(3, 29)).go_on(30)
    near, far = ahead(run, 28), ahead(run, 1)
    seen: list[int | None] = []

    for model in (near, far):
        catch_up = run.catch_up(model, collect=never, watch=lambda s: seen.append(s and s.window - START))
        catch_up.follow(lambda: run.opened)
        assert_is_live(model, run)

    # The aggregates of two windows have as many bytes as the parameters of this small model.
    assert seen == [28, 29, None, 1, 29, None]
