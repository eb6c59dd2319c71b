"""An aggregator that begins a run on a subnet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from templar_pl.chain import verify
from templar_pl.exchange import AggregateSource, fetch_run_file
from templar_pl.roles.aggregate import AggregateConfig, run_aggregate
from templar_pl.training import Connection
from templar_pl.units import Uid, Window
from tests.roles.past_runs import NUMBERS, aggregator, replica
from tests.training.test_bittensor_network import WINDOW, World

START = 37
NUMBERS_THERE = replace(NUMBERS, window=WINDOW)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for connection in world.connections:
        connection.close()


def aggregate(world: World, windows: int) -> None:
    """Run an aggregator that begins the run; a window of blocks is made whenever it waits."""
    options = {"aggregate": AggregateConfig(), "windows": windows, "netuid": 3}
    node = aggregator(
        world.folder,
        windows,
        network=world.network("leader", start_window=START),
        hparams=NUMBERS_THERE,
        options=options,
        check_interrupt=lambda: world.fake.mine(WINDOW.blocks_per_window) and None,
    )
    assert run_aggregate(node) == 0


def joined(world: World, leader: int) -> Connection:
    digest = replica().digest
    world.connections.append(world.network("miner", leader=leader).open(digest, WINDOW))
    return world.connections[-1]


def test_a_run_that_an_aggregator_began_is_found_by_its_uid(world: World) -> None:
    uid = world.register("leader")
    world.register("miner")

    aggregate(world, 2)
    aggregate(world, 3)  # in a second life
    miner = joined(world, uid)

    assert (miner.start_window, miner.run) == (START, f"run-{START}")
    assert miner.aggregator == world.signer("leader").hotkey
    peer = miner.chain.peers()[Uid(uid)]
    source = AggregateSource(miner.buckets, peer, miner.run, replica().digest, verify)
    found = [source.fetch_manifest(Window(START + number)).manifest for number in range(3)]
    assert [manifest.steps for manifest in found] == [1, 2, 3]
    assert found[1].before == found[0].after
    run_file = fetch_run_file(miner.buckets, peer, miner.run, verify)
    assert (run_file.netuid, run_file.start_window) == (3, START)
    assert run_file.checkpoint is not None
    assert run_file.checkpoint.key == f"run-{START}/checkpoint/{START:09d}/model.safetensors"
