"""What only a store behind a network does: answers that are lost, bodies that lie, servers that stall."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from templar_pl.errors import ConfigError, ObjectMissingError, StoreError
from templar_pl.exchange import credentials as names
from templar_pl.exchange.credentials import R2Credentials, RunStore, run_store_from
from templar_pl.exchange.r2_options import R2Options
from templar_pl.exchange.r2_store import R2Buckets
from tests.servers.nodes import IMPATIENT, bucket_at, credentials, empty, node_buckets
from tests.servers.proxy import Asked, Reply, error, first, on, passed_on, proxy
from tests.servers.seaweed import S3Server


@pytest.mark.parametrize(
    ("status", "code"), [(429, "TooManyRequests"), (500, "InternalError"), (503, "SlowDown"), (400, "RequestTimeout")]
)
def test_a_store_that_is_busy_is_asked_again(upstream: str, status: int, code: str) -> None:
    with proxy(upstream, first(2, error(status, code))) as log:
        bucket_at(log.url).put("a", b"data")

    assert log.methods() == ["PUT"] * 3
    assert all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(log.times))
    assert bucket_at(upstream).get("a", max_bytes=10) == b"data"


def test_a_broken_connection_is_made_again(upstream: str) -> None:
    bucket_at(upstream).put("a", b"data")

    with proxy(upstream, first(2, lambda _: None)) as log:
        assert bucket_at(log.url).get("a", max_bytes=10) == b"data"

    assert len(log.requests) == 3


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "InvalidRequest"), (501, "NotImplemented")])
def test_what_another_try_cannot_mend_is_tried_once(status: int, code: str) -> None:
    with proxy("", error(status, code)) as log, pytest.raises(StoreError, match=code):
        bucket_at(log.url).put("a", b"")

    assert len(log.requests) == 1


def test_a_store_that_stays_busy_is_given_up_in_time() -> None:
    with proxy("", error(503, "SlowDown")) as log:
        start = time.monotonic()
        with pytest.raises(StoreError, match="503 SlowDown"):
            bucket_at(log.url, IMPATIENT).put("a", b"")
        took_s = time.monotonic() - start

    assert took_s < 3.0
    assert 2 <= len(log.requests) <= 8


def test_pauses_between_tries_grow_and_differ() -> None:
    options = R2Options(retry_for_s=2.0, retry_pause_s=0.1)
    with proxy("", error(503, "SlowDown")) as log, pytest.raises(StoreError):
        bucket_at(log.url, options).head("a")
    pauses = [later - earlier for earlier, later in itertools.pairwise(log.times)]

    assert min(pauses) >= 0.1
    assert pauses[-1] > 1.5 * pauses[0]


def test_a_put_once_whose_answer_was_lost_knows_that_it_won(upstream: str) -> None:
    with proxy(upstream, on("PUT", lambda asked: asked.forward(asked.body) and None)) as log:
        assert bucket_at(log.url).put_once("a", b"mine") is True

    assert log.methods() == ["PUT", "PUT", "HEAD"]
    assert bucket_at(upstream).get("a", max_bytes=10) == b"mine"


def test_a_put_once_that_was_lost_on_its_way_knows_that_another_won(upstream: str) -> None:
    def overtake(_: Asked) -> None:
        # The very same bytes: content alone could not tell who wrote them.
        assert bucket_at(upstream).put_once("a", b"same") is True

    with proxy(upstream, on("PUT", overtake)) as log:
        assert bucket_at(log.url).put_once("a", b"same") is False


def test_a_put_once_against_an_object_that_goes_away_writes_it(upstream: str) -> None:
    with proxy(upstream, on("PUT", error(409, "ConditionalRequestConflict"))) as log:
        assert bucket_at(log.url).put_once("a", b"mine") is True

    assert log.methods() == ["PUT", "HEAD", "PUT"]


def test_what_is_damaged_on_its_way_up_is_sent_again(seaweed_server: S3Server) -> None:
    empty(seaweed_server.endpoint_url)
    with proxy(seaweed_server.endpoint_url, on("PUT", lambda asked: asked.forward(b"dataX"))) as log:
        bucket_at(log.url).put("a", b"data0")

    assert log.methods() == ["PUT", "PUT"]
    assert bucket_at(seaweed_server.endpoint_url).get("a", max_bytes=10) == b"data0"


def test_a_store_that_keeps_less_than_was_sent_is_found_out() -> None:
    def forgetful(asked: Asked) -> Reply:
        if asked.method == "PUT":
            return Reply(200, headers={"ETag": f'"{hashlib.md5(asked.body[:-1]).hexdigest()}"'})  # noqa: S324 - as S3
        return Reply(200, headers={"Content-Length": "3", "Last-Modified": "Sun, 22 Nov 2026 16:31:54 GMT"})

    with proxy("", forgetful) as log, pytest.raises(StoreError, match="has 3 bytes after 4 were written"):
        bucket_at(log.url, IMPATIENT).put("a", b"data")


def test_the_tag_of_an_encrypted_object_is_no_reason_to_send_it_again() -> None:
    def encrypting(asked: Asked) -> Reply:
        length = {"Content-Length": "4"} if asked.method == "HEAD" else {}
        return Reply(200, headers={"ETag": '"0123456789abcdef0123456789abcdef"', **length})

    with proxy("", encrypting) as log:
        bucket_at(log.url).put("a", b"data")

    assert log.methods() == ["PUT", "HEAD"]


def test_a_store_that_falls_silent_is_given_up_in_time() -> None:
    is_over = threading.Event()

    def silent(_: Asked) -> None:
        is_over.wait(10)

    with proxy("", silent) as log:
        start = time.monotonic()
        with pytest.raises(StoreError, match="fell silent"):
            bucket_at(log.url, IMPATIENT).head("a")
        took_s = time.monotonic() - start
        is_over.set()

    assert took_s < 10.0


def test_a_store_that_is_not_there_is_said_to_be_out_of_reach() -> None:
    with proxy("", error(500, "")) as log:
        url = log.url

    with pytest.raises(StoreError, match=r"no connection.*TEMPLAR_R2_ENDPOINT_URL"):
        bucket_at(url, IMPATIENT).head("a")


def test_answers_that_make_no_sense_are_the_fault_of_the_store() -> None:
    page = Reply(200, b"<html>Welcome to our hotel", {"Content-Type": "text/html", "Last-Modified": "yesterday"})
    with proxy("", lambda _: page) as log:
        bucket = bucket_at(log.url, IMPATIENT)
        with pytest.raises(StoreError):
            list(bucket.list(""))
        with pytest.raises(StoreError, match="not that of an S3 store"):
            bucket.head("a")


def test_a_clock_that_differs_is_said_to_differ_by_how_much() -> None:
    headers = {"Date": "Sun, 22 Nov 2020 16:31:54 GMT"}
    with (
        proxy("", error(403, "RequestTimeTooSkewed", headers)) as log,
        pytest.raises(StoreError, match=r"clock is \d{7,} s ahead of the store's"),
    ):
        bucket_at(log.url).put("a", b"")


@pytest.mark.parametrize(
    ("date", "answered_at"),
    [
        ("Sun, 22 Nov 2026 16:31:54 GMT", 1795365114.0),
        ("Sun, 22 Nov 2026 16:31:54", 1795365114.0),
        ("Sun, 22 Nov 2026 17:31:54 +0100", 1795365114.0),
        ("yesterday", None),
        ("Sun, 99 Nov 2026 16:31:54 GMT", None),
        ("Sun, 22 Nov 99999999999999999999 16:31:54 GMT", None),
        (None, None),
    ],
)
def test_the_stores_time_is_taken_from_its_date_if_that_is_one(date: str | None, answered_at: float | None) -> None:
    headers = {} if date is None else {"Date": date}
    with proxy("", error(404, "NoSuchKey", headers)) as log:
        bucket = bucket_at(log.url)
        for call in (lambda: bucket.head("a"), lambda: bucket.get("a", max_bytes=1)):
            with pytest.raises(ObjectMissingError) as caught:
                call()
            assert caught.value.answered_at == answered_at


def test_a_missing_bucket_is_told_from_a_missing_object(upstream: str) -> None:
    mine, nobodys = bucket_at(upstream), node_buckets("nobody", upstream).own()

    with pytest.raises(ObjectMissingError, match="no such object"):
        mine.get("a", max_bytes=1)
    for call in (lambda: nobodys.get("a", max_bytes=1), lambda: nobodys.put("a", b""), nobodys.check):
        with pytest.raises(StoreError, match=r"no such bucket.*TEMPLAR_R2_ACCOUNT_ID"):
            call()
    mine.check()


def test_more_keys_than_a_request_takes_are_listed_and_deleted(upstream: str) -> None:
    keys = sorted(f"run/{number}" for number in range(1002))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket_at(upstream).put(key, b""), keys))

    with proxy(upstream, passed_on) as log:
        bucket = bucket_at(log.url)
        assert list(bucket.list("run/")) == keys
        bucket.delete(keys)
        methods = log.methods()

    assert methods == ["GET", "GET", "POST", "POST"]
    assert list(bucket_at(upstream).list("")) == []


def test_errors_inside_the_answer_to_a_delete_are_raised_or_tried_again(upstream: str) -> None:
    def some_failed(code: str) -> bytes:
        return f"<DeleteResult><Error><Key>a</Key><Code>{code}</Code></Error></DeleteResult>".encode()

    bucket_at(upstream).put("a", b"")
    with proxy(upstream, first(1, lambda _: Reply(200, some_failed("InternalError")))) as log:
        bucket_at(log.url).delete(["a"])
    assert log.methods() == ["POST", "POST"]
    assert list(bucket_at(upstream).list("")) == []

    with (
        proxy("", lambda _: Reply(200, some_failed("AccessDenied"))) as log,
        pytest.raises(StoreError, match=r"1 of them were refused: AccessDenied.*TEMPLAR_R2_WRITE_KEY_ID"),
    ):
        bucket_at(log.url).delete(["a"])


def test_one_connection_serves_many_requests(upstream: str) -> None:
    with proxy(upstream, passed_on) as log:
        bucket = bucket_at(log.url)
        bucket.put("a", bytes(3_000_000))
        for _ in range(10):
            bucket.get("a", max_bytes=3_000_000)
            bucket.head("a")

    assert log.connections == 1


def test_a_body_is_sent_without_waiting_to_be_asked_for_it(upstream: str) -> None:
    with proxy(upstream, passed_on) as log:
        bucket_at(log.url).put("a", bytes(2**20))

    assert "Expect" not in log.requests[0].headers


def test_threads_share_the_client_of_a_key(upstream: str) -> None:
    with proxy(upstream, passed_on) as log:
        buckets = R2Buckets(lambda: credentials("me", log.url), R2Options(max_connections=8))

        def use(number: int) -> None:
            for turn in range(5):
                buckets.own().put(f"{number}/{turn}", b"")

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(use, number) for number in range(8)]:
                done.result(60)
        buckets.close()

    assert log.connections <= 8
    assert len(log.requests) == 40


def test_keys_are_read_when_a_bucket_is_opened_and_not_before(upstream: str) -> None:
    asked: list[str] = []

    def keys() -> object:
        asked.append("now")
        raise ConfigError("set the variables")

    buckets = R2Buckets(keys)  # type: ignore[arg-type]
    assert asked == []
    with pytest.raises(ConfigError, match="set the variables"):
        buckets.own()


def test_who_only_reads_needs_no_keys_of_its_own(upstream: str) -> None:
    def no_keys() -> R2Credentials:
        raise ConfigError("set the variables")

    own = credentials("me", upstream)
    R2Buckets(lambda: own).own().put("a", b"1")

    outside = R2Buckets(no_keys, store=lambda: own.store)

    assert outside.of(own.address.to_text()).get("a", max_bytes=1) == b"1"


def test_where_buckets_are_is_read_without_keys() -> None:
    assert run_store_from({}) == RunStore(None, None)
    assert run_store_from({names.ENDPOINT_URL: "http://s3/", names.BUCKET: "all"}) == RunStore("http://s3", "all")
    with pytest.raises(ConfigError, match=names.BUCKET):
        run_store_from({names.BUCKET: "-"})


def test_without_another_endpoint_an_account_has_its_own_on_r2() -> None:
    own = credentials("me", "")
    buckets = R2Buckets(lambda: type(own)(own.address, own.write_key))

    place = buckets.own().place

    assert place.endpoint_url == f"https://{own.address.account}.r2.cloudflarestorage.com"
    assert place.bucket == own.address.account


@pytest.mark.parametrize(
    "wrong",
    [
        {"part_bytes": 1},
        {"retry_for_s": -1},
        {"parallel_parts": 99},
        {"max_connections": 0},
        {"max_connections": 1.5},
        {"read_timeout_s": 0},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        R2Options(**wrong)  # type: ignore[arg-type]
