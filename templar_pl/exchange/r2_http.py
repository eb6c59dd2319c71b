"""HTTP under a boto3 client, for servers of strangers: no answer lasts for ever, fills the memory or leads elsewhere.

botocore bounds the silence between two bytes, which a drip or an endless line of headers never reaches, and reads the
bodies of refusals and of listings to their end, however long they are.
"""

from __future__ import annotations

import io
import re
import socket
import time
from functools import partial, partialmethod
from http.client import HTTPResponse
from typing import Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
    AWSPreparedRequest,
    AWSResponse,
)
from botocore.httpsession import URLLib3Session
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.response import BaseHTTPResponse

from templar_pl.errors import StoreError, TransientError
from templar_pl.exchange.r2_options import MIB, R2Options

MAX_ANSWER_BYTES = 4 * MIB
"""Of an answer that is no object: a listing of 1000 keys of 1024 bytes, each written as %XX, has 3.5 MB."""

MAX_REFUSAL_BYTES = 2**16

MAX_HEAD_BYTES = 2**17
"""Of status line and headers, with all that comes before them; http.client takes 6.5 MB."""

_SLICE_BYTES = 2**16

_ALIEN = re.compile(rb"\0|<!DOCTYPE|<\?xml[^>]{0,200}\bencoding\s*=\s*[\"'](?!utf-8[\"'])", re.IGNORECASE)
"""What no S3 store sends: entities that multiply, or an encoding in which they could hide."""


class BoundedHttp:
    """Sends the requests of one client; every answer ends `request_timeout_s` after its request at the latest."""

    def __init__(self, options: R2Options) -> None:
        self._session = _Session(
            _pools(options.request_timeout_s),
            timeout=(options.connect_timeout_s, options.read_timeout_s),
            max_pool_connections=options.max_connections,
            # As botocore does for its own session.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            proxies={},
        )

    def send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """Answer the event `before-send` with the server's answer, so that the client need not send.

        The body of an object is left to be read, by whoever knows how long it may be.
        """
        is_object, request.stream_output = request.stream_output, True  # or the session would read it all
        answer = self._session.send(request)
        is_refused = answer.status_code >= 300
        if is_object and not is_refused:
            return answer
        body = _read_all(answer.raw, MAX_REFUSAL_BYTES if is_refused else MAX_ANSWER_BYTES)
        if _ALIEN.search(body):
            if not is_refused:
                raise TransientError("the answer has a document type or an encoding of its own")
            body = b""  # the status says enough
        return AWSResponse(answer.url, answer.status_code, answer.headers, _Held(body))

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._session.close()


class _Session(URLLib3Session):
    """botocore's session with other connections; it has no argument for them."""

    def __init__(self, pools: dict[str, type], **options: Any) -> None:
        super().__init__(**options)
        self._manager.pool_classes_by_scheme = pools


class _Held:
    """What a client sees in place of a connection whose body was read."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> list[bytes]:
        """Return the parts of the body."""
        return [self._body]


class _TimedReader(io.RawIOBase):
    """The side of a socket that is read, until a deadline; the head of an answer also no further than a limit."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline
        self._silence_s = connection.gettimeout()
        self._raw = connection.makefile("rb", buffering=0)
        self._head_left = MAX_HEAD_BYTES
        self.is_past_head = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Read what is there.

        Raises:
            TransientError: the deadline is past.
            StoreError: the head is too long.
            TimeoutError: nothing came for as long as the socket waits.
        """
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise self._too_late()
        self._connection.settimeout(left_s if self._silence_s is None else min(self._silence_s, left_s))
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError:
            if time.monotonic() < self._deadline:
                raise
            raise self._too_late() from None
        if not self.is_past_head:
            self._head_left -= count or 0
            if self._head_left < 0:
                raise StoreError(f"the head of the answer is longer than {MAX_HEAD_BYTES} bytes")
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()

    def _too_late(self) -> TransientError:
        return TransientError(f"the {'body' if self.is_past_head else 'head'} of the answer took too long to read")


class _TimedAnswer(HTTPResponse):
    """An answer that ends in time."""

    def __init__(self, timeout_s: float, connection: socket.socket, **options: Any) -> None:
        self._reader = _TimedReader(connection, time.monotonic() + timeout_s)
        source: Any = _Source(self._reader)
        super().__init__(source, **options)

    def begin(self) -> None:
        """Read the head."""
        super().begin()
        self._reader.is_past_head = True


class _Source:
    """What an answer needs of a socket."""

    def __init__(self, reader: _TimedReader) -> None:
        self._reader = reader

    def makefile(self, _: str) -> io.BufferedReader:
        """Return what the answer is read from."""
        return io.BufferedReader(self._reader)


def _pools(timeout_s: float) -> dict[str, type]:
    """Return the pools of connections, by scheme."""
    response_class = staticmethod(partial(_TimedAnswer, timeout_s))
    # The store decides what is answered, never who is asked: a redirect is a refusal.
    urlopen = partialmethod(HTTPConnectionPool.urlopen, redirect=False)
    pools = {}
    for scheme, pool, connection in (
        ("http", AWSHTTPConnectionPool, AWSHTTPConnection),
        ("https", AWSHTTPSConnectionPool, AWSHTTPSConnection),
    ):
        timed = type(connection.__name__, (connection,), {"response_class": response_class})
        pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": timed, "urlopen": urlopen})
    return pools


def _read_all(raw: BaseHTTPResponse, max_bytes: int) -> bytes:
    """Read a body to its end. Raises `StoreError` if it is longer than that."""
    parts: list[bytes] = []
    left = max_bytes
    # Unlike stream(), read1() takes no line of any length for the size of a chunk.
    while part := raw.read1(_SLICE_BYTES):
        left -= len(part)
        if left < 0:
            raw.close()
            raise StoreError(f"the answer is longer than {max_bytes} bytes")
        parts.append(part)
    return b"".join(parts)
