"""Nodes of a run on an S3 server, called by name."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

from templar_pl.exchange.credentials import AccessKey, BucketAddress, R2Credentials, Secret
from templar_pl.exchange.r2_options import MIN_PART_BYTES, R2Options
from templar_pl.exchange.r2_store import R2Bucket, R2Buckets, R2Reader

NODES = ("me", "you", "other", "nobody")
"""Nodes with keys. Those before the last have a bucket."""

WITH_BUCKET = NODES[:3]

BRISK = R2Options(retry_for_s=20, retry_pause_s=0.05)

IMPATIENT = R2Options(
    connect_timeout_s=0.5, read_timeout_s=0.5, request_timeout_s=1.0, retry_for_s=0.8, retry_pause_s=0.1
)


def credentials(name: str, endpoint_url: str) -> R2Credentials:
    """Return bucket and keys of a node; equal names have equal ones."""
    account, read_id, write_id = (_hex(name, part)[:32] for part in ("account", "read id", "write id"))
    return R2Credentials(
        BucketAddress(account, AccessKey(read_id, Secret(_hex(name, "read secret")))),
        AccessKey(write_id, Secret(_hex(name, "write secret"))),
        endpoint_url,
    )


def identities(names: Iterable[str]) -> dict[str, Any]:
    """Return the server's list of keys: for each node one that may write to its bucket and one that may only read."""
    rights = {"read": ("Read", "List"), "write": ("Read", "List", "Write", "Tagging")}
    found = []
    for name in names:
        node = credentials(name, "")
        for kind, key in (("read", node.address.key), ("write", node.write_key)):
            found.append(
                {
                    "name": f"{name}-{kind}",
                    "credentials": [{"accessKey": key.key_id, "secretKey": key.secret.reveal()}],
                    "actions": [f"{right}:{node.address.account}" for right in rights[kind]],
                }
            )
    return {"identities": found}


IN_SMALL_PARTS = R2Options(
    retry_for_s=20, retry_pause_s=0.05, multipart_bytes=MIN_PART_BYTES, part_bytes=MIN_PART_BYTES
)


class NamedBuckets:
    """Buckets whose peers are called by name instead of by 128 characters."""

    def __init__(self, name: str, endpoint_url: str) -> None:
        self._name, self._endpoint_url = name, endpoint_url

    def own(self) -> R2Bucket:
        return node_buckets(self._name, self._endpoint_url).own()

    def of(self, address: str) -> R2Reader:
        is_name = address in NODES
        text = credentials(address, self._endpoint_url).address.to_text() if is_name else address
        return node_buckets(self._name, self._endpoint_url).of(text)


def node_buckets(name: str, endpoint_url: str, options: R2Options = BRISK) -> R2Buckets:
    """Return the buckets of a run as a node sees them.

    Open what is needed at once: they follow the last address that was asked for.
    """
    last_url, buckets = _buckets(name, options)
    last_url[0] = endpoint_url
    return buckets


@functools.cache  # the models behind the clients of one store take 0.2 s to read
def _buckets(name: str, options: R2Options) -> tuple[list[str], R2Buckets]:
    last_url = [""]
    return last_url, R2Buckets(lambda: credentials(name, last_url[0]), options)


def empty(endpoint_url: str) -> None:
    """Delete every object of every node."""
    for name in WITH_BUCKET:
        bucket = node_buckets(name, endpoint_url).own()
        bucket.delete(bucket.list(""))


def _hex(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def bucket_at(url: str, options: R2Options = BRISK) -> R2Bucket:
    """Return the bucket of "me" on the server at `url`."""
    return node_buckets("me", url, options).own()
