"""A way to a server that a test can bend: every request passes a function that answers it, or loses the answer."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding")


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    forward: Callable[[bytes], Reply]
    """Sends the request on with this body and returns the server's answer."""


@dataclass(frozen=True)
class Reply:
    """One answer. `Content-Length` is that of `body`, unless `headers` says another."""

    status: int
    body: bytes | Iterable[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """One answer, byte by byte from the status line on; then the connection ends."""

    parts: Iterable[bytes]


Answer = Reply | Raw | None
"""None resets the connection."""

Script = Callable[[Asked], Answer]
"""Answers a request."""


@dataclass
class Log:
    """What arrived."""

    url: str
    requests: list[Asked] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Seconds of `time.monotonic()` at which each request had arrived."""

    connections: int = 0

    def methods(self) -> list[str]:
        return [request.method for request in self.requests]


def passed_on(asked: Asked) -> Reply:
    """Answer as the server behind does."""
    return asked.forward(asked.body)


def first(count: int, bent: Script) -> Script:
    """Use one script for the first requests and pass on all later ones."""
    left = [count]

    def script(asked: Asked) -> Answer:
        left[0] -= 1
        return bent(asked) if left[0] >= 0 else passed_on(asked)

    return script


def on(method: str, bent: Script) -> Script:
    """Use a script for the first request of one method and pass on all others."""
    once = first(1, bent)
    return lambda asked: once(asked) if asked.method == method else passed_on(asked)


def error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Script:
    """Refuse, as S3 does."""
    body = f"<Error><Code>{code}</Code><Message>as scripted</Message></Error>".encode()
    return lambda _: Reply(status, body, {"Content-Type": "application/xml", **(headers or {})})


@contextlib.contextmanager
def proxy(upstream: str, script: Script) -> Iterator[Log]:
    """Run a proxy on a free port before the server at `upstream`; an empty one if the script answers everything."""
    server = _Server(upstream, script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.log
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a scripted answer may last

    def __init__(self, upstream: str, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.script = upstream, script
        self.log = Log(f"http://127.0.0.1:{self.server_address[1]}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients of these tests hang up whenever they like."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body after its headers would wait 40 ms

    @property
    def _proxy(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def setup(self) -> None:
        self._proxy.log.connections += 1
        super().setup()

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, dict(self.headers), body, self._forward)
        self._proxy.log.requests.append(asked)
        self._proxy.log.times.append(time.monotonic())
        reply = self._proxy.script(asked)
        if reply is None:
            # Lingering for zero seconds turns the end of the connection into a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif isinstance(reply, Raw):
            self.close_connection = True
            for part in reply.parts:
                self.wfile.write(part)
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        parts = [reply.body] if isinstance(reply.body, bytes) else reply.body
        length = {"Content-Length": str(len(reply.body))} if isinstance(reply.body, bytes) else {}
        for name, value in (length | dict(reply.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for part in parts:
                self.wfile.write(part)
        self.close_connection = not isinstance(reply.body, bytes)

    def _forward(self, body: bytes) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self._proxy.upstream).netloc, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            return Reply(answer.status, answer.read(), headers)
        finally:
            connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""
