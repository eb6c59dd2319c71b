"""Buckets on Cloudflare R2 or another S3 store: one per node, written with one key and read by the world with another.

Where stores differ:
- SeaweedFS lists folder by folder (`a/b` before `a-b`); S3 and R2 by code points. So a listing is sorted here.
- moto and R2 refuse a conditional put at once; SeaweedFS makes up to a second of it when several compete.
- An answer to HEAD has no body, so a missing bucket looks like a missing object there; `check` tells them apart.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from botocore.exceptions import ClientError

from templar_pl.errors import ObjectMissingError, StoreError, TransientError
from templar_pl.exchange import credentials as names
from templar_pl.exchange.credentials import AccessKey, BucketAddress, R2Credentials, RunStore, parse_address
from templar_pl.exchange.download import open_download
from templar_pl.exchange.growing import GrowingBody
from templar_pl.exchange.large_objects import FileDigest, open_source, part_ranges
from templar_pl.exchange.r2_client import Clients
from templar_pl.exchange.r2_errors import Place, answered_at, refusal, status_of
from templar_pl.exchange.r2_options import MAX_PARTS, R2Options
from templar_pl.exchange.r2_parts import get_parts, put_parts
from templar_pl.exchange.r2_requests import Requests, TimedBody, read_body
from templar_pl.exchange.store import ObjectInfo, check_key, check_prefix

DELETE_BATCH = 1000
"""Keys one request may delete, by S3."""

MAX_PAGES = 200
"""Of one listing, of 1000 keys at most: a stranger's may have no end."""

_CONTENT_TYPE = "application/octet-stream"
_NONCE = "writer"  # metadata that tells our object from one that somebody else wrote at the same time
_HALF_OF_A_DATE_S = 0.5  # a date without fractions stands for any moment of its second
_ACCOUNT_NAMES = f"{names.ACCOUNT_ID}, {names.BUCKET} and {names.ENDPOINT_URL}"
_PEER_NAMES = f"the address that this peer published, {names.BUCKET} and {names.ENDPOINT_URL}"


class R2Buckets:
    """All buckets of a run that is held on R2 or on one other S3 store.

    Args:
        credentials: returns the own keys; called whenever a bucket is opened, so that they are read when they are
            used. May raise `ConfigError`.
        options: time-outs, retries and parallelism.
        store: returns where all buckets are, for who reads those of others and has none; as the own keys say if None.
    """

    def __init__(
        self,
        credentials: Callable[[], R2Credentials],
        options: R2Options | None = None,
        store: Callable[[], RunStore] | None = None,
    ) -> None:
        self._credentials, self._options = credentials, options or R2Options()
        self._store = store or (lambda: credentials().store)
        self._clients = Clients(self._options)

    def own(self) -> R2Bucket:
        """Return the bucket of this node, to be written with the write key."""
        own = self._credentials()
        keys = f"{names.WRITE_KEY_ID} and {names.WRITE_SECRET}"
        return R2Bucket(self._requests(own.address, own.write_key, own.store, keys))

    def own_address(self) -> str:
        """Return the 128 characters that tell others where the own bucket is and let them read it."""
        return self._credentials().address.to_text()

    def own_as_read(self) -> R2Reader:
        """Return the bucket of this node as others see it, with the published key."""
        return self.own_with_read_key()

    def own_with_read_key(self) -> R2Bucket:
        """Return the bucket of this node, to be written with the published key: to see that the store refuses it."""
        own = self._credentials()
        keys = f"{names.READ_KEY_ID} and {names.READ_SECRET}"
        return R2Bucket(self._requests(own.address, own.address.key, own.store, keys))

    def of(self, address: str) -> R2Reader:
        """Return the bucket a peer committed to, without asking it anything. Raises `StoreError` for its form."""
        try:
            parsed = parse_address(address)
        except ValueError as error:
            raise StoreError(f"a peer cannot be reached: {error}") from error
        requests = self._requests(parsed, parsed.key, self._store(), "the key that this peer published", _PEER_NAMES)
        return R2Reader(requests)

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._clients.close()

    def _requests(
        self, address: BucketAddress, key: AccessKey, store: RunStore, keys: str, account: str = _ACCOUNT_NAMES
    ) -> Requests:
        endpoint_url = store.endpoint_url or f"https://{address.account}.r2.cloudflarestorage.com"
        place = Place(endpoint_url, store.bucket or address.account, keys, account)
        return Requests(partial(self._clients.get, endpoint_url, key), place, self._options)


