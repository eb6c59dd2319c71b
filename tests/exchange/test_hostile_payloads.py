"""Whatever a stranger puts where its payload should be is skipped, for its own reason, in time and for no memory.

The rows are in `tests/exchange/hostile/`; they are printed in docs/hostile.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from templar_pl.errors import PayloadError, StoreError
from templar_pl.exchange.gather import Gathered
from templar_pl.protocol.payload import Payload
from tests.exchange.hostile.answer_rows import ANSWERS
from tests.exchange.hostile.cast import HONEST, KEYS, STRANGER, WINDOW, Cast, make_cast
from tests.exchange.hostile.payload_rows import ADDRESSES, HEADER, LEGAL, OBJECTS, SIGNATURES
from tests.exchange.hostile.row import PAYLOAD, TIMED, AddressRow, AnswerRow, PayloadRow, Row
from tests.exchange.hostile.section_rows import SECTIONS
from tests.exchange.hostile.stage import AT_ONCE_S, DEADLINE_S, NODE, addresses, gathered_from, put_payloads, server
from tests.exchange.hostile.table import PAGE, SECTIONS_OF_PAGE, SHARED, page
from tests.servers.nodes import IMPATIENT, credentials, node_buckets
from tests.servers.seaweed import S3Server

PAYLOADS = [*OBJECTS, *HEADER, *SIGNATURES, *SECTIONS]
HEAVY = [row for row in ANSWERS if row.is_heavy]
SLACK_S = 1.0
MAX_GROWTH_KIB = 8 * 1024
BUFFERS = 16 * 2**20  # bytes: several times what fits into those of a connection


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def cast(folder: str) -> Cast:
    return make_cast(Path(folder))


@pytest.fixture
def real_url(seaweed_server: S3Server) -> str:
    return seaweed_server.endpoint_url


@pytest.fixture
def elsewhere() -> Iterator[socket.socket]:
    """Return a socket to which nobody must connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        yield listener


def check(row: Row, gathered: Gathered[Payload], size: int) -> None:
    """See that the stranger was skipped as the row says, and that the honest peer was not."""
    assert list(gathered.payloads) == [HONEST]
    error = gathered.skipped[STRANGER]
    assert row.reason in str(error)
    if row.fault is None:
        assert isinstance(error, StoreError)
    else:
        assert isinstance(error, PayloadError)
        assert (error.fault, error.peer, error.window) == (row.fault, STRANGER, WINDOW)
    assert gathered.bytes_down - size <= (size if row.reads == PAYLOAD else 0)


@pytest.mark.parametrize("row", PAYLOADS, ids=lambda row: row.name)
def test_a_hostile_object_is_skipped_with_its_reason(row: PayloadRow, cast: Cast, real_url: str) -> None:
    cast = replace(cast, form=row.form)
    put_payloads(cast, real_url, row.make(cast))
    hashes = {STRANGER: hashlib.sha256(cast.payload()).digest()} if row.agreed else None

    start = time.monotonic()
    gathered = cast.gather(
        node_buckets("me", real_url), addresses(real_url), deadline_s=DEADLINE_S, poll_s=AT_ONCE_S, hashes=hashes
    )

    assert time.monotonic() - start < DEADLINE_S + SLACK_S
    check(row, gathered, cast.size)


@pytest.mark.parametrize("form", ["one bit", "levels", "compact", "compact levels"])
def test_the_payload_that_is_broken_in_so_many_ways_is_a_good_one(form: str, cast: Cast, real_url: str) -> None:
    cast = replace(cast, form=form)
    put_payloads(cast, real_url, cast.payload())

    assert list(gathered_from(cast, real_url).payloads) == [HONEST, STRANGER]


@pytest.mark.parametrize("name", LEGAL)
def test_what_only_scores_can_judge_is_taken_as_it_says(name: str, cast: Cast, real_url: str) -> None:
    data = LEGAL[name](cast)
    assert data is not None
    put_payloads(cast, real_url, data)

    taken = gathered_from(cast, real_url).payloads[STRANGER]

    header = taken.header
    assert data[84:148] == header.pages + header.fingerprint
    assert (taken.header.uid, taken.header.window) == (STRANGER, WINDOW)


