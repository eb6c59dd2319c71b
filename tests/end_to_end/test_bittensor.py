"""Nodes that know nothing of each other but a subnet find each other's buckets there, and end with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bittensor import Wallet

from tests.end_to_end.node import ROOT, Node, differing
from tests.end_to_end.test_r2 import variables
from tests.servers.seaweed import S3Server, seaweed
from tests.servers.subtensor_remote import SubtensorControl
from tests.servers.subtensor_server import subtensor_process

MINERS = ("alice", "bob")
NETUID = 268
PASSWORD = "a secret"  # noqa: S105 - of a key that lives as long as the test
BLOCK_S, BLOCKS_PER_WINDOW = 0.4, 5


class Subnet:
    """A subnet in a process of its own, an S3 store, and a folder with wallets."""

    def __init__(self, folder: Path, address: str, server: S3Server) -> None:
        self.folder, self.address, self.server = folder, address, server
        self.chain = SubtensorControl(address)

    def new_wallet(self, name: str, *, password: str | None = None) -> str:
        """Make a wallet with a hotkey as the bittensor package does, and return the hotkey's address."""
        wallet = Wallet(name, name, path=str(self.folder / "wallets"))
        wallet.create_new_hotkey(use_password=password is not None, hotkey_password=password, suppress=True)
        return wallet.hotkeypub.ss58_address

    def register(self, hotkey: str, **how: float) -> int:
        return self.chain.tell("register_hotkey", netuid=NETUID, hotkey=hotkey, **how)

    def start(self, name: str, *arguments: str, **environment: str) -> Node:
        """Start a miner in a folder that no other sees."""
        own = self.folder / name
        own.mkdir(exist_ok=True)
        settings = [f"--config={ROOT / 'configs' / file}" for file in ("r2.yaml", "bittensor.yaml")]
        settings += ["--local", f"--netuid={NETUID}", "--bittensor.network=local", f"--wallet.name={name}"]
        settings += [f"--wallet.path={self.folder / 'wallets'}", f"--window.blocks_per_window={BLOCKS_PER_WINDOW}"]
        # Who leads is followed, but publishes no manifest here.
        settings += ["--window.time_window_delta_seconds=1", "--window.gather_timeout_seconds=10", "--follow.wait_s=1"]
        given = variables(name, self.server.endpoint_url) | environment
        program = ("tests.end_to_end.chain_node", self.address)
        return Node(own, name, [*settings, *arguments], variables=given, program=program)


@contextmanager
def subnet(folder: Path) -> Iterator[Subnet]:
    chain = ("--netuid", str(NETUID), "--head", "200", "--seconds-per-block", str(BLOCK_S))
    with seaweed(MINERS, MINERS) as server, subtensor_process(*chain) as address:
        yield Subnet(folder, address, server)


def test_two_miners_find_each_other_by_their_commitments_and_train_alike_even_without_the_chain_for_a_while(
    tmp_path: Path,
) -> None:
    with subnet(tmp_path) as world:
        leader = world.register(world.new_wallet("alice"), stake=1000.0, validator_permit=True)
        world.register(world.new_wallet("bob", password=PASSWORD))
        first = world.start("alice", "--trainer.max_epochs=18", "--bittensor.start_window=70")
        first.wait_for("the run begins with window 70")
        second = world.start("bob", "--trainer.max_epochs=18", TEMPLAR_HOTKEY_PASSWORD=PASSWORD)
        first.wait_for("window 74:")
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
    for node in (first, second):
        assert node.text().count("are counted by time until it is back") == 1
        assert node.text().count("the chain is back at block") == 1
    assert left_open == 0
