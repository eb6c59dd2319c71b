"""What a stranger's own server answers instead of an object."""

from __future__ import annotations

import gzip
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate

from templar_pl.errors import Fault
from tests.exchange.hostile.row import FORBIDDEN, HEAD, NOTHING, PAYLOAD, REFUSAL, TIMED, Answer, AnswerRow, Stage
from tests.servers.proxy import Raw, Reply

GIB, MIB = 2**30, 2**20
HOUR_S = 3600.0
DRIP_S = 0.05
"""Seconds between two bytes of a drip: so often that no silence is long."""

SILENCE_S = 4.0
"""Longer than the node of these tests bears."""

_OK = b"HTTP/1.1 200 OK\r\n"


def _stamp(ahead_s: float = 0.0) -> str:
    """Return a time from now, as a store writes it."""
    return formatdate(time.time() + ahead_s, usegmt=True)


def _drip(text: bytes) -> Iterator[bytes]:
    """Return single bytes, for ever, with a short pause before each."""
    for value in itertools.cycle(text):
        time.sleep(DRIP_S)
        yield bytes([value])


def _silence() -> Iterator[bytes]:
    time.sleep(SILENCE_S)
    yield b""


def _headers(named: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in named.items()}


def _described(stage: Stage, **headers: str) -> Reply:
    """Answer HEAD as an honest store, but for some headers, named with underscores."""
    said = {"Content-Length": str(len(stage.payload)), "Last-Modified": _stamp()}
    return Reply(200, headers=said | _headers(headers))


def _on_get(get: Callable[[Stage], Reply | Raw]) -> Answer:
    """Describe a good object to HEAD, and answer GET as told."""
    return lambda asked, stage: _described(stage) if asked.method == "HEAD" else get(stage)


def _body(of: Callable[[Stage], bytes | Iterable[bytes]], status: int = 200, **headers: str) -> Answer:
    """Answer GET with a body; without a length but one given, if it is no string of bytes."""
    return _on_get(lambda stage: Reply(status, of(stage), _headers(headers)))


def _sized(of: Callable[[Stage], Iterable[bytes]]) -> Answer:
    """Answer GET with the right length, and any body."""
    return _on_get(lambda stage: Reply(200, of(stage), {"Content-Length": str(len(stage.payload))}))


def _said(**headers: str) -> Answer:
    """Describe an object to HEAD by these headers; GET must not come."""
    return lambda asked, stage: _described(stage, **headers) if asked.method == "HEAD" else Reply(418)


def _raw(*parts: bytes, then: Callable[[], Iterable[bytes]] = tuple) -> Answer:
    """Answer everything byte by byte."""
    return lambda asked, stage: Raw(itertools.chain(parts, then()))


def _refused(body: Callable[[], bytes | Iterable[bytes]], **headers: str) -> Answer:
    return _body(lambda _: body(), 403, **headers)


def _laughs() -> bytes:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "lol">{levels}]><Error><Code>&l9;</Code></Error>'.encode()


def _bomb(stage: Stage) -> bytes:
    """Return zeros, packed a thousandfold, in the length of a payload."""
    return gzip.compress(bytes(MIB))[: len(stage.payload)]


def _elsewhere(status: int, where: str) -> AnswerRow:
    def answer(asked: object, stage: Stage) -> Reply:
        headers = {"Location": where.replace("another host", stage.elsewhere), "x-amz-bucket-region": "elsewhere"}
        return Reply(status, headers=headers)

    return AnswerRow(
        name=f"a redirect to {where}", answer=answer, reason=f"the store sends us elsewhere ({status}", reads=HEAD
    )


def _row(
    name: str, answer: Answer, fault: Fault | None, reason: str, reads: str = NOTHING, *, is_heavy: bool = False
) -> AnswerRow:
    return AnswerRow(name=name, answer=answer, fault=fault, reason=reason, reads=reads, is_heavy=is_heavy)


def _heavy(name: str, answer: Answer, reason: str, reads: str = NOTHING, fault: Fault | None = None) -> AnswerRow:
    return _row(name, answer, fault, reason, reads, is_heavy=True)


_forever = itertools.repeat
_ODD = "the answer is not that of an S3 store"

