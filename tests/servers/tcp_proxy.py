"""Ways to a server that a test can bend: TCP connections whose bytes come late, slowly, cut short or not at all.

Bytes are passed on as they are. Only the heads of requests are read, to tell whose bucket and which method a fault is
for; a connection may carry any number of requests, one after the other. Faults are switched while connections are open:
the one that holds when a request begins holds for it and its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 2**16
PIECE_S = 0.05  # a capped connection sends so often
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Bend:
    """What happens to a request and its answer."""

    up_delay_s: float = 0.0
    down_delay_s: float = 0.0
    bytes_per_s: float = math.inf
    """Of each direction; above 0."""

    reset_request_after: int | None = None
    """Bytes of the request's body that arrive before the connection is reset."""

    reset_answer_after: int | None = None
    """Bytes of the answer's body that arrive before the connection is reset."""

    loses: Literal["nothing", "request", "answer", "answer's body"] = "nothing"
    """What never arrives, while the connection stays open."""

    status: int = 0
    """HTTP status that is answered at once, instead of asking the server; 0 for none."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Of that answer."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which requests are bent."""

    bend: Bend
    bucket: str = ""
    """Account whose bucket is meant; empty for all."""

    methods: tuple[str, ...] = ()
    """HTTP methods; empty for all."""

    at_most: float = math.inf
    """Requests that are bent; later ones pass."""

    def fits(self, method: str, path: str) -> bool:
        """Tell whether a request is meant."""
        return (not self.methods or method in self.methods) and (not self.bucket or path.split("/")[1] == self.bucket)


STRAIGHT = Bend()


class Way:
    """One way to the server, with an address of its own."""

    def __init__(self, upstream: str, loop: asyncio.AbstractEventLoop) -> None:
        parts = urlsplit(upstream)
        self._upstream, self._loop = (parts.hostname, parts.port), loop
        self._rules: tuple[Rule, ...] = ()
        self._hits: list[int] = []
        self._listener: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._port = 0
        self.url = ""

    def bend(self, *rules: Rule) -> None:
        """Bend all requests that begin from now on by the first rule that fits; no rules, no faults."""
        self._do(self._set(rules))

    def hits(self) -> int:
        """Return how many requests were bent since `bend`."""
        return sum(self._hits)

    def refuse(self) -> None:
        """Refuse new connections and reset those that are open."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Take connections, on the address of before."""
        self._do(self._accept())

    def choose(self, method: str, path: str) -> Bend:
        """Return what happens to a request, and count it."""
        for number, rule in enumerate(self._rules):
            if rule.fits(method, path) and self._hits[number] < rule.at_most:
                self._hits[number] += 1
                return rule.bend
        return STRAIGHT

    def _do(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _set(self, rules: tuple[Rule, ...]) -> None:
        self._rules, self._hits = rules, [0] * len(rules)

    async def _accept(self) -> None:
        if self._listener is not None and self._listener.is_serving():
            return
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=MAX_HEAD_BYTES)
        self._port = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._open):
            connection.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._open.add(connection)
        try:
            await connection.serve(await asyncio.open_connection(*self._upstream))
        except (OSError, asyncio.IncompleteReadError):
            connection.reset()  # one of the two sides has gone
        finally:
            self._open.discard(connection)


@contextlib.contextmanager
def ways(upstream: str, names: Iterable[str]) -> Iterator[dict[str, Way]]:
    """Open a way to the server at `upstream` for each name."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    found = {name: Way(upstream, loop) for name in names}
    try:
        for way in found.values():
            way.accept()
        yield found
    finally:
        for way in found.values():
            way.refuse()
        asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Lane:
    """One direction of a connection: bytes come out later, and no faster than they may, in the order they went in."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer, self._free_at = writer, 0.0

    def send(self, data: bytes, delay_s: float, bytes_per_s: float) -> None:
        loop = asyncio.get_running_loop()
        piece = len(data) if math.isinf(bytes_per_s) else max(1, int(bytes_per_s * PIECE_S))
        for start in range(0, len(data), max(1, piece)):
            part = data[start : start + piece]
            # A little later than the one before: calls of the same moment have no order.
            at = max(loop.time() + delay_s, self._free_at + 1e-6) + len(part) / bytes_per_s
            self._free_at = at
            loop.call_at(at, self._write, part)

    async def drained(self) -> None:
        await asyncio.sleep(max(0.0, self._free_at - asyncio.get_running_loop().time()) + 0.01)

    def _write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)


