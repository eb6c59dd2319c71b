"""A subtensor chain in memory, for tests: blocks with their states, and a hand on all of it.

The SDK reads it through `subtensor_substrate.FakeSubstrate`, in this process or from others. All methods may be called
from any thread. What a test changes by hand (`subtensor_register.Register`) is in the head block from then on; what is
submitted gets into the next block.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Literal

from tests.servers.subtensor_link import Link
from tests.servers.subtensor_pool import Pending, Pool, Refusals, read_extrinsic
from tests.servers.subtensor_state import Block, ChainRefusal, State, Subnet, block_hash

GENESIS_MS = 1_700_000_000_000

Runtime = Literal["new", "old"]


class FakeSubtensor:
    """The chain: every block since the genesis, the pool and the link to its clients."""

    def __init__(
        self,
        netuids: tuple[int, ...] = (3,),
        *,
        head: int = 100,
        seconds_per_block: float = 12.0,
        runtime: Runtime = "new",
        mines_on_submission: bool = True,
    ) -> None:
        """Make a chain with empty subnets and blocks up to `head`.

        Args:
            netuids: its subnets.
            head: number of the last block.
            seconds_per_block: what the runtime says, and between blocks where nothing else is asked for.
            runtime: "old" has neither sealed weights nor mechanisms.
            mines_on_submission: a submission makes the block that it gets into, while nothing mines by the clock.
        """
        self.seconds_per_block, self.is_old = seconds_per_block, runtime == "old"
        self.link = Link()
        self._lock = threading.RLock()
        self._pool = Pool(is_old=self.is_old)
        self._mines_on_submission, self._num_clocks = mines_on_submission, 0
        state = State({netuid: Subnet(netuid) for netuid in netuids})
        self._blocks = [Block(0, block_hash("", 0, GENESIS_MS), "0x" + "00" * 32, GENESIS_MS, state)]
        self._by_hash = {self._blocks[0].hash: self._blocks[0]}
        self.mine(head)

    @property
    def head(self) -> Block:
        """The newest block."""
        return self._blocks[-1]

    def block(self, at: int | str | None = None) -> Block:
        """Return a block by number or hash; None is the head.

        Raises:
            ChainRefusal: there is no such block.
        """
        with self._lock:
            if at is None:
                return self.head
            if isinstance(at, str):
                if at not in self._by_hash:
                    raise ChainRefusal(f'Block not found for "{at}"')
                return self._by_hash[at]
            if not 0 <= at < len(self._blocks):
                raise ChainRefusal(f"no block at height {at}")
            return self._blocks[at]

    def mine(self, count: int = 1, seconds: float | None = None) -> Block:
        """Make blocks, each so many seconds after the one before; returns the last."""
        step_ms = round((self.seconds_per_block if seconds is None else seconds) * 1000)
        with self._lock:
            for _ in range(count):
                self.mine_at(self.head.timestamp_ms + step_ms)
            return self.head

    def mine_at(self, timestamp_ms: int) -> None:
        """Make one block with what waits in the pool, at a time after its parent's."""
        with self._lock:
            parent = self.head
            timestamp_ms = max(timestamp_ms, parent.timestamp_ms + 1)
            number, state = parent.number + 1, parent.state
            own_hash = block_hash(parent.hash, number, timestamp_ms)
            pending, refusals = self._pool.take_all(), []
            for each in pending:
                state, refusal = self._pool.apply(each.extrinsic, state, number)
                refusals.append(refusal)
            extrinsics = tuple(dataclasses.asdict(each.extrinsic) for each in pending)
            self._append(Block(number, own_hash, parent.hash, timestamp_ms, state, extrinsics))
            for index, (each, refusal) in enumerate(zip(pending, refusals, strict=True)):
                each.settle(refusal, block_hash=own_hash, extrinsic_id=f"{number}-{index + 1:04d}")

    def reorganise(self, depth: int, later_ms: int = 500) -> None:
        """Replace the last blocks by others with the same states, a little later; the old ones stay known by hash."""
        with self._lock:
            old = self._blocks[-depth:]
            del self._blocks[-depth:]
            for block in old:
                timestamp_ms = block.timestamp_ms + later_ms
                own_hash = block_hash(self.head.hash, block.number, timestamp_ms)
                self._append(
                    dataclasses.replace(block, hash=own_hash, parent_hash=self.head.hash, timestamp_ms=timestamp_ms)
                )

    def amend(self, netuid: int, change: Callable[[Subnet], Subnet]) -> None:
        """Change a subnet in the head block."""
        with self._lock:
            state = self.head.state.with_subnet(change(self.head.state.subnets[netuid]))
            self._blocks[-1] = dataclasses.replace(self.head, state=state)
            self._by_hash[self.head.hash] = self.head

    def submit(self, extrinsic: bytes) -> Future[dict[str, Any]]:
        """Take a signed extrinsic; returns its outcome, which is there when it is in a block.

        Raises:
            ChainRefusal: it gets into no block.
        """
        with self._lock:
            pending: Pending = self._pool.add(read_extrinsic(extrinsic), self.head.state, self.head.number + 1)
            if self._mines_on_submission and self._num_clocks == 0:
                self.mine()
            return pending.outcome

    def next_nonce(self, address: str) -> int:
        """Return the nonce that an account's next extrinsic has to bear."""
        with self._lock:
            return self._pool.next_nonce(address, self.head.state)

    def refuse(self, name: str, *, call: str | None = None, times: int = 1, in_pool: bool = False) -> None:
        """Refuse the next submissions with the chain's error of that name.

        Args:
            name: such as "SpaceLimitExceeded".
            call: only of this call, such as "set_commitment".
            times: so many of them.
            in_pool: before they get into a block.
        """
        with self._lock:
            self._pool.refuse(Refusals(name, call, times, in_pool))

    @contextmanager
    def mining(self, seconds_per_block: float) -> Iterator[None]:
        """Make blocks by this computer's clock, in a thread."""
        stopped = threading.Event()

        def make_blocks() -> None:
            while not stopped.wait(seconds_per_block):
                self.mine_at(round(time.time() * 1000))

        thread = threading.Thread(target=make_blocks, name="fake-subtensor", daemon=True)
        with self._lock:
            self._num_clocks += 1
            self.mine_at(round(time.time() * 1000))
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            with self._lock:
                self._num_clocks -= 1

    def _append(self, block: Block) -> None:
        self._blocks.append(block)
        self._by_hash[block.hash] = block
        self.link.publish(block.header())