OBJECTS = [
    _row("an object of 5 GB", _said(Content_Length=str(5 * GIB)), Fault.SIZE, f"the object has {5 * GIB} bytes, must"),
    _heavy(
        "HEAD says the right size, GET sends 5 GB",
        _body(lambda _: _forever(bytes(MIB)), Content_Length=str(5 * GIB)),
        f"the object has {5 * GIB} bytes, and no more",
        fault=Fault.SIZE,
    ),
    _row(
        "GET sends a byte more than HEAD said", _body(lambda s: s.payload + b"x"), Fault.SIZE, "269 bytes, and no more"
    ),
    _row("GET sends a byte less than HEAD said", _body(lambda s: s.payload[:-1]), Fault.SIZE, "267 bytes", PAYLOAD),
    _row(
        "GET sends something else of the same size",
        _body(lambda s: b"ELSE".ljust(len(s.payload))),
        Fault.FORMAT,
        "got b'ELSE'",
        PAYLOAD,
    ),
    _row(
        "status 200 with a web page",
        _body(lambda s: b"<html>".ljust(len(s.payload)), Content_Type="text/html"),
        Fault.FORMAT,
        "got b'<htm'",
        PAYLOAD,
    ),
    _row("a part of the object", _body(lambda s: s.payload[:100], 206), Fault.SIZE, "100 bytes", PAYLOAD),
    _heavy(
        "the right length and a body that never ends",
        _sized(lambda _: _forever(b"more" * 2**16)),
        "got b'more'",
        PAYLOAD,
        Fault.FORMAT,
    ),
    _heavy(
        "a gzip bomb of the right length, to be unpacked on the way",
        _body(_bomb, Content_Encoding="gzip"),
        r"got b'\x1f\x8b",
        PAYLOAD,
        Fault.FORMAT,
    ),
    _heavy(
        "a body in chunks, without a length, that never ends",
        _body(lambda _: _forever(b"4\r\ndata\r\n"), Transfer_Encoding="chunked"),
        "the store does not say how long",
    ),
    _heavy(
        "a length of -1 and a body that never ends",
        _body(lambda _: _forever(bytes(2**16)), Content_Length="-1"),
        "the object has -1 bytes",
    ),
    _row(
        "two lengths",
        _on_get(lambda s: Raw([_OK, b"Content-Length: 268\r\nContent-Length: 9999\r\n\r\n", s.payload])),
        None,
        "unmatching values (268, 9999)",
    ),
    _row("a body that ends early", _sized(lambda s: iter([s.payload[:50]])), None, "ended after 50 of 268", PAYLOAD),
    _row(
        "a body that drips", _sized(lambda s: _drip(s.payload)), None, "the body of the answer took too long", PAYLOAD
    ),
]

TIMES = [
    _row("written an hour ago", _said(Last_Modified=_stamp(-HOUR_S)), Fault.EARLY, "before uploads were accepted"),
    _row("written in an hour", _said(Last_Modified=_stamp(HOUR_S)), Fault.LATE, "after uploads were accepted"),
    _row("no time of writing", lambda _, s: Reply(200, s.payload), None, f"{_ODD} (KeyError: 'LastModified')", HEAD),
    _row("written yesterday", _said(Last_Modified="yesterday"), None, f"{_ODD} (ValueError: yesterday)", HEAD),
    _row("written at NaN", _said(Last_Modified="nan"), None, f"{_ODD} (ValueError: nan)", HEAD),
    _row("written at infinity", _said(Last_Modified="1e999"), None, 'timezone offset for "1e999"', HEAD),
    _row("written 10^15 s after 1970", _said(Last_Modified="1" + "0" * 15), None, f'for "1{"0" * 15}"', HEAD),
    _row(
        "HEAD without a length",
        _raw(_OK, b"Last-Modified: Sun, 22 Nov 2026 16:31:54 GMT\r\n\r\n"),
        None,
        f"{_ODD} (KeyError: 'ContentLength')",
        HEAD,
    ),
    _row("HEAD with a length that is a word", _said(Content_Length="many"), None, f"{_ODD} (ValueError: 'many')", HEAD),
    _row("HEAD with a length of 5000 digits", _said(Content_Length="9" * 5000), None, "value has 5000 digits", HEAD),
    _row("HEAD with a length below 0", _said(Content_Length="-268"), Fault.SIZE, "the object has -268 bytes"),
]

