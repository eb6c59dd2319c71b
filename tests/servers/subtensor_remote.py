"""The fake chain of another process: a connection for the SDK, and a hand for tests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from tests.servers.subtensor_encoding import decode, frame, read_frame
from tests.servers.subtensor_server import KINDS
from tests.servers.subtensor_state import LinkDown
from tests.servers.subtensor_substrate import WireSubstrate
from tests.servers.subtensor_wire import LOST, SessionClosed

CONNECT_S = 5.0

ORDER_S = 30.0


class TcpWire:
    """A connection over a socket. It is opened again by the next request after it broke."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._queues: dict[int, asyncio.Queue[dict[str, Any]]] = {}

    async def connect(self) -> None:
        """Open the socket, and count as open on the chain."""
        try:
            await self.ask("connect")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let the chain know, then close the socket."""
        if self._writer is not None:
            with contextlib.suppress(LinkDown, TimeoutError):
                await asyncio.wait_for(self.ask("close"), CONNECT_S)
        reading, self._reading = self._reading, None
        writer, self._writer = self._writer, None
        for queue in self._queues.values():
            queue.put_nowait({"closed": True})
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, method: str, *params: Any) -> Any:
        """Send a request and wait for its answer."""
        async with self._request(method, *params) as queue:
            return _unpack(await queue.get(), LOST if method == "submit" else "the connection broke")["answer"]

    async def heads(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield heads until the subscription dies or is closed."""
        async with self._request("heads") as queue:
            with contextlib.suppress(SessionClosed):
                while True:
                    yield _unpack(await queue.get(), "the connection broke")["head"]

    @contextlib.asynccontextmanager
    async def _request(self, method: str, *params: Any) -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
        writer = await self._open()
        number = next(self._numbers)
        queue = self._queues[number] = asyncio.Queue()
        writer.write(frame({"id": number, "method": method, "params": params}))
        try:
            yield queue
        except (GeneratorExit, asyncio.CancelledError):
            if self._writer is writer:
                writer.write(frame({"id": next(self._numbers), "method": "stop", "params": [number]}))
            raise
        finally:
            del self._queues[number]

    async def _open(self) -> asyncio.StreamWriter:
        if self._writer is not None:
            return self._writer
        host, port = self._address.split(":")
        try:
            reader, self._writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), CONNECT_S)
        except (OSError, TimeoutError) as error:
            raise LinkDown(f"could not connect to any endpoint: {error}") from error
        self._reading = asyncio.create_task(self._read(reader))
        return self._writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                message = await read_frame(reader)
                if message["id"] in self._queues:
                    self._queues[message["id"]].put_nowait(message)
        except (asyncio.IncompleteReadError, OSError):
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        finally:
            for queue in self._queues.values():
                queue.put_nowait({})


class RemoteSubstrate(WireSubstrate):
    """A connection of the SDK to a fake chain in another process."""

    def __init__(self, address: str) -> None:
        super().__init__(TcpWire(address))


class SubtensorControl:
    """The hand on a fake chain in another process."""

    def __init__(self, address: str) -> None:
        self._address = address

    def tell(self, order: str, **how: Any) -> Any:
        """Give one of the server's `ORDERS` with its arguments; returns what it returns."""
        host, port = self._address.split(":")
        with socket.create_connection((host, int(port)), ORDER_S) as connection, connection.makefile("rb") as file:
            connection.sendall(frame({"id": 0, "method": "order", "params": [order, how]}))
            length = int.from_bytes(file.read(4))
            return _unpack(decode(file.read(length)), "the connection broke")["answer"]


def _unpack(message: dict[str, Any], if_broken: str) -> dict[str, Any]:
    if not message:
        raise LinkDown(if_broken)
    if "closed" in message:
        raise SessionClosed("RPC session closed")
    if "refusal" in message:
        kind, text, name = message["refusal"]
        raise KINDS[kind](text, name)
    return message
