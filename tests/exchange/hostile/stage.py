"""Where the cast meets: a server that is honest with one peer's bucket and hostile with the other's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from templar_pl.exchange.gather import Gathered
from templar_pl.exchange.r2_options import R2Options
from templar_pl.protocol.payload import Payload
from templar_pl.units import Uid
from tests.exchange.hostile.cast import HONEST, KEYS, STRANGER, Cast
from tests.exchange.hostile.row import AnswerRow, Stage
from tests.servers.nodes import credentials, node_buckets
from tests.servers.proxy import Answer, Asked, Log, passed_on, proxy

NAMES = {HONEST: "you", STRANGER: "other"}
"""Whose buckets the peers have on the servers of the tests."""

DEADLINE_S = 5.0
"""Seconds of a gather, longer than any single request may take."""

AT_ONCE_S = 10.0
"""Seconds between two polls: after the deadline, so that the first answer of a peer is its last."""

NODE = R2Options(connect_timeout_s=1.5, read_timeout_s=1.5, request_timeout_s=2.0, retry_for_s=0)
"""How patient the node of these tests is: not at all with drips, and enough with a busy machine."""

_AN_HOUR_AROUND_S = 1800.0


def addresses(url: str) -> dict[Uid, str]:
    """Return the addresses of both peers' buckets."""
    return {uid: credentials(name, url).address.to_text() for uid, name in NAMES.items()}


def put_payloads(cast: Cast, url: str, stranger: bytes | None) -> None:
    """Put the honest payload into its bucket, and what the stranger has into the stranger's."""
    node_buckets(NAMES[HONEST], url).own().put(KEYS[HONEST], cast.honest_payload())
    bucket = node_buckets(NAMES[STRANGER], url).own()
    if stranger is None:
        bucket.delete([KEYS[STRANGER]])
    else:
        bucket.put(KEYS[STRANGER], stranger)


def gathered_from(cast: Cast, url: str) -> Gathered[Payload]:
    """Gather from both peers, by the server's clock."""
    now = time.time()
    interval = (now - _AN_HOUR_AROUND_S, now + _AN_HOUR_AROUND_S)
    buckets = node_buckets("me", url, NODE)
    return cast.gather(buckets, addresses(url), deadline_s=DEADLINE_S, poll_s=AT_ONCE_S, interval=interval)


@contextlib.contextmanager
def server(cast: Cast, upstream: str, row: AnswerRow, elsewhere: str = "") -> Iterator[tuple[Log, Stage]]:
    """Run a server that answers for the stranger's bucket as the row says, and for all others as `upstream` does."""
    stage = Stage(cast.payload(), elsewhere)
    account = credentials(NAMES[STRANGER], "").address.account

    def script(asked: Asked) -> Answer:
        return stage.counted(row.answer(asked, stage)) if account in asked.path else passed_on(asked)

    with proxy(upstream, script) as log:
        yield log, stage
