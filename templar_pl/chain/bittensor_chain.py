"""A chain of Bittensor: blocks are its clock, a subnet its register, and emission its purse.

The bittensor package is asynchronous, so one thread of its own runs it; all methods here may be called from any thread
and wait no longer than the settings say. A failing connection costs no window: the clock runs on, the register stays as
it was read last, and weights wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, TypeVar

from templar_pl.chain.bittensor_config import BittensorConfig, without_secrets
from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.block_times import FINAL_BLOCKS, NUM_PATIENCES, WAIT_BLOCKS, ChainTimes
from templar_pl.chain.commitments import OwnCommitment, check_address
from templar_pl.chain.head_listener import HeadListener
from templar_pl.chain.hotkeys import HotkeySigner
from templar_pl.chain.loop_thread import LoopThread
from templar_pl.chain.metagraph_register import MetagraphRegister, Snapshot, next_register_block
from templar_pl.chain.purse import shares_of
from templar_pl.chain.subtensor import OpenSubstrate, SdkSigner, Subtensor, rpc_substrate
from templar_pl.chain.weight_setter import WeightSetter
from templar_pl.errors import ChainError, ConfigError, FutureError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Block, Uid, Window

T = TypeVar("T")

NETWORKS_ADDED = ("SubtensorModule", "NetworksAdded")
"""Where the chain says which subnets there are."""

SLACK_S = 1.0
"""Seconds beside what a question to the chain takes at most: the one that says what went wrong should end first."""


class Opened:
    """Everything that belongs to one connection, and so to one event loop."""

    def __init__(self, subtensor: Subtensor, clock: BlockClock, signer: SdkSigner, config: BittensorConfig) -> None:
        """Build the parts; call it in the event loop."""
        self.subtensor, self.clock = subtensor, clock
        self.times = ChainTimes(subtensor, clock, config.request_timeout_s)
        self.register = MetagraphRegister(subtensor, clock, config.request_timeout_s)
        self.heads = HeadListener(subtensor, clock)
        self.commitment = OwnCommitment(
            subtensor, signer, request_s=config.request_timeout_s, submit_s=config.submit_timeout_s
        )
        self.weights = WeightSetter(
            subtensor, signer, clock, version_key=config.version_key, timeout_s=config.submit_timeout_s
        )


class BittensorChain:
    """A `Chain` on a subnet of Bittensor. It keeps no record of windows."""

    def __init__(
        self,
        netuid: int,
        signer: HotkeySigner,
        config: BittensorConfig,
        *,
        register_command: str,
        open_substrate: OpenSubstrate | None = None,
        clock: BlockClock | None = None,
    ) -> None:
        """Store the settings; nothing is opened.

        Args:
            netuid: number of the subnet.
            signer: hotkey of this node.
            config: which network, and how patiently; its network is set.
            register_command: what a user types to register the hotkey, for the message if it is not.
            open_substrate: makes the connection; one to the network of the settings if None.
            clock: counts blocks; one of its own if None.
        """
        if config.network is None:
            raise ConfigError("bittensor.network must name a network for a chain of Bittensor, got null")
        self._address, self._netuid, self._config = config.network, netuid, config
        self._network = without_secrets(config.network)
        self._hotkey, self._signer = signer.hotkey, SdkSigner(signer)
        self._register_command = register_command
        self._open_substrate = open_substrate or rpc_substrate(config.network)
        self._clock = clock or BlockClock()
        self._loop = LoopThread(f"the chain ({self._network})")
        self._opening, self._state = threading.Lock(), threading.Lock()
        self._subtensor: Subtensor | None = None
        self._opened: Opened | None = None

    @property
    def agreement(self) -> None:
        """None: a public chain writes down nothing about windows."""
        return

    @property
    def network(self) -> str:
        """Name or address of the network."""
        return self._network

    @property
    def block_s(self) -> float:
        """Seconds a block takes, as the chain says; NaN before it was opened."""
        return self._clock.block_s

    @property
    def is_open(self) -> bool:
        """Whether the chain can be asked."""
        return self._opened is not None

    def open(self) -> None:
        """Connect, and follow the chain in the background. Does nothing if open.

        Raises:
            ChainError: the chain cannot be reached within `open_timeout_s`, or `close` was called meanwhile.
            ConfigError: there is no such subnet.
        """
        with self._opening:
            if self._opened is not None:
                return
            with self._state:  # or a `close` under way in another thread would take hold of what is opened here
                self._loop.start()
            try:
                opened = self._loop.run(self._connect, self._config.open_timeout_s + SLACK_S)
                with self._state:
                    self._loop.keep_running(opened.heads.run, "the listener to the chain")
                    self._loop.keep_running(opened.times.keep_near, "the reader of block times")
                    self._loop.keep_running(opened.register.keep_fresh, "the reader of the register")
                    self._loop.keep_running(opened.weights.keep_trying, "the setter of weights")
                    self._opened = opened
            except BaseException:
                with self._state:
                    self._loop.stop(self._disconnect)
                raise

    def close(self) -> None:
        """Let go of the connection and the thread. May be called twice, and the chain opened again."""
        with self._state:
            self._opened = None
            self._loop.stop(self._disconnect)

    def window(self) -> Window:
        """Return the window of the newest block. Never waits and never runs backwards."""
        return Window(self.block() // self._config.blocks_per_window)

    def seconds_left(self, window: Window) -> float:
        """Return the seconds until the first block after `window`; 0 or less if it is there. Never waits."""
        self._parts()
        return self._clock.seconds_until(self._end(window))

    def uncertainty_s(self) -> float:
        """Return by how many seconds the next block may come earlier or later than expected. Never waits."""
        self._parts()
        return self._clock.uncertainty_s()

    def upload_interval(self, window: Window) -> tuple[float, float]:
        """Return the UTC seconds of the first block after `window`, and `delta_s` later.

        Where that block is due soon it is waited for; see `ChainTimes.read_or_reckon` for when its time is reckoned.

        Raises:
            ChainError: the chain does not tell the time of a block that it has.
        """
        end, opened = self._end(window), self._parts()
        asking_s, waiting_s = NUM_PATIENCES * self._config.request_timeout_s, 2 * WAIT_BLOCKS * self._clock.block_s
        first = self._loop.run(lambda: opened.times.read_or_reckon(end), waiting_s + asking_s + SLACK_S)
        return first, first + self._config.delta_s

    def block(self) -> Block:
        """Return the newest block, counted on by time while there is no connection. Never waits."""
        self._parts()
        return self._clock.block()

    def timestamp(self, block: Block) -> float:
        """Return the UTC seconds of a block. Raises `ChainError` if there is no such block yet."""
        opened = self._parts()
        if block > self._clock.block():
            raise FutureError(f"block {block} is not made yet; the newest is {self._clock.block()}")
        return self._ask(lambda: opened.times.read(block))

    def register(self, *, sends: bool = True) -> Uid:  # noqa: ARG002 - the subnet does not tell who sends
        """Return the uid of the own hotkey. Raises `ConfigError` if it has none, and says how to register it."""
        opened = self._parts()
        uid = self._ask(lambda: self._own_uid(opened))
        if uid is None:
            raise ConfigError(
                f"hotkey {self._hotkey} is not registered on subnet {self._netuid} of {self._network}. Register it by\n"
                f"  {self._register_command}"
            )
        return uid

    def commit(self, address: str) -> None:
        """Publish where the own bucket is, if the chain does not say so already.

        Raises:
            ConfigError: the address does not have 1..128 bytes of printable text.
            ChainError: the own hotkey is not registered, or the chain refuses: it takes some 3100 bytes of
                commitments a hotkey in an epoch of 360 blocks.
        """
        opened, data = self._parts(), check_address(address)
        # Five questions at most: uid, known address, two where the quota is used up, or the register behind another.
        self._loop.run(
            lambda: self._commit(opened, data),
            self._config.submit_timeout_s + 5 * self._config.request_timeout_s + SLACK_S,
        )

    def peers(self, needed: Collection[Uid] = ()) -> dict[Uid, Peer]:
        """See `Register.peers`; the answer is at most some 10 minutes old where the chain can be reached."""
        opened = self._parts()
        return self._ask(lambda: opened.register.newest(needed)).peers()

    def candidates(self, window: Window) -> dict[Uid, Peer]:
        """See `Register.candidates`; read at the block that counts for the window."""
        opened, opens = self._parts(), Block(window * self._config.blocks_per_window)
        return self._ask(lambda: opened.register.before(opens)).peers()

    def seconds_to_next_register(self) -> float:
        """Return the seconds until who is registered now counts for windows to come."""
        counts = next_register_block(self.block()) + FINAL_BLOCKS
        return self._clock.seconds_until(Block(counts))

    def snapshot(self) -> Snapshot:
        """Return the newest register that was read, with stakes and permits."""
        opened = self._parts()
        return self._ask(opened.register.newest)

    def set_weights(self, weights: Mapping[Uid, float]) -> None:
        """See `Purse.set_weights`. What the chain refuses for now is tried again in the background, and logged."""
        shares, opened = shares_of(weights), self._parts()
        known = self._ask(lambda: opened.register.newest(weights, self._hotkey))
        if unknown := sorted(set(weights) - set(known.neurons)):
            raise ChainError(f"cannot set weights of uids {unknown}: they are not registered on this chain")
        if not known.has(self._hotkey):
            raise ChainError(self._not_registered())
        self._loop.run(lambda: opened.weights.set(shares), self._config.submit_timeout_s + SLACK_S)

    def weights(self) -> dict[Uid, dict[Uid, float]]:
        """See `Purse.weights`; where a subnet has weights committed before they are revealed, those revealed."""
        opened = self._parts()
        rows = self._ask(lambda: self._weights(opened))
        return {
            Uid(validator): {Uid(uid): share for uid, share in sorted(row.items())}
            for validator, row in sorted(rows.items())
            if row
        }

    async def _connect(self) -> Opened:
        subtensor = self._subtensor = Subtensor(self._address, self._netuid, self._open_substrate())
        timeout_s = self._config.open_timeout_s
        await subtensor.connect(timeout_s)
        opened = Opened(subtensor, self._clock, self._signer, self._config)
        await subtensor.ask(self._learn(opened), f"cannot open {self._network}", timeout_s)
        return opened

    async def _learn(self, opened: Opened) -> None:
        """Learn what is asked for without waiting later on. Raises `ConfigError` if there is no such subnet."""
        client = opened.subtensor.client
        if not await client.query(NETWORKS_ADDED, [self._netuid]):
            raise ConfigError(f"{self._network} has no subnet {self._netuid}: give --netuid one that it has")
        self._clock.start(await client.block_time())
        head = Block(await client.block())
        self._clock.see(head)
        await opened.times.read(head)
        await opened.register.newest()

    async def _disconnect(self) -> None:
        subtensor, self._subtensor = self._subtensor, None
        if subtensor is not None:
            await subtensor.close()

    async def _own_uid(self, opened: Opened) -> Uid | None:
        what = f"cannot read the uid of hotkey {self._hotkey}"
        asked = opened.subtensor.client.read("uid", hotkey_ss58=self._hotkey, netuid=self._netuid)
        uid = await opened.subtensor.ask(asked, what, self._config.request_timeout_s)
        return None if uid is None else Uid(int(uid))

    async def _commit(self, opened: Opened, data: bytes) -> None:
        if await self._own_uid(opened) is None:
            raise ChainError(self._not_registered())
        await opened.commitment.publish(data)
        await opened.register.newest(anew=True)

    async def _weights(self, opened: Opened) -> dict[int, dict[int, float]]:
        asked = opened.subtensor.client.read("weights", netuid=self._netuid)
        return await opened.subtensor.ask(asked, "cannot read the weights", self._config.request_timeout_s)

    def _ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a question that bounds itself; twice the time, since it may stand behind another one."""
        return self._loop.run(question, 2 * self._config.request_timeout_s + SLACK_S)

    def _parts(self) -> Opened:
        if self._opened is None:
            raise ChainError("the chain is not open; call open() first")
        return self._opened

    def _end(self, window: Window) -> Block:
        return Block((window + 1) * self._config.blocks_per_window)

    def _not_registered(self) -> str:
        return f"hotkey {self._hotkey} is not registered on subnet {self._netuid} of {self._network}"
