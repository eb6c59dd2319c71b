"""Large objects of an S3 store, in parts that travel side by side."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from botocore.exceptions import ClientError

from templar_pl.errors import StoreError, TransientError
from templar_pl.exchange.download import Download
from templar_pl.exchange.large_objects import in_parallel, part_ranges
from templar_pl.exchange.r2_errors import code_of
from templar_pl.exchange.r2_options import MAX_PARTS
from templar_pl.exchange.r2_requests import Requests, TimedBody, read_body

Read = Callable[[int, int], bytes]
"""Returns the bytes of a part, by start and length; may be called by several threads at once."""

_NONCE = "upload"  # metadata that tells our object from one that somebody else wrote at the same time


def put_parts(requests: Requests, key: str, size: int, read: Read, check: Callable[[], None]) -> None:
    """Write an object in parts; it appears when all are there, and is then seen to have the right size.

    Args:
        requests: to the bucket.
        key: of the object.
        size: bytes, at least 1.
        read: returns the bytes of a part.
        check: called when all parts are there; raises `StoreError` if they must not become an object.

    Raises:
        StoreError: the store failed, or `check` did; what was sent is thrown away.
    """
    nonce = uuid4().hex
    name = {"Bucket": requests.place.bucket, "Key": key}
    # A lost answer leaves an empty upload behind; R2 throws those away after seven days.
    answer = requests.send(
        f"begin to write {key}",
        lambda client, _: client.create_multipart_upload(
            **name, ContentType="application/octet-stream", Metadata={_NONCE: nonce}
        ),
    )
    upload = {**name, "UploadId": answer["UploadId"]}
    is_complete = False
    try:
        ranges = list(enumerate(part_ranges(size, requests.options.part_bytes, MAX_PARTS), start=1))

        def put(numbered: tuple[int, tuple[int, int]]) -> dict[str, Any]:
            number, (start, length) = numbered
            return _put_part(requests, upload, number, read(start, length))

        parts = in_parallel(put, ranges, requests.options.parallel_parts)
        check()
        _complete(requests, upload, parts, nonce=nonce, size=size)
        is_complete = True
    finally:
        if not is_complete:
            with suppress(StoreError):  # the error that led here matters more
                requests.send(f"give up writing {key}", lambda client, _: client.abort_multipart_upload(**upload))


def get_parts(requests: Requests, key: str, download: Download) -> None:
    """Fetch the parts of an object that are missing. Raises `StoreError`; the parts that are in by then stay."""

    def get(part: tuple[int, int]) -> None:
        start, length = part
        download.write(start, _get_part(requests, key, start, length))

    in_parallel(get, download.missing, requests.options.parallel_parts)


def _put_part(requests: Requests, upload: dict[str, Any], number: int, data: bytes) -> dict[str, Any]:
    digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    answer = requests.send(
        f"write part {number} of {upload['Key']}",
        lambda client, deadline: client.upload_part(
            **upload, PartNumber=number, Body=TimedBody(data, deadline), ContentMD5=digest
        ),
    )
    return {"PartNumber": number, "ETag": answer["ETag"]}


def _complete(
    requests: Requests, upload: dict[str, Any], parts: list[dict[str, Any]], *, nonce: str, size: int
) -> None:
    key = upload["Key"]

    def complete(client: Any, _: float) -> None:
        try:
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except ClientError as error:
            # After a lost answer the upload is gone because it is complete; the object tells.
            if code_of(error) != "NoSuchUpload":
                raise
        found = client.head_object(Bucket=upload["Bucket"], Key=key)
        if found.get("Metadata", {}).get(_NONCE) != nonce:
            raise StoreError("another object is in its place, written at the same time")
        if found["ContentLength"] != size:
            raise StoreError(f"the store has {found['ContentLength']} bytes after {size} were written")

    requests.send(f"complete {key}", complete)


def _get_part(requests: Requests, key: str, start: int, length: int) -> bytes:
    def get(client: Any, _: float) -> bytes:
        asked = f"bytes={start}-{start + length - 1}"
        answer = client.get_object(Bucket=requests.place.bucket, Key=key, Range=asked)
        data = read_body(answer, max_bytes=length)
        if len(data) != length:
            raise TransientError(f"{len(data)} bytes came where {length} were asked for")
        return data

    return requests.send(f"read bytes {start} to {start + length - 1} of {key}", get)
