"""What is wrong with the way to a store, as a message tells it, and how long it takes to find out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from templar_pl.errors import StoreError
from tests.servers.nodes import IMPATIENT, bucket_at, credentials, empty, node_buckets
from tests.servers.seaweed import S3Server
from tests.servers.tcp_proxy import Bend, Rule, Way, ways

BODY = bytes(range(256)) * 64

LONGEST_S = IMPATIENT.retry_for_s + IMPATIENT.request_timeout_s + 1.0  # a second for a machine that is busy

FAULTS = {
    "the store fell silent": Bend(loses="request"),
    "the store fell silent ": Bend(loses="answer"),
    "the store fell silent  ": Bend(loses="answer's body"),
    "the store answered 503": Bend(status=503),
    "the store answered 429": Bend(status=429, headers={"Retry-After": "30"}),
    "the connection broke": Bend(reset_answer_after=1000),
    "took too long to read": Bend(bytes_per_s=5000),
}


@pytest.fixture
def way(seaweed_server: S3Server) -> Iterator[Way]:
    url = seaweed_server.endpoint_url
    empty(url)
    bucket_at(url).put("a", BODY)
    with ways(url, ["only"]) as found:
        yield found["only"]


def test_bytes_pass_unchanged_and_a_connection_serves_many_requests(way: Way) -> None:
    bucket = bucket_at(way.url)

    for number in range(3):
        bucket.put(f"b{number}", BODY)
        assert bucket.get(f"b{number}", max_bytes=len(BODY)) == BODY


@pytest.mark.parametrize("reason", FAULTS)
def test_a_fault_is_named_in_time_and_over_when_it_is_mended(way: Way, reason: str) -> None:
    bucket = bucket_at(way.url, IMPATIENT)
    way.bend(Rule(bend=FAULTS[reason], methods=("GET",)))
    start = time.monotonic()

    with pytest.raises(StoreError, match=reason.strip()):
        bucket.get("a", max_bytes=len(BODY))

    assert time.monotonic() - start < LONGEST_S
    assert way.hits() >= 1
    way.bend()
    assert bucket.get("a", max_bytes=len(BODY)) == BODY


@pytest.mark.parametrize("bend", [Bend(reset_request_after=1000), Bend(reset_answer_after=1000), Bend(status=503)])
def test_a_fault_of_one_request_costs_another_try(way: Way, bend: Bend) -> None:
    bucket = bucket_at(way.url)
    way.bend(Rule(bend=bend, at_most=1))

    bucket.put("b", BODY) if bend.reset_request_after else bucket.get("a", max_bytes=len(BODY))

    assert way.hits() == 1


def test_an_answer_without_a_body_is_named_once(way: Way) -> None:
    way.bend(Rule(bend=Bend(status=503)))

    with pytest.raises(StoreError, match=r"the store answered 503$"):
        bucket_at(way.url, IMPATIENT).head("a")


def test_whose_bucket_is_silent_decides_what_to_check(way: Way) -> None:
    buckets = node_buckets("me", way.url, IMPATIENT)
    way.bend(Rule(bend=Bend(loses="request")))

    with pytest.raises(StoreError, match="Check the network and TEMPLAR_R2_ACCOUNT_ID"):
        buckets.own().head("a")
    with pytest.raises(StoreError, match="Check the network and the address that this peer published"):
        buckets.of(credentials("you", way.url).address.to_text()).head("a")


def test_latency_lasts_and_fails_nothing(way: Way) -> None:
    bucket = bucket_at(way.url)
    way.bend(Rule(bend=Bend(up_delay_s=0.2, down_delay_s=0.1)))
    start = time.monotonic()

    assert bucket.get("a", max_bytes=len(BODY)) == BODY

    assert time.monotonic() - start >= 0.3


def test_a_fault_is_that_of_one_bucket_and_method(way: Way) -> None:
    account = credentials("me", "").address.account
    bucket = bucket_at(way.url, IMPATIENT)
    way.bend(Rule(bend=Bend(loses="request"), bucket=account, methods=("PUT",)))

    assert bucket.head("a").size == len(BODY)
    with pytest.raises(StoreError, match="fell silent"):
        bucket.put("b", BODY)
    way.bend(Rule(bend=Bend(loses="request"), bucket="another"))
    bucket.put("b", BODY)


def test_a_way_that_is_closed_refuses_connections_until_it_is_opened(way: Way) -> None:
    bucket = bucket_at(way.url, IMPATIENT)
    assert bucket.head("a").size == len(BODY)
    way.refuse()

    with pytest.raises(StoreError, match="no connection"):
        bucket.head("a")

    way.accept()
    assert bucket.head("a").size == len(BODY)
