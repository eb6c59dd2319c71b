"""How a client's connection talks to the fake chain: requests with plain answers, and subscriptions to heads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_calls import check_call
from tests.servers.subtensor_state import ChainRefusal, LinkDown
from tests.servers.subtensor_storage import read_item, read_map, runtime_call

SPEC_VERSIONS = {"new": 440, "old": 293}

LOST = (
    "Connection lost while waiting for a subscription response (e.g. extrinsic finalization). "
    "The transaction may already be on chain — verify balances before retrying."
)
"""What the transport of the SDK says when a subscription dies."""


T = TypeVar("T")


class SessionClosed(ChainRefusal):
    """The connection was closed by this side while a request was under way."""


class Wire(Protocol):
    """One connection. All methods raise ChainRefusal and its kinds, no exceptions of the SDK."""

    async def connect(self) -> None:
        """Open the connection, or raise LinkDown."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...

    async def ask(self, method: str, *params: Any) -> Any:
        """Ask for something of `ANSWERS`, or submit."""
        ...

    def heads(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the head and every head to come; raises LinkDown when the subscription dies."""
        ...


class DirectWire:
    """A connection within one process."""

    def __init__(self, fake: FakeSubtensor) -> None:
        self._fake, self._is_open, self._ended = fake, False, asyncio.Event()

    async def connect(self) -> None:
        """Wait while the chain is silent, then count as open."""
        self._ended.clear()
        await self._pass()
        if not self._is_open:
            self._is_open = True
            self._fake.link.num_open += 1

    async def close(self) -> None:
        """Count as open no more; requests under way fail, subscriptions end."""
        self._ended.set()
        if self._is_open:
            self._is_open = False
            self._fake.link.num_open -= 1

    async def ask(self, method: str, *params: Any) -> Any:
        """Answer at once while the link is open, else as it is told."""
        await self._pass()
        if method == "submit":
            return await self._submit(*params)
        return ANSWERS[method](self._fake, *params)

    async def heads(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield heads as they come."""
        await self._pass()
        with self._subscribed() as queue, contextlib.suppress(SessionClosed):
            while True:
                yield await self._unless_closed(_head(queue))

    async def _submit(self, extrinsic: bytes) -> dict[str, Any]:
        """Wait for the block; if the link goes down before, the extrinsic is in the pool all the same."""
        outcome = asyncio.wrap_future(self._fake.submit(extrinsic))
        with self._subscribed() as queue:
            death = asyncio.ensure_future(_death(queue))
            try:
                await self._unless_closed(asyncio.wait({outcome, death}, return_when=asyncio.FIRST_COMPLETED))
                if not outcome.done():
                    raise LinkDown(LOST)
            finally:
                death.cancel()
                outcome.cancel()  # of no effect on what is done, nor on the extrinsic
        await self._pass()
        return outcome.result()

    @contextlib.contextmanager
    def _subscribed(self) -> Iterator[asyncio.Queue[Any]]:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def push(item: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        stop = self._fake.link.subscribe(push, self._newest_header)
        try:
            yield queue
        finally:
            stop()

    def _newest_header(self) -> dict[str, Any]:
        return self._fake.head.header()

    async def _pass(self) -> None:
        while (waiting := self._fake.link.passage()) is not None:
            await self._unless_closed(asyncio.wrap_future(waiting))

    async def _unless_closed(self, awaited: Awaitable[T]) -> T:
        work, ended = asyncio.ensure_future(awaited), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise SessionClosed("RPC session closed")
            return work.result()
        finally:
            work.cancel()
            ended.cancel()


async def _head(queue: asyncio.Queue[Any]) -> dict[str, Any]:
    item = await queue.get()
    if isinstance(item, LinkDown):
        raise item
    return item


async def _death(queue: asyncio.Queue[Any]) -> None:
    while not isinstance(await queue.get(), LinkDown):
        pass


def _constant(fake: FakeSubtensor, name: str) -> Any:
    return {"Aura.SlotDuration": round(fake.seconds_per_block * 1000), "Balances.ExistentialDeposit": 500}.get(name)


def _block(fake: FakeSubtensor, at: int | str | None) -> dict[str, Any]:
    block = fake.block(at)
    return {"header": block.header(), "extrinsics": list(block.extrinsics), "timestamp_ms": block.timestamp_ms}


ANSWERS: Mapping[str, Callable[..., Any]] = {
    "block": _block,
    "block_number": lambda fake: fake.head.number,
    "block_hash": lambda fake, number: fake.block(number).hash,
    "unsubscribe": lambda fake: None,
    "spec_version": lambda fake: SPEC_VERSIONS["old" if fake.is_old else "new"],
    "constant": _constant,
    "next_nonce": lambda fake, address: fake.next_nonce(address),
    "check_call": lambda fake, name, params: check_call(name, params, is_old=fake.is_old),
    "query": lambda fake, name, params, at: read_item(fake.block(at), name, params, is_old=fake.is_old),
    "query_map": lambda fake, name, params, at: read_map(fake.block(at), name, params, is_old=fake.is_old),
    "runtime_call": lambda fake, name, params, at: runtime_call(fake.block(at), name, params),
}
"""What can be asked for. The answers are plain values; `at` is a block's hash, None the head."""