class R2Reader:
    """A bucket that is read."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._bucket = requests.place.bucket

    @property
    def place(self) -> Place:
        """Where the bucket is."""
        return self._requests.place

    def head(self, key: str) -> ObjectInfo:
        """Describe an object."""
        check_key(key)

        def head(client: Any, _: float) -> ObjectInfo:
            answer = client.head_object(Bucket=self._bucket, Key=key)
            return ObjectInfo(answer["ContentLength"], answer["LastModified"].timestamp(), answered_at(answer))

        return self._requests.send(f"look at {key}", head)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """Read a whole object of at most `max_bytes`."""
        check_key(key)

        def get(client: Any, _: float) -> bytes:
            answer = client.get_object(Bucket=self._bucket, Key=key)
            return read_body(answer, max_bytes=max_bytes)

        return self._requests.send(f"read {key}", get)

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        """Fetch an object into a file, in parts; a later call goes on where this one ended."""
        size = self.head(key).size
        if size != expected.size:
            raise StoreError(f"{key} in {self.place} has {size} bytes, must have {expected.size}")
        ranges = part_ranges(size, self._requests.options.part_bytes, MAX_PARTS)
        with open_download(path, expected, ranges) as download:
            get_parts(self._requests, key, download)
            download.finish()

    def list(self, prefix: str) -> Iterator[str]:
        """Name the objects under a prefix, in ascending order; nothing if there is no such bucket."""
        check_prefix(prefix)
        keys: list[str] = []
        token: str | None = None
        try:
            for _ in range(MAX_PAGES):
                found, token = self._page(prefix, token)
                keys += found
                if token is None:
                    return iter(sorted(keys))
        except ObjectMissingError:
            return iter(())
        raise StoreError(f"cannot list {prefix or 'objects'} in {self.place}: more than {MAX_PAGES} pages")

    def check(self) -> None:
        """See that the bucket is there and may be listed with this key. Raises `StoreError` that says what is not."""
        self._requests.send("list objects", lambda client, _: client.list_objects_v2(Bucket=self._bucket, MaxKeys=1))

    def clock_skew_s(self) -> float:
        """Return by how many seconds the clock of this machine is ahead of the store's; below 0 if it is behind.

        The store dates its answers to the second, and somewhere between the request and the answer: the result is off
        by half a second and half the time of the round trip at most.

        Raises:
            StoreError: as `check` does, or the store does not say what time it is.
        """
        return self._requests.send("ask for the time", self._clock_skew_s)

    def _clock_skew_s(self, client: Any, _: float) -> float:
        asked = time.time()
        answer = client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
        middle = (asked + time.time()) / 2
        try:
            dated = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
        except (KeyError, ValueError):
            raise StoreError("the store does not say what time it is") from None
        return middle - (dated + _HALF_OF_A_DATE_S)

    def _page(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        """Return some keys, and what to ask for the next ones with; None behind the last."""
        more = {"ContinuationToken": token} if token else {}

        def page(client: Any, _: float) -> tuple[list[str], str | None]:
            answer = client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)
            keys = [entry["Key"] for entry in answer.get("Contents", [])]
            return keys, answer["NextContinuationToken"] if answer.get("IsTruncated") else None

        return self._requests.send(f"list {prefix or 'objects'}", page)


class R2Bucket(R2Reader):
    """The bucket that is ours to write."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, in place of what was there; a large one in parts."""
        check_key(key)
        if len(data) > self._requests.options.multipart_bytes:
            put_parts(self._requests, key, len(data), lambda start, size: data[start : start + size], lambda: None)
            return
        self._requests.send(f"write {key}", lambda client, deadline: self._put(client, deadline, key=key, data=data))

    def put_file(self, key: str, path: Path) -> FileDigest:
        """Write an object from a file, in parts if it is large; return what it holds."""
        check_key(key)
        with open_source(path) as source:
            digest = source.digest()
            if source.size > self._requests.options.multipart_bytes:
                put_parts(self._requests, key, source.size, source.read, source.check_unchanged)
            else:
                data = source.read(0, source.size)
                source.check_unchanged()
                self.put(key, data)
        return digest

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether this call wrote it.

        The store decides, by `If-None-Match: *`. If it did and its answer was lost, the object tells whose it is.
        """
        return self._put_once(key, len(data), partial(self._put, key=key, data=data))

    def put_growing_once(self, key: str, body: GrowingBody) -> bool:
        """Do what `put_once` does, and send the bytes as they come."""
        return self._put_once(key, len(body), partial(self._put_growing, key=key, body=body))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request."""
        checked = list(keys)
        for key in checked:
            check_key(key)
        for start in range(0, len(checked), DELETE_BATCH):
            batch = checked[start : start + DELETE_BATCH]
            self._requests.send(f"delete {len(batch)} objects", partial(self._delete, batch))

    def _put_once(self, key: str, size: int, send: Callable[..., None]) -> bool:
        check_key(key)
        nonce = uuid4().hex

        def put(client: Any, deadline: float) -> bool:
            try:
                send(client, deadline, IfNoneMatch="*", Metadata={_NONCE: nonce})
            except ClientError as error:
                # 409: another put or a delete of the same key was under way.
                if status_of(error) not in (409, 412):
                    raise
                return self._is_ours(client, key, nonce, size)
            return True

        return self._requests.send(f"write {key}", put)

    def _put(self, client: Any, deadline: float, *, key: str, data: bytes, **more: Any) -> None:
        """Write an object and see that the store has what was sent."""
        digest = hashlib.md5(data, usedforsecurity=False)
        # The store refuses what arrives damaged.
        more["ContentMD5"] = base64.b64encode(digest.digest()).decode()
        answer = client.put_object(
            Bucket=self._bucket, Key=key, Body=TimedBody(data, deadline), ContentType=_CONTENT_TYPE, **more
        )
        self._check_put(client, answer, key, len(data), digest.hexdigest())

    def _put_growing(self, client: Any, deadline: float, *, key: str, body: GrowingBody, **more: Any) -> None:
        body.rewind(deadline)
        answer = client.put_object(
            Bucket=self._bucket, Key=key, Body=body, ContentLength=len(body), ContentType=_CONTENT_TYPE, **more
        )
        md5 = hashlib.md5(body.whole(), usedforsecurity=False).hexdigest()
        self._check_put(client, answer, key, len(body), md5)

    def _check_put(self, client: Any, answer: dict[str, Any], key: str, size: int, md5: str) -> None:
        # The tag of an object that the store keeps encrypted is another.
        if answer.get("ETag", "").strip('"') != md5:
            found = client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
            if found != size:
                raise TransientError(f"the store has {found} bytes after {size} were written")

    def _is_ours(self, client: Any, key: str, nonce: str, size: int) -> bool:
        """Tell whether the object that is in the way was written by an earlier try of this call."""
        try:
            found = client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if status_of(error) == 404:
                raise TransientError("something was in the way and is gone again") from None
            raise
        if found.get("Metadata", {}).get(_NONCE) != nonce:
            return False
        if found["ContentLength"] != size:
            raise StoreError(f"the store has {found['ContentLength']} bytes after {size} were written")
        return True

    def _delete(self, keys: Sequence[str], client: Any, _: float) -> None:
        request = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        errors = client.delete_objects(Bucket=self._bucket, Delete=request).get("Errors", [])
        codes = sorted({error.get("Code", "") for error in errors} - {"NoSuchKey"})
        if codes:
            raise refusal(codes, len(errors), self._requests.place)
