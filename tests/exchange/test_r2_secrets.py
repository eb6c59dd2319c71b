"""No secret is left behind by anything a store does, and clients take nothing from the machine."""

from __future__ import annotations

import io
import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from templar_pl.cli import set_up_log
from templar_pl.errors import StoreError
from templar_pl.exchange.credentials import AccessKey, R2Credentials, Secret
from templar_pl.exchange.r2_options import R2Options
from templar_pl.exchange.r2_store import R2Buckets
from tests.servers.nodes import credentials, empty
from tests.servers.proxy import error, proxy
from tests.servers.seaweed import S3Server

QUICK = R2Options(retry_for_s=0, connect_timeout_s=1, read_timeout_s=1)
SIGNS_OF_A_SIGNATURE = ("Signature=", "AWS4-HMAC", "Authorization", "x-amz-content-sha256", "X-Amz-Date")


@pytest.fixture
def traced() -> Iterator[io.StringIO]:
    """Log all there is, as `--trace` does, and give it back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in ("botocore", "boto3", "templar_pl")}
    for name in ("botocore", "boto3"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    written = io.StringIO()
    set_up_log(Console(file=written, stderr=False, force_terminal=True, width=10_000), debug=True, trace=True)
    yield written
    root.handlers, root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def leave_behind_all_there_is(own: R2Credentials) -> list[object]:
    """Use a store in every way; return what it raised."""
    raised: list[object] = []
    buckets = R2Buckets(lambda: own, QUICK)
    bucket, reader = buckets.own(), buckets.of(own.address.to_text())
    for call in (
        lambda: bucket.put("a", b"data"),
        lambda: bucket.put_once("a", b"data"),
        lambda: bucket.get("a", max_bytes=10),
        lambda: bucket.get("a", max_bytes=1),
        lambda: reader.head("a"),
        lambda: reader.head("absent"),
        lambda: reader.get("absent", max_bytes=1),
        lambda: list(reader.list("")),
        lambda: bucket.delete(["a"]),
        lambda: buckets.of(own.address.to_text()[:-1]),
        lambda: buckets.of(own.address.to_text()[:-1] + "X"),
    ):
        try:
            call()
        except StoreError as caught:
            raised.append(caught)
    raised += [buckets, bucket, reader, own]
    buckets.close()
    return raised


def everything_seen_of(value: object) -> str:
    """Return all a log, a traceback or a pickle could show of an object."""
    seen = [repr(value), str(value)]
    while isinstance(value, BaseException):
        shown = traceback.TracebackException.from_exception(value, capture_locals=True)
        seen += [*shown.format(), repr(value.args), repr(vars(value)), pickle.dumps(value).decode("latin-1")]
        value = value.__cause__ or value.__context__
    return "\n".join(seen)


def test_neither_logs_nor_errors_nor_reprs_hold_a_secret(seaweed_server: S3Server, traced: io.StringIO) -> None:
    url = seaweed_server.endpoint_url
    empty(url)
    me = credentials("me", url)
    wrong = replace(me, write_key=AccessKey(me.write_key.key_id, Secret("f" * 64)))
    with proxy("", error(403, "SignatureDoesNotMatch")) as refusing, proxy("", lambda _: None) as resetting:
        left = [
            item
            for own in (
                me,
                wrong,
                replace(me, endpoint_url=refusing.url),
                replace(me, endpoint_url=resetting.url),
                replace(me, endpoint_url="http://127.0.0.1:1"),
            )
            for item in leave_behind_all_there_is(own)
        ]
    seen = traced.getvalue() + "\n".join(map(everything_seen_of, left))

    assert sum(isinstance(item, StoreError) for item in left) > 20
    assert "Starting new HTTP connection" in traced.getvalue()  # so DEBUG was on
    for secret in (me.write_key.secret, me.address.key.secret, wrong.write_key.secret):
        assert secret.reveal() not in seen
    assert not [sign for sign in SIGNS_OF_A_SIGNATURE if sign in seen]


def test_clients_take_nothing_from_the_machine(seaweed_server: S3Server, tmp_path: Path) -> None:
    empty(seaweed_server.endpoint_url)
    aws = tmp_path / ".aws"
    (aws / "models/s3/2006-03-01").mkdir(parents=True)
    (aws / "models/s3/2006-03-01/service-2.json").write_text("not JSON")
    for name in ("config", "credentials"):
        (aws / name).write_text("not a configuration [")
    poison = {
        "AWS_PROFILE": "absent",
        "AWS_ACCESS_KEY_ID": "absent",
        "AWS_SECRET_ACCESS_KEY": "absent",
        "AWS_SESSION_TOKEN": "absent",
        "AWS_DEFAULT_REGION": "moon",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_CA_BUNDLE": "/absent",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_DEFAULTS_MODE": "absent",
        "AWS_DATA_PATH": str(aws / "models"),
        "AWS_MAX_ATTEMPTS": "9",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
    }
    poison |= {name.lower(): value for name, value in poison.items() if "PROXY" in name}
    script = (
        "import sys; from tests.servers.nodes import node_buckets; bucket = node_buckets('me', sys.argv[1]).own(); "
        "bucket.put('a', b'data'); sys.stdout.write(bucket.get('a', max_bytes=9).decode())"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, seaweed_server.endpoint_url],
        env={**os.environ, **poison, "HOME": str(tmp_path), "NO_PROXY": "", "no_proxy": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "data", done.stderr
