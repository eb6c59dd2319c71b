"""Large objects on an S3 store: parts that fail, answers that are lost, processes that are killed."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest

from templar_pl.errors import ObjectMissingError, StoreError
from templar_pl.exchange.large_objects import FileDigest
from templar_pl.exchange.r2_options import R2Options
from templar_pl.exchange.r2_store import R2Bucket
from tests.servers.nodes import IN_SMALL_PARTS, credentials, empty, node_buckets
from tests.servers.proxy import Answer, Asked, Reply, error, first, passed_on, proxy

MIB = 2**20
SIZE = 22 * MIB  # five parts
HASTY = R2Options(retry_for_s=0, multipart_bytes=5 * MIB, part_bytes=5 * MIB)


@pytest.fixture
def upstream(moto_url: str) -> str:
    empty(moto_url)
    return moto_url


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZE))
    return path


def bucket_at(url: str, options: R2Options = IN_SMALL_PARTS) -> R2Bucket:
    return node_buckets("me", url, options).own()


def digest_of(path: Path) -> FileDigest:
    return FileDigest(path.stat().st_size, hashlib.sha256(path.read_bytes()).digest())


def begun_uploads(url: str) -> list[Any]:
    client: Any = boto3.Session("any", "any", region_name="us-east-1").client("s3", endpoint_url=url)
    uploads = client.list_multipart_uploads(Bucket=credentials("me", url).address.account).get("Uploads", [])
    client.close()
    return uploads


def is_part(asked: Asked, number: int) -> bool:
    return asked.method == "PUT" and f"partNumber={number}&" in f"{asked.path}&"


def ranges(requests: list[Asked]) -> list[int]:
    """Return where the ranges start that were asked for."""
    asked = [request.headers["Range"] for request in requests if "Range" in request.headers]
    return sorted(int(re.findall(r"\d+", text)[0]) for text in asked)


def test_parts_travel_side_by_side(upstream: str, source: Path, tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=30)

    def meet(asked: Asked) -> Reply:
        if is_part(asked, 5) or not ("partNumber" in asked.path or "Range" in asked.headers):
            return passed_on(asked)
        if "Range" in asked.headers and asked.headers["Range"].startswith(f"bytes={20 * MIB}"):
            return passed_on(asked)
        together.wait()  # goes on when four requests are here at the same time
        return passed_on(asked)

    with proxy(upstream, meet) as log:
        digest = bucket_at(log.url).put_file("a", source)
        bucket_at(log.url).get_file("a", tmp_path / "copy", digest)

    assert digest_of(tmp_path / "copy") == digest_of(source)
    assert ranges(log.requests) == [0, 5 * MIB, 10 * MIB, 15 * MIB, 20 * MIB]


def test_a_part_that_fails_is_sent_again_and_the_others_are_not(upstream: str, source: Path) -> None:
    busy = first(2, error(503, "SlowDown"))

    with proxy(upstream, lambda asked: busy(asked) if is_part(asked, 3) else passed_on(asked)) as log:
        bucket_at(log.url).put_file("a", source)

    assert sum(asked.method == "PUT" for asked in log.requests) == 5 + 2
    assert bucket_at(upstream).get("a", max_bytes=SIZE) == source.read_bytes()


def test_an_upload_that_fails_is_thrown_away_and_the_old_object_stays(upstream: str, source: Path) -> None:
    bucket_at(upstream).put("a", b"old")

    with (
        proxy(upstream, lambda asked: error(503, "SlowDown")(asked) if is_part(asked, 2) else passed_on(asked)) as log,
        pytest.raises(StoreError, match=r"part 2 of a.*503 SlowDown"),
    ):
        bucket_at(log.url, HASTY).put_file("a", source)

    assert log.methods()[-1] == "DELETE"
    assert begun_uploads(upstream) == []
    assert bucket_at(upstream).get("a", max_bytes=10) == b"old"


def test_an_upload_whose_last_answer_was_lost_is_known_to_be_complete(upstream: str, source: Path) -> None:
    is_lost: list[bool] = []

    def lose_the_end(asked: Asked) -> Answer:
        if asked.method != "POST" or "uploadId" not in asked.path:
            return passed_on(asked)
        if is_lost:
            return error(404, "NoSuchUpload")(asked)  # as S3 answers for one that is complete
        is_lost.append(True)
        passed_on(asked)
        return None

    with proxy(upstream, lose_the_end) as log:
        bucket_at(log.url).put_file("a", source)

    assert is_lost
    assert "DELETE" not in log.methods()
    assert bucket_at(upstream).get("a", max_bytes=SIZE) == source.read_bytes()


def test_a_file_that_changes_while_it_is_put_does_not_become_an_object(upstream: str, source: Path) -> None:
    bucket_at(upstream).put("a", b"old")

    def change(asked: Asked) -> Reply:
        if is_part(asked, 1):
            with source.open("r+b") as file:
                file.write(b"changed")
        return passed_on(asked)

    with proxy(upstream, change) as log, pytest.raises(StoreError, match="was changed"):
        bucket_at(log.url).put_file("a", source)

    assert begun_uploads(upstream) == []
    assert bucket_at(upstream).get("a", max_bytes=10) == b"old"


def test_bytes_above_the_limit_travel_in_parts_too(upstream: str, source: Path) -> None:
    with proxy(upstream, passed_on) as log:
        bucket_at(log.url).put("a", source.read_bytes())

    assert sum("partNumber" in asked.path for asked in log.requests) == 5
    assert bucket_at(upstream).get("a", max_bytes=SIZE) == source.read_bytes()


def test_a_get_that_failed_goes_on_where_it_ended(upstream: str, source: Path, tmp_path: Path) -> None:
    digest = bucket_at(upstream).put_file("a", source)
    one_by_one = R2Options(retry_for_s=0, part_bytes=5 * MIB, multipart_bytes=5 * MIB, parallel_parts=1)
    broken = f"bytes={10 * MIB}-"

    with proxy(
        upstream, lambda asked: None if asked.headers.get("Range", "").startswith(broken) else passed_on(asked)
    ) as log:
        with pytest.raises(StoreError, match="connection broke"):
            bucket_at(log.url, one_by_one).get_file("a", tmp_path / "copy", digest)
        assert not (tmp_path / "copy").exists()

    with proxy(upstream, passed_on) as log:
        bucket_at(log.url, one_by_one).get_file("a", tmp_path / "copy", digest)

    # The thread that failed may have begun the next part before it was stopped.
    assert ranges(log.requests) in ([10 * MIB, 15 * MIB, 20 * MIB], [10 * MIB, 20 * MIB])
    assert digest_of(tmp_path / "copy") == digest_of(source)


def test_a_process_that_is_killed_in_the_middle_goes_on_in_its_next_life(
    upstream: str, source: Path, tmp_path: Path
) -> None:
    digest = bucket_at(upstream).put_file("a", source)
    is_half_way, is_over = threading.Event(), threading.Event()

    def stall(asked: Asked) -> Reply:
        if asked.headers.get("Range", "").startswith(f"bytes={15 * MIB}-"):
            is_half_way.set()
            is_over.wait(30)
        return passed_on(asked)

    script = (
        "import sys; from pathlib import Path; from templar_pl.exchange.large_objects import FileDigest\n"
        "from templar_pl.exchange.r2_options import R2Options; from tests.servers.nodes import node_buckets\n"
        "options = R2Options(part_bytes=5 * 2**20, parallel_parts=1)\n"
        "bucket = node_buckets('me', sys.argv[1], options).own()\n"
        "bucket.get_file('a', Path(sys.argv[2]), FileDigest(int(sys.argv[3]), bytes.fromhex(sys.argv[4])))"
    )
    with proxy(upstream, stall) as log:
        arguments = [log.url, str(tmp_path / "copy"), str(digest.size), digest.sha256.hex()]
        with subprocess.Popen([sys.executable, "-c", script, *arguments]) as process:
            assert is_half_way.wait(60)
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        is_over.set()
    assert not (tmp_path / "copy").exists()

    with proxy(upstream, passed_on) as log:
        bucket_at(log.url).get_file("a", tmp_path / "copy", digest)

    assert ranges(log.requests) == [15 * MIB, 20 * MIB]
    assert digest_of(tmp_path / "copy") == digest_of(source)


def test_a_part_of_the_wrong_length_is_not_kept(upstream: str, source: Path, tmp_path: Path) -> None:
    digest = bucket_at(upstream).put_file("a", source)
    short = first(1, lambda _: Reply(206, b"short"))

    def shorten(asked: Asked) -> Answer:
        return short(asked) if "Range" in asked.headers else passed_on(asked)

    with proxy(upstream, shorten) as log:
        bucket_at(log.url).get_file("a", tmp_path / "copy", digest)

    assert len(ranges(log.requests)) == 6
    assert digest_of(tmp_path / "copy") == digest_of(source)


def test_a_store_that_knows_no_ranges_is_found_out(upstream: str, source: Path, tmp_path: Path) -> None:
    digest = bucket_at(upstream).put_file("a", source)
    whole = Reply(200, source.read_bytes())

    with (
        proxy(upstream, lambda asked: whole if "Range" in asked.headers else passed_on(asked)) as log,
        pytest.raises(StoreError, match=f"{SIZE} bytes, and no more than {5 * MIB} are allowed"),
    ):
        bucket_at(log.url, HASTY).get_file("a", tmp_path / "copy", digest)


def test_an_upload_to_a_bucket_that_is_not_there_says_so(upstream: str, source: Path) -> None:
    with pytest.raises(ObjectMissingError, match="no such bucket"):
        node_buckets("nobody", upstream, IN_SMALL_PARTS).own().put_file("a", source)
