"""Nodes that know nothing of each other but a subnet find each other's buckets there, and end with the same bits."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.node import differing
from tests.end_to_end.subnet_world import subnet_world

MINERS = ("alice", "bob")
PASSWORD = "a secret"  # noqa: S105 - of a key that lives as long as the test
GONE, BACK = "are counted by time until it is back", "the chain is back at block"
BLOCK_S, BLOCKS_PER_WINDOW = 0.4, 5
TIMING = (
    f"--window.blocks_per_window={BLOCKS_PER_WINDOW}",
    "--window.time_window_delta_seconds=1",
    "--window.gather_timeout_seconds=10",
    "--follow.wait_s=1",  # who leads is followed, but publishes no manifest here
)


def test_two_miners_find_each_other_by_their_commitments_and_train_alike_even_without_the_chain_for_a_while(
    tmp_path: Path,
) -> None:
    with subnet_world(tmp_path, MINERS, BLOCK_S, TIMING) as world:
        leader = world.register(world.new_wallet("alice"), stake=1000.0, validator_permit=True)
        world.register(world.new_wallet("bob", password=PASSWORD))
        first = world.start("alice", "--trainer.max_epochs=18", "--bittensor.start_window=70")
        first.wait_for("the run begins with window 70")
        second = world.start("bob", "--trainer.max_epochs=18", TEMPLAR_HOTKEY_PASSWORD=PASSWORD)
        first.wait_for("window 74:")
        second.wait_for("window 74:")
        before = [(node.text().count(GONE), node.text().count(BACK)) for node in (first, second)]  # on a busy machine
        world.chain.tell("cut")
        first.wait_for("window 79:")
        world.chain.tell("mend")
        first.succeed()
        second.succeed()
        left_open = world.chain.tell("num_open")

    alice, bob = first.checkpoint(), second.checkpoint()
    assert alice["epoch"] == bob["epoch"] == 18
    assert not differing(alice["state_dict"], bob["state_dict"])
    assert f"uid {leader} says that the run began with window 70" in second.text()
    assert "peers 2/2" in first.text()
    assert "peers 2/2" in second.text()
    for node, (gone, back) in zip((first, second), before, strict=True):
        assert node.text().count(GONE) == gone + 1
        assert node.text().count(BACK) == back + 1
    assert left_open == 0