@pytest.mark.parametrize("row", ADDRESSES, ids=lambda row: row.name)
def test_a_hostile_address_is_skipped_with_its_reason(row: AddressRow, cast: Cast, real_url: str) -> None:
    put_payloads(cast, real_url, cast.payload())
    address = row.make(credentials("other", real_url).address)

    start = time.monotonic()
    gathered = cast.gather(
        node_buckets("me", real_url),
        addresses(real_url) | {STRANGER: address},
        deadline_s=DEADLINE_S,
        poll_s=AT_ONCE_S,
    )

    assert time.monotonic() - start < DEADLINE_S + SLACK_S
    check(row, gathered, cast.size)
    assert len(address) < 64 or address[64:] not in str(gathered.skipped[STRANGER])


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row.name)
def test_a_hostile_server_is_skipped_with_its_reason(
    row: AnswerRow, cast: Cast, upstream: str, elsewhere: socket.socket
) -> None:
    put_payloads(cast, upstream, None)
    host, port = elsewhere.getsockname()

    with server(cast, upstream, row, f"{host}:{port}") as (log, stage):
        start = time.monotonic()
        gathered = gathered_from(cast, log.url)
        took_s = time.monotonic() - start

    assert took_s < NODE.request_timeout_s + SLACK_S  # not the deadline: what drips is given up before
    check(row, gathered, cast.size)
    assert row.reads == TIMED or stage.sent < BUFFERS
    with pytest.raises(BlockingIOError):
        elsewhere.accept()


def test_what_fills_the_memory_of_others_does_not_fill_ours(folder: str, cast: Cast, upstream: str) -> None:
    put_payloads(cast, upstream, cast.payload())
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(server(cast, upstream, row))[0].url for row in HEAVY]
        reader = [sys.executable, "-m", "tests.exchange.hostile.reader", folder, upstream, *urls]
        done = subprocess.run(reader, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert [row.name for row, (reason, _) in zip(HEAVY, measured, strict=True) if row.reason not in reason] == []
    assert [row.name for row, (_, kib) in zip(HEAVY, measured, strict=True) if kib > MAX_GROWTH_KIB] == []


def test_a_stranger_that_holds_requests_up_holds_neither_the_gather_nor_its_threads(cast: Cast, upstream: str) -> None:
    put_payloads(cast, upstream, None)
    row = next(row for row in ANSWERS if row.name == "headers that drip")
    before = set(threading.enumerate())

    with server(cast, upstream, row) as (log, _):
        buckets = node_buckets("me", log.url, IMPATIENT)
        buckets.of(addresses(log.url)[HONEST]).head(KEYS[HONEST])  # what making a client takes is no stranger's doing
        start = time.monotonic()
        gathered = cast.gather(buckets, addresses(log.url), deadline_s=0.5, poll_s=AT_ONCE_S)
        took_s = time.monotonic() - start
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("gather-"):
                thread.join(IMPATIENT.request_timeout_s + SLACK_S)
                assert not thread.is_alive()

    assert took_s < 0.5 + SLACK_S
    assert list(gathered.payloads) == [HONEST]
    assert "did not answer" in str(gathered.skipped[STRANGER])


def test_every_row_has_a_reason_of_its_own() -> None:
    rows = [row for part in SECTIONS_OF_PAGE.values() for row in part]
    shared = [reason for reason, count in Counter(_check_of(row) for row in rows).items() if count > 1]

    assert {reason for _, reason in shared} == set(SHARED)
    assert len(rows) == len({row.name for row in rows}) > 30


def _check_of(row: Row) -> tuple[str, str]:
    """Return what stops a row; the two ways to write a body have their own checks in the same words."""
    return (row.form if isinstance(row, PayloadRow) else ""), row.reason


def test_the_page_says_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.exchange.hostile.table"