class _Connection:
    def __init__(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._way, self._reader, self._writers = way, reader, [writer]
        self._down = _Lane(writer)
        self._bend = STRAIGHT
        self._head, self._body_bytes = b"", 0  # of the answer under way

    async def serve(self, upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._writers.append(upstream[1])
        up = _Lane(upstream[1])
        answers = asyncio.ensure_future(self._pass_answers(upstream[0]))
        try:
            while await self._pass_request(up):
                pass
            # What a client had sent before it hung up still arrives.
            await up.drained()
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            for writer in self._writers:
                writer.close()

    def reset(self) -> None:
        """End both connections at once; lingering for zero seconds turns the end into a reset."""
        for writer in self._writers:
            end: socket.socket | None = writer.get_extra_info("socket")
            if end is not None and end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pass_request(self, up: _Lane) -> bool:
        """Pass one request on; return whether another may follow."""
        try:
            head = await self._reader.readuntil(END_OF_HEAD)
        except asyncio.IncompleteReadError:
            return False
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        size = _content_length(head)
        bend = self._bend = self._way.choose(method, path)
        self._head, self._body_bytes = b"", 0
        if bend.loses == "request":
            while await self._reader.read(MAX_HEAD_BYTES):
                pass
            return False
        if bend.status:
            await self._reader.readexactly(size)
            self._down.send(_answer(bend, method), bend.down_delay_s, bend.bytes_per_s)
            return True
        up.send(head, bend.up_delay_s, bend.bytes_per_s)
        return await self._pass_body(up, size, bend)

    async def _pass_body(self, up: _Lane, size: int, bend: Bend) -> bool:
        allowed = size if bend.reset_request_after is None else min(size, bend.reset_request_after)
        while allowed > 0:
            data = await self._reader.read(min(allowed, MAX_HEAD_BYTES))
            if not data:
                return False
            allowed -= len(data)
            up.send(data, bend.up_delay_s, bend.bytes_per_s)
        if bend.reset_request_after is None or not size:
            return True
        await up.drained()
        self.reset()
        return False

    async def _pass_answers(self, upstream: asyncio.StreamReader) -> None:
        while data := await upstream.read(MAX_HEAD_BYTES):
            bend = self._bend
            part, is_cut = self._part_that_passes(data, bend)
            self._down.send(part, bend.down_delay_s, bend.bytes_per_s)
            if is_cut:
                await self._down.drained()
                self.reset()
        if self._bend.loses == "nothing":
            await self._down.drained()
            self._writers[0].close()

    def _part_that_passes(self, data: bytes, bend: Bend) -> tuple[bytes, bool]:
        """Return what arrives of these bytes of an answer, and whether the connection is reset after it."""
        if bend.loses == "answer":
            return b"", False
        limit = 0 if bend.loses == "answer's body" else bend.reset_answer_after
        before = len(self._head)
        if END_OF_HEAD not in self._head:
            self._head += data
        _, found, body = self._head.partition(END_OF_HEAD)
        if limit is None or not found:
            return data, False
        head_bytes = max(0, len(self._head) - len(body) - before)
        left = max(0, limit - self._body_bytes)
        self._body_bytes += len(data) - head_bytes
        self._head = self._head[: len(self._head) - len(body)]
        is_over = self._body_bytes > limit
        return data[: head_bytes + left], is_over and bend.reset_answer_after is not None


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _answer(bend: Bend, method: str) -> bytes:
    body = b"<Error><Code>SlowDown</Code><Message>as scripted</Message></Error>"
    lines = [f"HTTP/1.1 {bend.status} As Scripted", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in bend.headers.items()]
    return "\r\n".join(lines).encode() + END_OF_HEAD + (b"" if method == "HEAD" else body)
