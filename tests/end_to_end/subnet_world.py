"""A subnet in a process of its own, an S3 store, and the wallets of nodes that know nothing else of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from bittensor import Wallet

from templar_pl.chain import BittensorConfig, new_hotkey
from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.subtensor import OpenSubstrate
from tests.end_to_end.node import ROOT, TINY, Node
from tests.end_to_end.test_r2 import variables
from tests.servers.seaweed import S3Server, seaweed
from tests.servers.subtensor_remote import RemoteSubstrate, SubtensorControl
from tests.servers.subtensor_server import subtensor_process

NETUID = 268


class SubnetWorld:
    """What nodes of a subnet meet in, and a hand on it."""

    def __init__(self, folder: Path, address: str, server: S3Server, timing: Sequence[str]) -> None:
        """Store what is there.

        Args:
            folder: for wallets and the nodes' own folders.
            address: of the chain.
            server: with the bucket of each node.
            timing: options of how long things take, of every node.
        """
        self.folder, self.address, self.server = folder, address, server
        self.chain = SubtensorControl(address)
        self._timing = list(timing)

    def new_wallet(self, name: str, *, password: str | None = None) -> str:
        """Make a wallet with a hotkey as the bittensor package does, and return the hotkey's address."""
        wallet = Wallet(name, name, path=str(self.folder / "wallets"))
        wallet.create_new_hotkey(use_password=password is not None, hotkey_password=password, suppress=True)
        return wallet.hotkeypub.ss58_address

    def register(self, hotkey: str, **how: float) -> int:
        return self.chain.tell("register_hotkey", netuid=NETUID, hotkey=hotkey, **how)

    def start(self, name: str, *arguments: str, command: str = "fit", **environment: str) -> Node:
        """Start a node in a folder that no other sees."""
        own = self.folder / name
        own.mkdir(exist_ok=True)
        settings = [f"--config={ROOT / 'configs' / file}" for file in ("r2.yaml", "bittensor.yaml")]
        settings += ["--local", f"--netuid={NETUID}", "--bittensor.network=local", f"--wallet.name={name}"]
        settings += [f"--wallet.path={self.folder / 'wallets'}", *self._timing]
        if command != "fit":
            settings += TINY
        given = variables(name, self.server.endpoint_url) | environment
        program = ("tests.end_to_end.chain_node", self.address)
        return Node(own, name, [*settings, *arguments], command=command, variables=given, program=program)

    @contextmanager
    def seen(self, config: BittensorConfig) -> Iterator[BittensorChain]:
        """Open the chain as somebody sees it who is not registered."""
        chain = BittensorChain(
            NETUID,
            new_hotkey(),
            config,
            register_command="",
            open_substrate=cast(OpenSubstrate, lambda: RemoteSubstrate(self.address)),
        )
        chain.open()
        try:
            yield chain
        finally:
            chain.close()


@contextmanager
def subnet_world(folder: Path, names: Sequence[str], block_s: float, timing: Sequence[str]) -> Iterator[SubnetWorld]:
    """Run a chain that makes a block every so many seconds, and a store with a bucket for each name."""
    chain = ("--netuid", str(NETUID), "--head", "200", "--seconds-per-block", str(block_s))
    with seaweed(names, names) as server, subtensor_process(*chain) as address:
        yield SubnetWorld(folder, address, server, timing)
