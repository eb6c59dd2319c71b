"""One fake chain for several processes, over a loopback socket; also a program of its own.

Every request is a frame {"id", "method", "params"}. Answers bear its id and one of "answer", "refusal" (kind, message,
name) and "head", of which a subscription gets many.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_calls import PoolRefusal
from tests.servers.subtensor_encoding import frame, read_frame
from tests.servers.subtensor_register import Register
from tests.servers.subtensor_state import ChainRefusal, LinkDown, NotInRuntime
from tests.servers.subtensor_wire import DirectWire, SessionClosed

KINDS: Mapping[str, type[ChainRefusal]] = {
    kind.__name__: kind for kind in (ChainRefusal, LinkDown, NotInRuntime, PoolRefusal, SessionClosed)
}

START_S = 20.0

STOP_S = 10.0

ORDERS: Mapping[str, Callable[..., Any]] = {
    "mine": lambda fake, **how: fake.mine(**how).number,
    "reorganise": lambda fake, **how: fake.reorganise(**how),
    "refuse": lambda fake, **how: fake.refuse(**how),
    "cut": lambda fake, **how: fake.link.cut(**how),
    "hang": lambda fake: fake.link.hang(),
    "orphan": lambda fake: fake.link.orphan(),
    "mend": lambda fake: fake.link.mend(),
    "repeat_heads": lambda fake, **how: fake.link.repeat_heads(**how),
    "skip_heads": lambda fake, **how: fake.link.skip_heads(**how),
    "next_nonce": lambda fake, **how: fake.next_nonce(**how),
    "num_open": lambda fake: fake.link.num_open,
    "num_subscribed": lambda fake: fake.link.num_subscribed,
    "register_hotkey": lambda fake, netuid=3, **how: Register(fake, netuid).register_hotkey(**how),
    "replace": lambda fake, netuid=3, **how: Register(fake, netuid).replace(**how),
    "deregister": lambda fake, netuid=3, **how: Register(fake, netuid).deregister(**how),
    "change_neuron": lambda fake, netuid=3, **how: Register(fake, netuid).change_neuron(**how),
    "change_rules": lambda fake, netuid=3, **how: Register(fake, netuid).change_rules(**how),
}
"""What `SubtensorControl.tell` can say. Orders get through where requests of clients do not."""


class _Connection:
    """One client of the server, with a wire of its own to the chain."""

    def __init__(self, fake: FakeSubtensor, writer: asyncio.StreamWriter) -> None:
        self._fake, self._wire, self._writer = fake, DirectWire(fake), writer
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer until the client goes away."""
        try:
            while True:
                self._start(**await read_frame(reader))
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has gone
        finally:
            await self._end()

    async def _end(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._wire.close()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _start(self, id: int, method: str, params: list[Any]) -> None:  # noqa: A002 - the name in the frame
        if method == "stop":
            for task in [task for number, task in self._tasks.items() if number == params[0]]:
                task.cancel()
            return
        task = asyncio.create_task(self._answer(id, method, params))
        self._tasks[id] = task
        task.add_done_callback(lambda _: self._tasks.pop(id, None))

    async def _answer(self, number: int, method: str, params: list[Any]) -> None:
        try:
            if method == "heads":
                async with contextlib.aclosing(self._wire.heads()) as heads:
                    async for header in heads:
                        self._send(number, "head", header)
            else:
                self._send(number, "answer", await self._perform(method, params))
        except ChainRefusal as refusal:
            self._send(number, "refusal", [type(refusal).__name__, refusal.message, refusal.name])

    async def _perform(self, method: str, params: list[Any]) -> Any:
        if method == "order":
            name, how = params
            return ORDERS[name](self._fake, **how)
        if method in ("connect", "close"):
            return await getattr(self._wire, method)()
        return await self._wire.ask(method, *params)

    def _send(self, number: int, kind: str, value: Any) -> None:
        self._writer.write(frame({"id": number, kind: value}))


async def _serve(fake: FakeSubtensor, tell_address: Callable[[str], None], stopped: asyncio.Event) -> None:
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        await _Connection(fake, writer).serve(reader)
        serving.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    tell_address(f"{host}:{port}")
    await stopped.wait()
    server.close()
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


@contextlib.contextmanager
def serving(fake: FakeSubtensor) -> Iterator[str]:
    """Share a chain of this process with others; yields the address."""
    addresses: list[str] = []
    started, loop, stopped = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    def tell_address(address: str) -> None:
        addresses.append(address)
        started.set()

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(_serve(fake, tell_address, stopped))

    thread = threading.Thread(target=run, name="subtensor-server", daemon=True)
    thread.start()
    try:
        assert started.wait(START_S), "the server did not start"
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(STOP_S)


@contextlib.contextmanager
def subtensor_process(*arguments: str) -> Iterator[str]:
    """Run a chain as a process of its own, with the arguments of `main`; yields the address."""
    command = [sys.executable, "-m", "tests.servers.subtensor_server", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the process ended before it told its address"
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=STOP_S)


def main() -> None:
    """Make blocks by the clock and print the address; ends with its standard input, or by SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--netuid", type=int, action="append", help="a subnet; may be given several times")
    parser.add_argument("--head", type=int, default=100, help="number of the first block that is made by the clock")
    parser.add_argument("--seconds-per-block", type=float, default=12.0)
    parser.add_argument("--runtime", choices=("new", "old"), default="new")
    options = parser.parse_args()
    fake = FakeSubtensor(
        tuple(options.netuid or [3]),
        head=options.head,
        seconds_per_block=options.seconds_per_block,
        runtime=options.runtime,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with fake.mining(options.seconds_per_block), serving(fake) as address:
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
