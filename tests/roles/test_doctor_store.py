"""`doctor` on buckets of real S3 servers: right and wrong keys, rights, clocks and lines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from templar_pl.exchange import R2Credentials
from templar_pl.exchange import credentials as names
from templar_pl.roles.doctor_rows import State
from templar_pl.roles.doctor_store import judge_skew
from tests.roles.doctor_runs import R2, Report, examined
from tests.servers.nodes import WITH_BUCKET, credentials, empty, node_buckets
from tests.servers.proxy import Answer, Asked, Reply, Script, error, passed_on, proxy
from tests.servers.seaweed import S3Server

pytestmark = pytest.mark.usefixtures("own_folder_and_log", "no_keys")

Capture = pytest.CaptureFixture[str]
KEYS = ("bucket", "write key", "read key", "rights of the read key")
QUICK = ("--r2.retry_for_s=0.3", "--r2.retry_pause_s=0.1", "--r2.read_timeout_s=2")


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TEMPLAR_R2_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def url(seaweed_server: S3Server) -> Iterator[str]:
    """Return the address of a server whose bucket holds one object, and see that it holds just that at the end."""
    address = seaweed_server.endpoint_url
    empty(address)
    node_buckets("me", address).own().put("kept", b"data")
    yield address
    assert [list(node_buckets(name, address).own().list("")) for name in WITH_BUCKET] == [["kept"], [], []]


def variables(own: R2Credentials) -> dict[str, str]:
    return {
        names.ACCOUNT_ID: own.address.account,
        names.ENDPOINT_URL: own.endpoint_url or "",
        names.WRITE_KEY_ID: own.write_key.key_id,
        names.WRITE_SECRET: own.write_key.secret.reveal(),
        names.READ_KEY_ID: own.address.key.key_id,
        names.READ_SECRET: own.address.key.secret.reveal(),
    }


class Look:
    """Runs `doctor` as node "me" at an address."""

    def __init__(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, url: str, *arguments: str, **changes: str) -> Report:
        for name, value in {**variables(credentials("me", url)), **changes}.items():
            self._monkeypatch.setenv(name, value)
        return examined(self._capsys, R2, *arguments)


@pytest.fixture
def look(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Look:
    return Look(capsys, monkeypatch)


def from_the_read_key(asked: Asked) -> bool:
    signed = {name.lower(): value for name, value in asked.headers.items()}.get("authorization", "")
    return f"Credential={credentials('me', '').address.key.key_id}/" in signed


def test_a_bucket_with_the_right_keys_passes_and_keeps_nothing(url: str, look: Look) -> None:
    report = look(url)

    assert report.code == 0
    assert {"keys", *KEYS, "clock"} <= report.of_state("ok")
    assert report.of_state("skipped") == set()


@pytest.mark.parametrize("name", [names.WRITE_SECRET, names.WRITE_KEY_ID])
def test_a_wrong_write_key_is_named_and_the_other_still_tried(url: str, look: Look, name: str) -> None:
    report = look(url, **{name: "f" * (64 if name == names.WRITE_SECRET else 32)})

    assert report.code == 1
    assert report.of_state("failed") == {"write key"}
    assert f"Check {names.WRITE_KEY_ID} and {names.WRITE_SECRET}" in report.found["write key"]
    assert {"bucket", "read key", "clock"} <= report.of_state("ok")
    assert report.states["rights of the read key"] == "skipped"


def test_a_wrong_read_key_is_named_and_the_other_still_tried(url: str, look: Look) -> None:
    report = look(url, **{names.READ_SECRET: "f" * 64})

    assert report.code == 1
    assert report.of_state("failed") == {"read key"}
    assert f"Check {names.READ_KEY_ID} and {names.READ_SECRET}" in report.found["read key"]
    assert {"bucket", "write key", "clock"} <= report.of_state("ok")


def test_a_write_key_that_may_only_read_is_refused(url: str, look: Look) -> None:
    other = credentials("me", "").address.key
    written = credentials("me", "").write_key
    keys = {names.WRITE_KEY_ID: other.key_id, names.WRITE_SECRET: other.secret.reveal()}
    keys |= {names.READ_KEY_ID: written.key_id, names.READ_SECRET: written.secret.reveal()}

    report = look(url, **keys)

    assert report.code == 1
    assert report.of_state("failed") == {"write key"}
    assert "has no right" in report.found["write key"]


def test_the_bucket_of_somebody_else_is_refused(url: str, look: Look) -> None:
    report = look(url, **{names.ACCOUNT_ID: credentials("you", "").address.account})

    assert report.code == 1
    assert report.of_state("failed") == {"bucket"}
    assert names.ACCOUNT_ID in report.found["bucket"]
    assert set(KEYS[1:]) <= report.of_state("skipped")


def test_a_bucket_that_is_not_there_is_named(moto_url: str, look: Look) -> None:
    report = look(moto_url, **{names.BUCKET: "nowhere"})

    assert report.code == 1
    assert report.of_state("failed") == {"bucket"}
    assert "bucket nowhere" in report.found["bucket"]
    assert "there is no such bucket. Create it" in report.found["bucket"]


def test_a_published_key_that_may_write_is_a_warning_in_strong_words(moto_url: str, look: Look) -> None:
    empty(moto_url)

    report = look(moto_url)  # this server checks no keys

    assert report.code == 0
    assert report.of_state("warning") == {"rights of the read key"}
    found = report.found["rights of the read key"]
    assert "DANGER" in found
    assert "may overwrite and delete objects" in found
    assert "revoke this key now" in found
    assert list(node_buckets("me", moto_url).own().list("")) == []


def test_a_published_key_that_may_only_delete_is_a_warning_too(moto_url: str, look: Look) -> None:
    def script(asked: Asked) -> Answer:
        refused = from_the_read_key(asked) and asked.method == "PUT"
        return error(403, "AccessDenied")(asked) if refused else passed_on(asked)

    with proxy(moto_url, script) as log:
        report = look(log.url)

    assert "may delete objects" in report.found["rights of the read key"]
    assert list(node_buckets("me", moto_url).own().list("")) == []


def test_rights_that_cannot_be_found_out_are_no_good_rights(url: str, look: Look) -> None:
    def script(asked: Asked) -> Answer:
        is_busy = from_the_read_key(asked) and asked.method == "PUT"
        return error(503, "SlowDown")(asked) if is_busy else passed_on(asked)

    with proxy(url, script) as log:
        report = look(log.url, *QUICK)

    assert report.code == 1
    assert report.of_state("failed") == {"rights of the read key"}
    assert "503" in report.found["rights of the read key"]


def test_a_store_that_is_down_is_said_in_bounded_time(look: Look) -> None:
    before = time.monotonic()

    report = look("http://127.0.0.1:9", "--r2.retry_for_s=3600")

    assert time.monotonic() - before < 60
    assert report.code == 1
    assert report.of_state("failed") == {"bucket"}
    assert "no connection" in report.found["bucket"]
    assert names.ENDPOINT_URL in report.found["bucket"]
    assert {*KEYS[1:], "clock"} <= report.of_state("skipped")


def test_no_keys_in_the_environment_are_asked_for_by_name(capsys: Capture) -> None:
    report = examined(capsys, R2)

    assert report.code == 1
    assert report.of_state("failed") == {"keys"}
    for name in (names.ACCOUNT_ID, names.WRITE_KEY_ID, names.WRITE_SECRET, names.READ_KEY_ID, names.READ_SECRET):
        assert name in report.found["keys"]


def test_one_key_for_both_is_refused(look: Look) -> None:
    own = credentials("me", "").address.key
    both = {names.WRITE_KEY_ID: own.key_id, names.WRITE_SECRET: own.secret.reveal()}

    report = look("http://127.0.0.1:9", **both)

    assert report.code == 1
    assert "make one that may only read" in report.found["keys"]


def test_a_put_that_is_lost_on_the_way_back_leaves_nothing(url: str, look: Look) -> None:
    def script(asked: Asked) -> Answer:
        answer = passed_on(asked)
        return None if asked.method == "PUT" else answer

    with proxy(url, script) as log:
        report = look(log.url, *QUICK)

    assert report.states["write key"] == "failed"


def test_an_object_that_comes_back_changed_is_told(url: str, look: Look) -> None:
    def script(asked: Asked) -> Reply:
        answer = passed_on(asked)
        assert isinstance(answer.body, bytes)
        is_object = asked.method == "GET" and "/trial/" in asked.path
        return Reply(answer.status, answer.body[::-1], answer.headers) if is_object else answer

    with proxy(url, script) as log:
        report = look(log.url)

    assert "other bytes than were written" in report.found["write key"]
    assert "other bytes than were written" in report.found["read key"] or report.states["read key"] == "ok"


def dated(ahead_s: float) -> Script:
    def script(asked: Asked) -> Reply:
        answer = passed_on(asked)
        return Reply(
            answer.status, answer.body, {**answer.headers, "Date": formatdate(time.time() + ahead_s, usegmt=True)}
        )

    return script


@pytest.mark.parametrize(
    ("ahead_s", "state", "where"), [(-60, "failed", "60 s ahead of"), (6, "warning", "6 s behind")]
)
def test_a_clock_that_differs_from_the_stores_is_measured(
    url: str, look: Look, ahead_s: float, state: str, where: str
) -> None:
    with proxy(url, dated(ahead_s)) as log:
        report = look(log.url)

    assert report.states["clock"] == state
    assert any(
        f"{where.replace(str(abs(ahead_s)), str(abs(ahead_s) + off))} the store" in report.found["clock"]
        for off in (-1, 0, 1)
    )
    assert "NTP" in report.found["clock"]
    assert report.code == (1 if state == "failed" else 0)


def test_a_clock_that_the_store_refuses_is_said_at_the_bucket(url: str, look: Look) -> None:
    refusal = error(403, "RequestTimeTooSkewed", {"Date": formatdate(time.time() - 3600, usegmt=True)})
    with proxy(url, refusal) as log:
        report = look(log.url)

    assert report.of_state("failed") == {"bucket"}
    assert "s ahead of the store's. Set it" in report.found["bucket"]


@pytest.mark.parametrize(
    ("skew_s", "state"),
    [
        (0.9, State.OK),
        (-2.0, State.OK),
        (2.1, State.WARNING),
        (-11.0, State.WARNING),
        (11.1, State.FAILED),
        (-11.1, State.FAILED),
    ],
)
def test_a_run_lives_with_the_seconds_in_which_payloads_may_land(skew_s: float, state: State) -> None:
    assert judge_skew(skew_s, 10.0).state == state


def test_a_wrong_number_elsewhere_does_not_keep_the_bucket_from_being_tried(url: str, look: Look) -> None:
    report = look(url, "--compression.topk=0")

    assert report.of_state("failed") == {"settings: compression"}
    assert {*KEYS, "clock"} <= report.of_state("ok")
