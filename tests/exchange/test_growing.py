"""An object that is made while it is uploaded."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import StoreError, TransientError
from templar_pl.exchange.growing import GrowingBody

SOON_S = 60.0  # never reached where a test succeeds


def read_all(body: GrowingBody, size: int) -> bytes:
    parts = []
    while part := body.read(size):
        parts.append(part)
    return b"".join(parts)


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 70))
def test_what_is_read_is_what_is_appended_in_any_portions(parts: list[bytes], size: int) -> None:
    whole = b"".join(parts)
    body = GrowingBody(len(whole))
    body.rewind(time.monotonic() + SOON_S)

    writer = threading.Thread(target=lambda: [body.append(part) for part in parts])
    writer.start()
    first = read_all(body, size)
    writer.join()
    body.rewind(time.monotonic() + SOON_S)

    assert first == read_all(body, size) == body.whole() == whole
    assert body.is_complete


def test_reading_waits_for_bytes_and_takes_what_is_there() -> None:
    body = GrowingBody(6, b"ab")
    body.rewind(time.monotonic() + SOON_S)
    assert body.read(100) == b"ab"
    assert not body.is_complete

    threading.Timer(0.05, body.append, [b"cdef"]).start()

    assert body.read() == b"cdef"
    assert body.read() == b""


def test_reading_ends_at_the_deadline_also_if_bytes_are_there() -> None:
    body = GrowingBody(3, b"a")
    body.rewind(time.monotonic() + 0.05)
    assert body.read() == b"a"
    with pytest.raises(TransientError, match="1 of 3 bytes were sent, 1 made"):
        body.read()

    body.append(b"bc")

    with pytest.raises(TransientError, match="took too long to send"):
        body.read()


def test_an_object_that_is_given_up_ends_readers_and_waiters() -> None:
    body = GrowingBody(3, b"a")
    body.rewind(time.monotonic() + SOON_S)
    threading.Timer(0.05, body.give_up).start()

    with pytest.raises(StoreError, match="given up"):
        body.whole()
    assert body.read() == b"a"
    with pytest.raises(StoreError, match="given up"):
        body.read()


def test_more_bytes_than_announced_are_refused() -> None:
    body = GrowingBody(3, b"ab")

    with pytest.raises(ValueError, match="the object has 3 bytes, got 4"):
        body.append(b"cd")
