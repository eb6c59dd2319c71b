"""Keys and rights, on a real S3 server: what a key may not do is refused there and said clearly here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from templar_pl.errors import ObjectMissingError, StoreError
from templar_pl.exchange.credentials import AccessKey, BucketAddress, R2Credentials, Secret
from templar_pl.exchange.r2_store import R2Bucket, R2Buckets, R2Reader
from tests.servers.nodes import BRISK, credentials, empty, node_buckets
from tests.servers.seaweed import S3Server

WRITE_NAMES = r"TEMPLAR_R2_WRITE_KEY_ID and TEMPLAR_R2_WRITE_SECRET"


@pytest.fixture
def url(seaweed_server: S3Server) -> str:
    empty(seaweed_server.endpoint_url)
    node_buckets("me", seaweed_server.endpoint_url).own().put("a", b"data")
    return seaweed_server.endpoint_url


def opened_with(own: R2Credentials) -> R2Buckets:
    return R2Buckets(lambda: own, BRISK)


def all_calls(bucket: R2Bucket) -> list[Callable[[], object]]:
    return [*reading(bucket), *writing(bucket)]


def reading(bucket: R2Reader) -> list[Callable[[], object]]:
    return [
        lambda: bucket.head("a"),
        lambda: bucket.get("a", max_bytes=10),
        lambda: list(bucket.list("")),
        bucket.check,
    ]


def writing(bucket: R2Bucket) -> list[Callable[[], object]]:
    return [lambda: bucket.put("b", b""), lambda: bucket.put_once("b", b""), lambda: bucket.delete(["a"])]


def test_a_key_that_the_server_does_not_know_is_refused(url: str) -> None:
    me = credentials("me", url)
    bucket = opened_with(replace(me, write_key=AccessKey("f" * 32, me.write_key.secret))).own()

    for call in all_calls(bucket):
        with pytest.raises(StoreError, match=WRITE_NAMES) as caught:
            call()
        assert not isinstance(caught.value, ObjectMissingError)
    with pytest.raises(StoreError, match="does not know the key id"):
        bucket.get("a", max_bytes=10)


def test_a_wrong_secret_is_refused(url: str) -> None:
    me = credentials("me", url)
    bucket = opened_with(replace(me, write_key=AccessKey(me.write_key.key_id, Secret("f" * 64)))).own()

    for call in all_calls(bucket):
        with pytest.raises(StoreError, match=WRITE_NAMES):
            call()
    with pytest.raises(StoreError, match="the secret is not that of the key id"):
        bucket.put("b", b"")


def test_another_bucket_than_the_own_is_refused(url: str) -> None:
    me, you = credentials("me", url), credentials("you", url)
    bucket = opened_with(replace(me, address=you.address)).own()

    for call in all_calls(bucket):
        with pytest.raises(StoreError, match=WRITE_NAMES):
            call()
    assert node_buckets("me", url).own().get("a", max_bytes=10) == b"data"


def test_the_published_key_reads_and_lists_but_does_not_write(url: str) -> None:
    me = credentials("me", url)
    bucket = opened_with(replace(me, write_key=me.address.key)).own()

    for call in reading(bucket):
        call()
    for call in writing(bucket):
        with pytest.raises(StoreError, match="has no right"):
            call()
    assert list(node_buckets("me", url).own().list("")) == ["a"]


def test_the_own_bucket_can_be_looked_at_as_others_see_it(url: str) -> None:
    reader = node_buckets("me", url).own_as_read()

    assert reader.get("a", max_bytes=10) == b"data"
    with pytest.raises(StoreError, match="TEMPLAR_R2_READ_KEY_ID and TEMPLAR_R2_READ_SECRET"):
        opened_with(_read_with(credentials("me", url), AccessKey("f" * 32, Secret("f" * 64)))).own_as_read().check()


def test_a_peer_that_published_a_wrong_key_is_said_to_have(url: str) -> None:
    me = credentials("me", url)
    wrong = BucketAddress(me.address.account, credentials("you", url).address.key)

    for call in reading(node_buckets("you", url).of(wrong.to_text())):
        with pytest.raises(StoreError, match="the key that this peer published"):
            call()


def _read_with(own: R2Credentials, key: AccessKey) -> R2Credentials:
    return replace(own, address=BucketAddress(own.address.account, key))
