"""What S3 stores say about their time."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from templar_pl.errors import StoreError
from tests.servers.nodes import IMPATIENT, WITH_BUCKET, bucket_at, empty, node_buckets
from tests.servers.proxy import Asked, Reply, Script, passed_on, proxy
from tests.servers.seaweed import S3Server


@pytest.fixture(params=["moto", "seaweed"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "moto":
        found: str = request.getfixturevalue("moto_url")
    else:
        server: S3Server = request.getfixturevalue("seaweed_server")
        found = server.endpoint_url
    empty(found)
    return found


def dated(ahead_s: float, delay_s: float = 0.0) -> Script:
    """Answer as the server does, with another date, after a pause."""

    def script(asked: Asked) -> Reply:
        time.sleep(delay_s / 2)
        answer = passed_on(asked)
        # Whole seconds, as every server has them: cut, not rounded.
        date = formatdate(int(time.time() + ahead_s), usegmt=True)
        time.sleep(delay_s / 2)
        return Reply(answer.status, answer.body, {**answer.headers, "Date": date})

    return script


def test_the_clock_of_this_machine_agrees_with_a_store_on_it(url: str) -> None:
    for reader in (bucket_at(url), node_buckets("me", url).own_as_read()):
        assert abs(reader.clock_skew_s()) <= 1.0


@pytest.mark.parametrize("ahead_s", [-3600.0, -7.0, 30.0])
def test_a_store_with_another_time_is_measured(url: str, ahead_s: float) -> None:
    with proxy(url, dated(ahead_s)) as log:
        skew_s = node_buckets("me", log.url).own_as_read().clock_skew_s()

    assert skew_s == pytest.approx(-ahead_s, abs=1.0)


def test_a_slow_line_is_no_skew(moto_url: str) -> None:
    with proxy(moto_url, dated(0.0, delay_s=3.0)) as log:
        assert abs(bucket_at(log.url).clock_skew_s()) <= 1.0


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_store_without_a_date_is_said_to_have_none(moto_url: str, date: str) -> None:
    def script(asked: Asked) -> Reply:
        answer = passed_on(asked)
        rest = {name: value for name, value in answer.headers.items() if name.lower() != "date"}
        return Reply(answer.status, answer.body, {**rest, **({"Date": date} if date else {})})

    with proxy(moto_url, script) as log, pytest.raises(StoreError, match="does not say what time it is"):
        bucket_at(log.url).clock_skew_s()


def test_a_bucket_that_is_not_there_is_named(url: str) -> None:
    assert "nobody" not in WITH_BUCKET

    with pytest.raises(StoreError, match="bucket"):
        node_buckets("nobody", url, IMPATIENT).own().clock_skew_s()
