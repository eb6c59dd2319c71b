"""Joining a run on a subnet: whose word counts about its beginning, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from templar_pl.chain import BittensorConfig, HotkeySigner, load_or_create_hotkey
from templar_pl.chain.metagraph_register import REGISTER_BLOCKS
from templar_pl.chain.subtensor import OpenSubstrate
from templar_pl.config import WindowConfig
from templar_pl.errors import ConfigError
from templar_pl.node_config import FollowConfig
from templar_pl.training import Connection, NodeFolder
from templar_pl.training.bittensor_network import BittensorNetwork, OwnHotkey, OwnNode
from templar_pl.training.outlook import SubnetSeen
from templar_pl.units import Uid, Window
from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_register import Register
from tests.servers.subtensor_substrate import FakeSubstrate

NETUID = 3
WINDOW = WindowConfig()
DIGEST = bytes(range(32))
COMMAND = "btcli subnets register --netuid 3"


class World:
    """A subnet, and the folder of a machine on which all of its nodes run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = FakeSubtensor((NETUID,), head=5 * REGISTER_BLOCKS)
        self.subnet = Register(self.fake, NETUID)
        self.connections: list[Connection] = []

    def signer(self, name: str) -> HotkeySigner:
        return load_or_create_hotkey(self.folder / "keys", name)

    def register(self, name: str, stake: float = 0.0) -> int:
        """Register a hotkey; with stake it is a validator."""
        uid = self.subnet.register_hotkey(self.signer(name).hotkey, stake=stake, validator_permit=stake > 0)
        self.fake.mine()
        return uid

    def network(
        self, name: str, *, run: str = "run", follow: FollowConfig | None = None, **settings: int
    ) -> BittensorNetwork:
        config = replace(BittensorConfig(network="local"), **settings)  # type: ignore[arg-type]
        hotkey = OwnHotkey(
            lambda: self.signer(name),
            file=self.folder / "keys" / name,
            password_source=lambda: "",
            register_command=COMMAND,
            cost_command="btcli subnets burn-cost 3",
        )
        opens = cast(OpenSubstrate, lambda: FakeSubstrate(self.fake))
        return BittensorNetwork(
            NETUID,
            config,
            hotkey,
            node=OwnNode(NodeFolder(self.folder / run, name), follow=follow or FollowConfig()),
            open_substrate=opens,
        )

    def join(
        self, name: str, digest: bytes = DIGEST, window: WindowConfig = WINDOW, *, run: str = "run", **settings: Any
    ) -> Connection:
        self.connections.append(self.network(name, run=run, **settings).open(digest, window))
        return self.connections[-1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for connection in world.connections:
        connection.close()
    assert world.fake.link.num_open == 0


def test_whoever_begins_a_run_is_followed_by_its_validators_word(world: World) -> None:
    world.register("leader", stake=10.0)
    uid = world.register("miner")

    begun = world.join("leader", start_window=40)
    joined = world.join("miner")

    assert begun.start_window == joined.start_window == 40
    assert begun.run == joined.run == "run-40"
    assert joined.uid == uid
    assert joined.agreement is None
    assert joined.chain.peers()[begun.uid].address == world.signer("leader").hotkey


def test_the_aggregator_is_who_told_where_the_run_began_unless_another_is_named(world: World) -> None:
    world.register("leader", stake=10.0)
    for name in ("miner", "other"):
        world.register(name)
    writer, judge = (world.signer(name).hotkey for name in ("writer", "judge"))

    begun = world.join("leader", start_window=40)
    joined = world.join("miner")
    named = world.join("other", follow=FollowConfig(aggregator=writer, validator=judge, wait_s=3.0))

    assert begun.aggregator is None
    assert (joined.aggregator, joined.validator) == (begun.hotkey, None)
    assert (named.aggregator, named.validator, named.manifest_wait_s) == (writer, judge, 3.0)


def test_whom_to_follow_must_be_an_address(world: World) -> None:
    world.register("miner")
    follow = FollowConfig(aggregator="leader")

    with pytest.raises(ConfigError, match=r"follow\.aggregator must be the address of a hotkey"):
        world.join("miner", follow=follow, start_window=40)
    with pytest.raises(ConfigError, match=r"follow\.aggregator must be the address of a hotkey"):
        world.network("miner", follow=follow).look(DIGEST, WINDOW)


def test_the_validator_with_the_largest_stake_that_has_a_run_file_is_believed(world: World) -> None:
    for name, stake in (("small", 5.0), ("large", 50.0), ("largest", 500.0), ("miner", 0.0)):
        world.register(name, stake=stake)
    world.join("small", start_window=40)
    world.join("large", start_window=41)
    world.join("largest", run="another", start_window=42)

    assert world.join("miner").start_window == 41


def test_a_leader_that_is_named_is_believed_whatever_its_stake(world: World) -> None:
    world.register("large", stake=50.0)
    leader = world.register("somebody")
    world.register("miner")
    world.join("large", start_window=41)
    world.join("somebody", start_window=40)

    assert world.join("miner", leader=leader).start_window == 40


def test_without_anybodys_word_a_node_says_how_to_begin(world: World) -> None:
    world.register("miner")

    with pytest.raises(ConfigError, match=r"no validator of the subnet has committed a bucket.*start_window .* \d+;"):
        world.join("miner")


def test_a_leader_without_a_run_file_is_named(world: World) -> None:
    leader = world.register("leader", stake=1.0)
    world.register("miner")
    world.join("leader", run="another", start_window=40)

    with pytest.raises(ConfigError, match=f"uid {leader}: has none"):
        world.join("miner")


def test_a_leader_that_is_not_registered_is_refused(world: World) -> None:
    world.register("miner")

    with pytest.raises(ConfigError, match="has none of number 77"):
        world.join("miner", leader=77)


def test_a_run_with_other_settings_is_refused_with_both(world: World) -> None:
    leader = world.register("leader", stake=1.0)
    world.register("miner")
    world.join("leader", start_window=40)

    with pytest.raises(ConfigError, match=f"uid {leader} is of a run with other settings.*{DIGEST.hex()[:16]}.*ffff"):
        world.join("miner", digest=b"\xff" * 32)
    with pytest.raises(ConfigError, match=r"7 blocks a window.*9 blocks a window"):
        world.join("miner", window=WindowConfig(blocks_per_window=9))


def test_another_beginning_than_was_published_is_refused(world: World) -> None:
    world.register("leader", stake=1.0)
    world.join("leader", start_window=40).close()

    with pytest.raises(ConfigError, match="start_window is 40, not 41"):
        world.join("leader", start_window=41)


@pytest.mark.parametrize("start", [5, 20_000])
def test_a_beginning_that_was_mistyped_is_refused_before_it_is_published(world: World, start: int) -> None:
    world.register("leader")

    with pytest.raises(ConfigError, match=rf"start_window must be a window to come, 35\.\.10035, .* got {start} "):
        world.join("leader", start_window=start)

    world.join("leader", start_window=40)


def test_a_run_that_has_begun_is_gone_on_with(world: World) -> None:
    world.register("leader")
    world.join("leader", start_window=40).close()
    world.fake.mine(20 * REGISTER_BLOCKS)

    assert world.join("leader", start_window=40).start_window == 40


def test_to_begin_and_to_follow_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        BittensorConfig(network="test", start_window=40, leader=1)


def test_a_start_that_fails_has_committed_nothing(world: World) -> None:
    world.register("miner")

    with pytest.raises(ConfigError, match="nobody tells"):
        world.join("miner")

    assert world.subnet.subnet.commitments == {}


def test_a_newcomer_is_told_when_it_counts(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world.register("leader", stake=1.0)
    world.join("leader", start_window=40).close()
    (message,) = caplog.messages
    assert message.startswith("uid 0 is new: its payloads count in 11.")

    caplog.clear()
    world.fake.mine(2 * REGISTER_BLOCKS)
    world.join("leader", start_window=40)
    assert caplog.messages == []


def test_who_sends_nothing_is_not_told_when_its_payloads_count(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world.register("leader", stake=1.0)
    world.connections.append(world.network("leader", start_window=40).open(DIGEST, WINDOW, sends=False))

    assert caplog.messages == []


def test_a_hotkey_that_is_not_registered_is_told_the_command(world: World) -> None:
    with pytest.raises(ConfigError, match=COMMAND):
        world.join("stranger", start_window=40)

    world.register("stranger")
    world.join("stranger", start_window=40)  # nothing was left locked


def test_uploads_that_take_as_long_as_a_window_are_refused(world: World) -> None:
    world.register("miner")
    window = WindowConfig(blocks_per_window=1, time_window_delta_seconds=12.0)

    with pytest.raises(ConfigError, match="must be below the length of a window, 12 s"):
        world.join("miner", window=window, start_window=40)


def test_one_process_at_a_time_is_a_node(world: World) -> None:
    world.register("miner")
    world.join("miner", start_window=40)

    with pytest.raises(ConfigError, match="another process runs as hotkey 'miner'"):
        world.join("miner", start_window=40)


def test_looking_changes_nothing(world: World) -> None:
    world.register("leader", stake=1.0)
    world.register("miner")
    world.join("leader", start_window=40)
    head, left = world.fake.head.number, sorted(world.folder.rglob("*"))

    outlook = world.network("miner").look(DIGEST, WINDOW)

    assert outlook.hotkey == world.signer("miner").hotkey
    assert isinstance(outlook.subnet, SubnetSeen)
    assert outlook.subnet.num_registered == 2
    assert world.fake.head.number == head
    assert sorted(p for p in world.folder.rglob("*") if "keys" not in p.parts) == [
        p for p in left if "keys" not in p.parts
    ]


def test_an_outsider_sees_a_run_without_a_wallet_and_without_a_trace(world: World) -> None:
    leader, other = world.register("leader", stake=10.0), world.register("other")
    begun = world.join("leader", start_window=40)
    before, head = sorted(world.folder.rglob("*")), world.fake.head

    view = world.network("nobody").view(DIGEST, WINDOW)
    named = world.network("nobody", follow=FollowConfig(aggregator=world.signer("other").hotkey)).view(DIGEST, WINDOW)

    assert (view.run, view.start_window, view.validator) == (begun.run, 40, None)
    assert view.aggregator == begun.chain.peers()[Uid(leader)]
    assert named.aggregator.uid == other
    assert view.register(Window(40)).keys() == {leader}  # the other one came too late to count there
    for each in (view, named):
        each.close()
    assert (sorted(world.folder.rglob("*")), world.fake.head) == (before, head)


def test_an_outsider_must_be_told_whose_word_counts(world: World) -> None:
    world.register("leader", stake=10.0)
    world.join("leader", start_window=40)

    with pytest.raises(ConfigError, match=r"by --follow\.aggregator"):
        world.network("nobody", start_window=40).view(DIGEST, WINDOW)
    with pytest.raises(ConfigError, match="is not registered in this run"):
        world.network("nobody", follow=FollowConfig(aggregator=world.signer("far").hotkey)).view(DIGEST, WINDOW)
