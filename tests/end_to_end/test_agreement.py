"""Nodes started by hand on one chain and store find each other and end with the same bits."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.node import Node, differing


def test_two_miners_started_by_hand_are_equal_after_ten_windows(tmp_path: Path) -> None:
    arguments = ["--chain.min_miners=2", "--trainer.max_epochs=10"]
    alice, bob = (Node(tmp_path, name, arguments) for name in ("alice", "bob"))

    alice.succeed()
    bob.succeed()

    left, right = alice.checkpoint(), bob.checkpoint()
    assert left["epoch"] == right["epoch"] == 10
    assert not differing(left["state_dict"], right["state_dict"])
    assert "peers 2/2" in alice.text()
    assert "out of sync" not in alice.text() + bob.text()
    # Each trained on pages of its own, or there would be nothing to exchange.
    assert differing(
        left["optimizer_states"][0]["templar"]["momentum"], right["optimizer_states"][0]["templar"]["momentum"]
    )


def test_a_miner_killed_in_the_middle_and_started_again_agrees_at_the_end(tmp_path: Path) -> None:
    arguments = [
        "--chain.min_miners=3",
        "--chain.lease_s=3",
        "--trainer.max_epochs=60",
        "--window.checkpoint_frequency=4",
    ]
    alice, bob, carol = (Node(tmp_path, name, arguments) for name in ("alice", "bob", "carol"))

    carol.wait_for("window 10:")
    carol.kill()
    alice.wait_for("peers 2/2")
    carol = Node(tmp_path, "carol", arguments)
    for node in (alice, bob, carol):
        node.succeed()

    states = [node.checkpoint() for node in (alice, bob, carol)]
    assert [state["epoch"] for state in states] == [60, 60, 60]
    assert not differing(states[0]["state_dict"], states[1]["state_dict"])
    assert not differing(states[0]["state_dict"], states[2]["state_dict"])
    assert "caught up from 2 payload(s)" in carol.text()
