"""One world for each kind of chain, with a hand on its time."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.bittensor_config import BittensorConfig
from templar_pl.chain.block_times import FINAL_BLOCKS
from templar_pl.chain.chain import Chain
from templar_pl.chain.hotkeys import HotkeySigner, load_or_create_hotkey
from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.chain.metagraph_register import REGISTER_BLOCKS
from templar_pl.chain.subtensor import OpenSubstrate
from templar_pl.units import Window
from tests.chain.nodes import PATIENCE_S, ManualTime, joined, local_chain, sha, wait_until
from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_register import Register
from tests.servers.subtensor_substrate import FakeSubstrate

NETUID = 3
BLOCKS_PER_WINDOW = 5


class World(Protocol):
    """One chain, and a hand on its time."""

    def node(self, name: str, *, is_registered: bool = True) -> Chain:
        """Return the chain as the node `name` sees it, open; the same name has the same hotkey.

        Args:
            name: of the node.
            is_registered: whether its hotkey can have an uid on a chain that gives none for the asking.
        """
        ...

    def end_window(self) -> None:
        """Let the open window end."""
        ...

    def spread(self) -> None:
        """Let time pass until what one node has published is known to all, and counts."""
        ...

    def open_uploads(self) -> Window:
        """Let time pass until uploads are taken, and return the window they are for. Not on chains without record."""
        ...

    def end_uploads(self) -> None:
        """Let time pass until uploads for that window are over, if time is what ends them."""
        ...

    def close(self) -> None:
        """Close all nodes."""
        ...


class LockstepWorld:
    """A local chain whose windows end by announcement."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, ManualTime()
        self.config = LocalChainConfig(blocks_per_window=BLOCKS_PER_WINDOW)
        self.nodes: list[LocalChain] = []

    def node(self, name: str, *, is_registered: bool = True) -> LocalChain:
        self.nodes.append(local_chain(self.folder, name, self.config, self.clock))
        self.nodes[-1].open()
        return self.nodes[-1]

    def end_window(self) -> None:
        driver = joined(self.node("driver"))
        window = driver.window()
        self.clock.utc += 1
        driver.agreement.announce(window, sha("driver"))
        driver.agreement.settle(window, 0.0)
        driver.agreement.leave()

    def spread(self) -> None:
        self.end_window()

    def open_uploads(self) -> Window:
        return self.nodes[0].window()

    def end_uploads(self) -> None:
        self.clock.utc += 1

    def close(self) -> None:
        for node in self.nodes:
            node.close()


class WallWorld(LockstepWorld):
    """A local chain whose windows end by the clock."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = LocalChainConfig(pace="wall", blocks_per_window=BLOCKS_PER_WINDOW)

    def end_window(self) -> None:
        self.clock.utc += BLOCKS_PER_WINDOW * self.config.seconds_per_block

    def open_uploads(self) -> Window:
        window = self.nodes[0].window()
        self.end_window()
        return window

    def end_uploads(self) -> None:
        self.clock.utc += self.config.delta_s + 1


class BittensorWorld:
    """A subnet of a subtensor in memory, which the bittensor package talks to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = FakeSubtensor((NETUID,), head=11)
        self.subnet = Register(self.fake, NETUID)
        self.subnet.change_rules(weights_rate_limit=0)
        self.nodes: list[BittensorChain] = []

    def node(self, name: str, *, is_registered: bool = True) -> Chain:
        signer = load_or_create_hotkey(self.folder / "keys", name)
        if is_registered and self.subnet.subnet.uid(signer.hotkey) is None:
            self.subnet.register_hotkey(signer.hotkey, validator_permit=True)
            self._mine(1)
        self.nodes.append(bittensor_chain(self.fake, signer, BLOCKS_PER_WINDOW))
        self.nodes[-1].open()
        return self.nodes[-1]

    def end_window(self) -> None:
        self._mine(BLOCKS_PER_WINDOW)

    def spread(self) -> None:
        self._mine(REGISTER_BLOCKS + FINAL_BLOCKS + BLOCKS_PER_WINDOW)

    def open_uploads(self) -> Window:
        raise NotImplementedError("this chain keeps no record of windows")

    def end_uploads(self) -> None:
        raise NotImplementedError("this chain keeps no record of windows")

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        assert self.fake.link.num_open == 0

    def _mine(self, count: int) -> None:
        head = self.fake.mine(count).number
        for node in self.nodes:
            if node.is_open:
                wait_until(lambda node=node: node.block() >= head)


def bittensor_chain(fake: FakeSubtensor, signer: HotkeySigner, blocks_per_window: int) -> BittensorChain:
    """Return the chain as the owner of a hotkey sees it, not open yet."""
    config = BittensorConfig(network="local", blocks_per_window=blocks_per_window, request_timeout_s=PATIENCE_S)
    # The fake has of the package's protocol what is used here.
    open_substrate = cast(OpenSubstrate, lambda: FakeSubstrate(fake))
    return BittensorChain(NETUID, signer, config, register_command="btcli ...", open_substrate=open_substrate)
