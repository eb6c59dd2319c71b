"""A node that was stopped, in whatever way, ends with the bits of one that never was."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.node import Node, differing

ARGUMENTS = ["--trainer.max_epochs=30", "--window.checkpoint_frequency=7"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the final checkpoint of a run that nothing happened to."""
    node = Node(tmp_path_factory.mktemp("uninterrupted"), "miner", ARGUMENTS)
    node.succeed()
    return node.checkpoint()


def trained_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return all of a checkpoint that training made: parameters, momentum, schedule, place in the run."""
    templar = {k: v for k, v in checkpoint["optimizer_states"][0]["templar"].items() if k != "hotkey"}
    return {name: checkpoint[name] for name in ("state_dict", "lr_schedulers", "epoch")} | {"templar": templar}


def test_kill_9_in_the_middle_loses_nothing(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    node = Node(tmp_path, "miner", ARGUMENTS)
    node.wait_for("window 11:")  # the newest checkpoint is four windows old
    node.kill()

    again = Node(tmp_path, "miner", ARGUMENTS)
    again.succeed()

    assert "trained again" in again.text()
    assert not differing(trained_state(uninterrupted), trained_state(again.checkpoint()))


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    node = Node(tmp_path, "miner", ARGUMENTS)
    node.wait_for("window 11:")
    node.process.send_signal(signal.SIGTERM)
    assert node.finish() == 143, node.text()
    saved = node.checkpoint()["epoch"]
    assert saved >= 12

    again = Node(tmp_path, "miner", ARGUMENTS)
    again.succeed()

    assert "trained again" not in again.text()
    assert not differing(trained_state(uninterrupted), trained_state(again.checkpoint()))


def test_a_finished_run_started_again_does_nothing(tmp_path: Path) -> None:
    arguments = ["--trainer.max_epochs=3"]
    first = Node(tmp_path, "miner", arguments)
    first.succeed()

    again = Node(tmp_path, "miner", arguments)
    again.succeed()

    assert not differing(first.checkpoint(), again.checkpoint())
    assert "window 3:" not in again.text()


def test_sigterm_ends_a_node_that_waits_for_others(tmp_path: Path) -> None:
    node = Node(tmp_path, "miner", [*ARGUMENTS, "--chain.min_miners=2", "--window.gather_timeout_seconds=1"])
    node.wait_for("still waiting")

    node.process.send_signal(signal.SIGTERM)

    assert node.finish(30) == 143, node.text()


def test_windows_that_ended_by_the_clock_are_trained_again_with_the_batches_they_had(tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, "--chain.pace=wall", "--chain.seconds_per_block=0.3", "--window.blocks_per_window=5"]
    arguments += ["--window.time_window_delta_seconds=0.3", "--trainer.max_epochs=1000"]
    node = Node(tmp_path, "miner", arguments)
    node.wait_for("window 4:")
    node.kill()

    again = Node(tmp_path, "miner", arguments)
    again.wait_for("trained again")
    again.wait_for("caught up")
    again.kill()

    assert "differs from the one computed now" not in again.text()
