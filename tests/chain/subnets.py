"""Nodes on a subnet of the subtensor in memory, and blocks that come by the clock."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import bittensor as bt

from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.bittensor_config import BittensorConfig
from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.hotkeys import HotkeySigner, load_or_create_hotkey
from templar_pl.chain.subtensor import Subtensor
from templar_pl.units import Block
from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_register import Register
from tests.servers.subtensor_substrate import FakeSubstrate

NETUID = 3


class CountingSubstrate(FakeSubstrate):
    """A connection that notes what it was asked for."""

    def __init__(self, fake: FakeSubtensor, asked: list[str]) -> None:
        super().__init__(fake)
        self.asked = asked

    async def query(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        self.asked.append(storage_function)
        return await super().query(module, storage_function, params, block_hash)

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        self.asked.append(method)
        return await super().runtime_call(api, method, params, block_hash)

    async def submit(self, *args: Any, **kwargs: Any) -> bt.ExtrinsicResult:
        self.asked.append("submit")
        return await super().submit(*args, **kwargs)


class Subnet:
    """One subnet, the hotkeys on it, and their nodes."""

    def __init__(self, folder: Path, **fake: Any) -> None:
        self.folder = folder
        self.fake = FakeSubtensor((NETUID,), **fake)
        self.register = Register(self.fake, NETUID)
        self.register.change_rules(weights_rate_limit=0)
        self.asked: list[str] = []
        self._nodes: list[BittensorChain] = []

    def signer(self, name: str) -> HotkeySigner:
        return load_or_create_hotkey(self.folder, name)

    def join(self, name: str, **neuron: Any) -> int:
        """Register a hotkey, and return its uid."""
        return self.register.register_hotkey(
            self.signer(name).hotkey, **{"stake": 1.0, "validator_permit": True, **neuron}
        )

    def node(
        self,
        name: str,
        *,
        netuid: int = NETUID,
        clock: BlockClock | None = None,
        open_substrate: Callable[[], FakeSubstrate] | None = None,
        **settings: Any,
    ) -> BittensorChain:
        """Return the chain as the owner of a hotkey sees it, not open."""
        config = BittensorConfig(**{"network": "local", "blocks_per_window": 5, **settings})
        make = open_substrate or (lambda: CountingSubstrate(self.fake, self.asked))
        self._nodes.append(
            BittensorChain(
                netuid,
                self.signer(name),
                config,
                register_command="btcli subnets register",
                # The fake has of the package's protocol what is used here.
                open_substrate=cast(Any, make),
                clock=clock,
            )
        )
        return self._nodes[-1]

    def opened(self, name: str, **settings: Any) -> BittensorChain:
        """Return the chain as the owner of a hotkey sees it, open."""
        node = self.node(name, **settings)
        node.open()
        return node

    def close(self) -> None:
        for node in self._nodes:
            node.close()
        assert self.fake.link.num_open == 0
        assert self.fake.link.num_subscribed == 0


@contextmanager
def mining_irregularly(fake: FakeSubtensor, jitter: float, seed: int = 0) -> Iterator[dict[Block, float]]:
    """Make blocks, each up to `jitter` lengths late in its slot; yields when each was made, in monotonic seconds."""
    stopped, made, chance = threading.Event(), dict[Block, float](), random.Random(seed)  # noqa: S311 - jitter
    began, utc = time.monotonic(), time.time()

    def mine() -> None:
        slot = 0
        while True:
            slot += 1
            due = began + (slot + chance.uniform(0, jitter)) * fake.seconds_per_block
            if stopped.wait(max(0.0, due - time.monotonic())):
                return
            fake.mine_at(round(1000 * (utc + time.monotonic() - began)))
            made[Block(fake.head.number)] = time.monotonic()

    fake.mine_at(round(1000 * utc))
    thread = threading.Thread(target=mine, name="miner", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        stopped.set()
        thread.join()


class Lines(logging.Handler):
    """What the threads of one chain say, from INFO up."""

    def __init__(self, network: str) -> None:
        super().__init__(logging.INFO)
        self._network, self.said = network, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if self._network in (record.threadName or ""):
            self.said.append(record.getMessage())


@contextmanager
def lines_of(network: str) -> Iterator[list[str]]:
    """Give the list of what the chain of a network says."""
    lines, logger = Lines(network), logging.getLogger("templar_pl.chain")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(lines)
    try:
        yield lines.said
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)


def subtensor_of(fake: FakeSubtensor, substrate: FakeSubstrate | None = None) -> Subtensor:
    """Return a connection to the fake, not connected."""
    return Subtensor("local", NETUID, cast(Any, substrate or FakeSubstrate(fake)))
