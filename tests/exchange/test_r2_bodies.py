"""Bodies of objects that lie about their length, trickle, or end early."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from templar_pl.errors import StoreError
from templar_pl.exchange.r2_options import R2Options
from tests.servers.nodes import IMPATIENT, bucket_at
from tests.servers.proxy import Reply, first, proxy

SLOW_BYTES = 24 * 2**20  # several times what the buffers of a connection take in


def served(size: int, body: Iterator[bytes]) -> Reply:
    return Reply(200, body, {"Content-Length": str(size), "Last-Modified": "Sun, 22 Nov 2026 16:31:54 GMT"})


def test_of_a_body_longer_than_promised_no_more_than_promised_is_taken() -> None:
    with proxy("", lambda _: served(4, iter([b"data and more"]))) as log:
        assert bucket_at(log.url).get("a", max_bytes=100) == b"data"


def test_of_a_chunked_body_no_more_than_promised_is_taken() -> None:
    headers = {"Content-Length": "4", "Transfer-Encoding": "chunked"}
    with proxy("", lambda _: Reply(200, iter([b"d\r\ndata and more\r\n0\r\n\r\n"]), headers)) as log:
        assert bucket_at(log.url).get("a", max_bytes=100) == b"data"


def test_a_body_without_a_length_is_refused() -> None:
    headers = {"Transfer-Encoding": "chunked"}
    with (
        proxy("", lambda _: Reply(200, iter([b"4\r\ndata\r\n0\r\n\r\n"]), headers)) as log,
        pytest.raises(StoreError, match="how long"),
    ):
        bucket_at(log.url).get("a", max_bytes=100)


def test_a_body_that_ends_early_is_read_again(upstream: str) -> None:
    bucket_at(upstream).put("a", b"data")
    with proxy(upstream, first(1, lambda _: served(4, iter([b"da"])))) as log:
        assert bucket_at(log.url).get("a", max_bytes=100) == b"data"

    assert len(log.requests) == 2


def test_an_object_that_is_too_large_is_not_downloaded() -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            sent.append(2**20)
            yield bytes(2**20)

    with (
        proxy("", lambda _: served(5 * 2**30, endless())) as log,
        pytest.raises(StoreError, match=f"{5 * 2**30} bytes, and no more than 10 are allowed"),
    ):
        bucket_at(log.url).get("a", max_bytes=10)

    assert len(log.requests) == 1
    assert sum(sent) < 50 * 2**20  # what fits into the buffers of a connection that is closed unread


def test_a_body_that_trickles_is_given_up_at_the_deadline() -> None:
    def trickle() -> Iterator[bytes]:
        while True:
            yield b"x"
            time.sleep(0.05)

    with proxy("", lambda _: served(1000, trickle())) as log:
        start = time.monotonic()
        with pytest.raises(StoreError, match="took too long"):
            bucket_at(log.url, IMPATIENT).get("a", max_bytes=1000)
        took_s = time.monotonic() - start

    assert 1.0 <= took_s < 4.0


@contextlib.contextmanager
def slow_reader(bytes_per_s: float) -> Iterator[str]:
    """Run a server that takes the bodies of puts no faster than that."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            with connection.makefile("rb") as lines:
                headers = list(itertools.takewhile(lambda line: line != b"\r\n", lines))
                left = next(int(line.split()[1]) for line in headers if line.lower().startswith(b"content-length"))
                while left and (part := lines.read1(2**17)):
                    left -= len(part)
                    time.sleep(len(part) / bytes_per_s)
            connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "encrypted"\r\nContent-Length: 0\r\n\r\n')
            connection.recv(2**16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SLOW_BYTES)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join(10)


def test_a_body_may_take_longer_than_any_silence_is_borne() -> None:
    options = R2Options(connect_timeout_s=0.7, read_timeout_s=1.5, request_timeout_s=60, retry_for_s=0)

    with slow_reader(12 * 2**20) as url:
        start = time.monotonic()
        bucket_at(url, options).put("a", bytes(SLOW_BYTES))

    assert time.monotonic() - start > 1.5


def test_a_body_that_is_taken_too_slowly_is_given_up_at_the_deadline() -> None:
    with slow_reader(2**20) as url:
        start = time.monotonic()
        with pytest.raises(StoreError, match="took too long to send"):
            bucket_at(url, replace(IMPATIENT, retry_for_s=0)).put("a", bytes(SLOW_BYTES))
        took_s = time.monotonic() - start

    assert took_s < 10.0