HTTP = [
    _row("no HTTP at all", _raw(b"SSH-2.0-OpenSSH_9.6\r\n"), None, "BadStatusLine('SSH-2.0", HEAD),
    _row("a connection that ends without an answer", _raw(), None, "Remote end closed connection", HEAD),
    _row("a connection on which nothing comes", lambda _, __: Raw(_silence()), None, "the store fell silent", HEAD),
    _row("status 999", lambda _, __: Reply(999), None, "the store answered 999", HEAD),
    _heavy(
        "a status line that never ends", _raw(then=lambda: _forever(b"HTTP" * 2**14)), "when reading status line", HEAD
    ),
    _heavy("a header of 10 MB", _raw(_OK, b"x: ", b"y" * 10 * MIB, b"\r\n\r\n"), "when reading header line", HEAD),
    _heavy(
        "100 000 headers",
        _raw(_OK, b"".join(b"x-%d: y\r\n" % n for n in range(100_000)), b"\r\n"),
        "got more than 100 headers",
        HEAD,
    ),
    _heavy(
        "99 headers of 64 KB",
        _raw(_OK, *(b"x-%d: %s\r\n" % (n, b"y" * 65000) for n in range(99)), b"\r\n"),
        "the head of the answer is longer than 131072 bytes",
        HEAD,
    ),
    _heavy(
        "`100 Continue` that never ends",
        _raw(then=lambda: _forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 99)),
        "the head of the answer is longer than 131072 bytes",
        HEAD,
    ),
    _row(
        "headers that drip", _raw(_OK, then=lambda: _drip(b"a: b\r\n")), None, "the head of the answer took too", HEAD
    ),
    _elsewhere(301, "http://another host/"),
    _elsewhere(302, "http://169.254.169.254/latest/meta-data/"),
    _elsewhere(303, "ftp://another host/"),
    _elsewhere(307, "file:///etc/passwd"),
    _elsewhere(308, "//another host/"),
]

REFUSALS = [
    _heavy("refused, with a billion laughs", _refused(_laughs), FORBIDDEN, REFUSAL),
    _heavy(
        "refused, with a gzip bomb",
        _refused(lambda: gzip.compress(bytes(8 * MIB)), Content_Encoding="gzip"),
        FORBIDDEN,
        REFUSAL,
    ),
    _row("refused, with a web page", _refused(lambda: b"<!DOCTYPE html><html><p>no"), None, FORBIDDEN, REFUSAL),
    _heavy(
        "refused, with XML that never ends",
        _refused(lambda: itertools.chain([b"<Error><Code>"], _forever(b"x" * 2**16))),
        "the answer is longer than 65536 bytes",
        REFUSAL,
    ),
    _heavy(
        "refused, with XML in 9000 levels",
        _refused(lambda: b"<a>" * 9000 + b"</a>" * 9000),
        f"{_ODD} (RecursionError",
        REFUSAL,
    ),
    _row(
        "refused, with XML for a code",
        _refused(lambda: b"<Error><Code><a>b</a></Code></Error>"),
        None,
        f"{_ODD} (TypeError",
        REFUSAL,
    ),
    _row(
        "refused, with a code of 60 000 letters",
        _refused(lambda: b"<Error><Code>%s</Code></Error>" % (b"c" * 60_000)),
        None,
        f"({'c' * 100})",
        REFUSAL,
    ),
    _row(
        "refused, with a code that forges a line of the log",
        _refused(lambda: b"<Error><Code>no&#10;WARNING all is well</Code></Error>"),
        None,
        "(no?WARNING all is well)",
        REFUSAL,
    ),
    _heavy(
        "refused, with a chunk whose size never ends",
        _refused(lambda: _forever(b"1" * 2**16), Transfer_Encoding="chunked"),
        "when reading chunk size",
        REFUSAL,
    ),
    _heavy(
        "refused, with trailers that never end",
        _refused(lambda: itertools.chain([b"0\r\n"], _forever(b"x: y\r\n" * 999)), Transfer_Encoding="chunked"),
        "the body of the answer took too long",
        TIMED,
    ),
    _row(
        "refused, drip by drip", _refused(lambda: _drip(b"<a/>")), None, "the body of the answer took too long", REFUSAL
    ),
]

ANSWERS = [*OBJECTS, *TIMES, *HTTP, *REFUSALS]
