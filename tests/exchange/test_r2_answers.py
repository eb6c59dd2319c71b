"""Answers that no S3 store gives: each ends in an error of the store, soon, whatever it is made of."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from templar_pl.errors import StoreError
from templar_pl.exchange.r2_http import MAX_ANSWER_BYTES, MAX_HEAD_BYTES, MAX_REFUSAL_BYTES
from templar_pl.exchange.r2_store import MAX_PAGES, R2Bucket
from tests.servers.nodes import IMPATIENT, bucket_at
from tests.servers.proxy import Raw, Reply, proxy

AT_ONCE = replace(IMPATIENT, retry_for_s=0)
STAMP = "Sun, 22 Nov 2026 16:31:54 GMT"
BUFFERS = 16 * 2**20  # several times what fits into those of a connection

texts = st.sampled_from(
    [
        STAMP,
        "",
        "nan",
        "inf",
        "-1",
        "1e999",
        "10" * 8,
        "9" * 5000,
        "0001-01-01",
        "yesterday",
        "elsewhere",
        "gzip",
        "\x85",
    ]
)
headers = st.dictionaries(
    st.sampled_from(
        [
            "Content-Length",
            "Last-Modified",
            "ETag",
            "Location",
            "Content-Encoding",
            "x-amz-bucket-region",
            "Date",
            "x-amz-meta-writer",
            "x-amz-missing-meta",
            "x-amz-delete-marker",
            "x-amz-mp-parts-count",
            "Content-Type",
        ]
    ),
    texts,
    max_size=4,
)
tags = st.sampled_from(
    [
        "Error",
        "Code",
        "Region",
        "ListBucketResult",
        "IsTruncated",
        "Contents",
        "Key",
        "Size",
        "LastModified",
        "EncodingType",
    ]
)
xml = st.recursive(
    st.sampled_from(["", "a", "true", "&l;", "<", "PermanentRedirect", "AuthorizationHeaderMalformed", "\x00", "%"]),
    lambda inner: st.builds(lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>", tags, st.lists(inner, max_size=3)),
    max_leaves=8,
)
replies = st.builds(
    lambda status, text, more: Reply(status, [text.encode()], more),  # then the connection ends
    st.sampled_from([200, 200, 204, 206, 301, 304, 307, 400, 403, 404, 500, 999]),
    xml,
    headers,
)


def calls(bucket: R2Bucket) -> list[Callable[[], object]]:
    return [
        lambda: bucket.head("a"),
        lambda: bucket.get("a", max_bytes=10),
        lambda: list(bucket.list("")),
        lambda: bucket.put("a", b"data"),
        lambda: bucket.put_once("a", b"data"),
        lambda: bucket.delete(["a"]),
    ]


@dataclass
class Parrot:
    """A server that always says the same."""

    url: str = ""
    reply: Reply = field(default_factory=lambda: Reply(200))


@pytest.fixture(scope="module")
def parrot() -> Iterator[Parrot]:
    found = Parrot()
    with proxy("", lambda _: found.reply) as log:
        found.url = log.url
        yield found


@given(reply=replies)
@example(reply=Reply(403, b"<a>" * 9000 + b"</a>" * 9000))
@example(reply=Reply(403, b"<Error><Code><a>b</a></Code></Error>"))
@example(reply=Reply(200, b"<ListBucketResult><IsTruncated/><IsTruncated/></ListBucketResult>"))
@example(reply=Reply(200, b"", {"Last-Modified": "1e999"}))
def test_any_answer_is_taken_or_is_an_error_of_the_store(parrot: Parrot, reply: Reply) -> None:
    parrot.reply = reply

    for call in calls(bucket_at(parrot.url, AT_ONCE)):
        with suppress(StoreError):
            call()


def test_an_answer_that_lacks_a_field_says_so() -> None:
    with (
        proxy("", lambda _: Reply(200, b"data")) as log,
        pytest.raises(StoreError, match=r"not that of an S3 store \(KeyError: 'LastModified'\)"),
    ):
        bucket_at(log.url, AT_ONCE).head("a")


def test_a_length_below_zero_is_refused_before_anything_is_read() -> None:
    with (
        proxy("", lambda _: Reply(200, itertools.repeat(bytes(2**16)), {"Content-Length": "-1"})) as log,
        pytest.raises(StoreError, match="has -1 bytes"),
    ):
        bucket_at(log.url, AT_ONCE).get("a", max_bytes=10)


def drip() -> Iterator[bytes]:
    while True:
        time.sleep(0.05)
        yield b"x"


SLOW = {
    "head": lambda _: Raw(itertools.chain([b"HTTP/1.1 200 OK\r\nx: "], drip())),
    "body": lambda _: Reply(403, drip()),
}


@pytest.mark.parametrize("part", SLOW)
def test_an_answer_that_drips_is_given_up_at_the_deadline(part: str) -> None:
    with proxy("", SLOW[part]) as log:
        start = time.monotonic()
        with pytest.raises(StoreError, match=f"the {part} of the answer took too long"):
            bucket_at(log.url, AT_ONCE).get("a", max_bytes=10)

    assert 1.0 <= time.monotonic() - start < 3.0


def endless(sent: list[int], part: bytes) -> Iterator[bytes]:
    while True:
        yield part
        sent.append(len(part))


@pytest.mark.parametrize(("status", "limit"), [(403, MAX_REFUSAL_BYTES), (200, MAX_ANSWER_BYTES)])
def test_an_answer_that_never_ends_is_read_up_to_a_limit(status: int, limit: int) -> None:
    sent: list[int] = []

    with (
        proxy("", lambda _: Reply(status, endless(sent, bytes(2**16)))) as log,
        pytest.raises(StoreError, match=f"longer than {limit} bytes"),
    ):
        list(bucket_at(log.url, AT_ONCE).list(""))

    assert sum(sent) < limit + BUFFERS


def test_a_listing_that_never_ends_is_given_up() -> None:
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"
        b"</ListBucketResult>"
    )

    with (
        proxy("", lambda _: Reply(200, page)) as log,
        pytest.raises(StoreError, match=r"cannot list run.*more than 200 pages"),
    ):
        list(bucket_at(log.url, AT_ONCE).list("run"))

    assert len(log.requests) == MAX_PAGES


LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l "laugh">]><Error><Code>&l;</Code></Error>'
HIDDEN = "<Error><Code>laugh</Code></Error>"


@pytest.mark.parametrize(
    "body",
    [LAUGHS.encode(), LAUGHS.encode("utf-16"), b"<?xml version='1.0' encoding='cp037'?>" + HIDDEN.encode("cp037")],
)
def test_entities_of_a_strangers_own_are_never_resolved(body: bytes) -> None:
    with proxy("", lambda asked: Reply(403 if asked.path.endswith("/a") else 200, body)) as log:
        bucket = bucket_at(log.url, AT_ONCE)
        with pytest.raises(StoreError, match=r"was used for \(403\)"):
            bucket.get("a", max_bytes=10)
        with pytest.raises(StoreError, match="a document type or an encoding of its own"):
            list(bucket.list(""))


def test_a_head_that_never_ends_is_read_up_to_a_limit() -> None:
    sent: list[int] = []

    with (
        proxy("", lambda _: Raw(endless(sent, b"HTTP/1.1 100 Continue\r\n\r\n" * 100))) as log,
        pytest.raises(StoreError, match=f"the head of the answer is longer than {MAX_HEAD_BYTES} bytes"),
    ):
        bucket_at(log.url, AT_ONCE).head("a")

    assert sum(sent) < MAX_HEAD_BYTES + BUFFERS


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_store_that_sends_us_elsewhere_is_not_followed(status: int) -> None:
    with (
        proxy("", lambda _: Reply(200, b"data", {"Last-Modified": STAMP})) as elsewhere,
        proxy("", lambda _: Reply(status, headers={"Location": elsewhere.url})) as log,
        pytest.raises(StoreError, match=rf"sends us elsewhere \({status}"),
    ):
        bucket_at(log.url, AT_ONCE).get("a", max_bytes=10)

    assert elsewhere.connections == 0


def test_what_a_store_says_cannot_forge_a_line_of_a_log() -> None:
    body = b"<Error><Code>x&#10;WARNING all is well&#9;</Code></Error>"

    with proxy("", lambda _: Reply(403, body)) as log, pytest.raises(StoreError, match=r"x\?WARNING") as caught:
        bucket_at(log.url, AT_ONCE).get("a", max_bytes=10)

    assert str(caught.value).isprintable()


def test_connections_are_used_again_after_answers_of_every_kind() -> None:
    def script(asked: object) -> Reply:
        return next(answers)

    answers = itertools.cycle([Reply(200, b"data", {"Last-Modified": STAMP}), Reply(403, b"<Error/>"), Reply(200, b"")])
    with proxy("", script) as log:
        for call in calls(bucket_at(log.url, AT_ONCE)) * 3:
            with suppress(StoreError):
                call()

    assert len(log.requests) >= 18
    assert log.connections == 1
