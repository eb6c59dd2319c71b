"""One side of `gather.py`, in a process of its own: fetches the same objects once for each line on its input.

    python benchmarks/gather_sides.py SIDE

The first line is JSON: jobs by name, each with key, size, deadline_s, is_checked (each object is looked at first and
its SHA-256 is compared), objects ([{node, endpoint_url, bucket, key_id, secret, sha256}]) and absent,
how many of the first of them our gather must do without. Clients are opened, and the answer tells the library with its
version, or that it is missing. Each later line is [name of a job, moment at which uploads end in UTC seconds], answered
with JSON: wall_s, cpu_s (user and system time of this process), peak_bytes (resident memory above what was resident
before the first fetch), and from our gather last_s (when the last object was decoded) and skipped (reasons).

Only the library of the side is imported: s3fs and obstore need not be there, and s3fs runs in a Python of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Known = dict[str, Any]
"""What a job says of one object."""

Fetch = Callable[[float], dict[str, Any]]
"""Brings all objects once; takes the moment at which uploads end, and returns what it has to tell."""


class WrongObjectError(Exception):
    """A side brought something else than was put there."""


def main() -> None:
    """Serve one side until the input ends."""
    jobs = json.loads(sys.stdin.readline())
    try:
        opened = {name: SIDES[sys.argv[1]](job) for name, job in jobs.items()}
    except ImportError as error:
        answer(missing=str(error))
        return
    answer(library=next(iter(opened.values()))[0])
    before = status_bytes("VmRSS")
    for line in sys.stdin:
        name, uploads_end = json.loads(line)
        answer(**measure(partial(opened[name][1], uploads_end), before))


def answer(**values: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(values), flush=True)


def measure(fetch: Callable[[], dict[str, Any]], before: int) -> dict[str, Any]:
    """Return what fetching everything once takes; `before` are the resident bytes not to be counted."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    cpu, wall = cpu_s(), time.perf_counter()
    told = fetch()
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    return {"wall_s": wall, "cpu_s": cpu, "peak_bytes": status_bytes("VmHWM") - before, **told}


def cpu_s() -> float:
    """Return user and system time of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def status_bytes(field: str) -> int:
    """Return a size that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def check_size(job: Job, size: int) -> None:
    """See that an object has the length of what was put."""
    if size != job["size"]:
        raise WrongObjectError(f"an object of {size} bytes came, {job['size']} were put")


def check_hash(known: Known, data: Any) -> None:
    """See that an object is what was put."""
    if hashlib.sha256(data).hexdigest() != known["sha256"]:
        raise WrongObjectError(f"the object of {known['node']} is damaged")


def ours(job: Job) -> tuple[str, Fetch]:
    """Return our gather. It looks at each object first in any case; what is checked or not is the SHA-256."""
    from templar_pl.exchange import R2Buckets, Request, gather
    from templar_pl.units import Uid, Window
    from tests.servers.nodes import credentials

    def open_bucket(known: Known, buckets: R2Buckets) -> Any:
        return buckets.of(credentials(known["node"], known["endpoint_url"]).address.to_text())

    def request(uid: int, known: Known) -> Request:
        own = credentials("gatherer", known["endpoint_url"])
        sha256 = bytes.fromhex(known["sha256"]) if job["is_checked"] else None
        bucket = open_bucket(known, stores.setdefault(known["endpoint_url"], R2Buckets(lambda: own)))
        if uid >= job["absent"]:
            bucket.check()  # opens its client
        return Request(
            open_bucket=lambda: bucket, key=job["key"], size=job["size"], peer=Uid(uid), window=Window(0), sha256=sha256
        )

    stores: dict[str, R2Buckets] = {}
    requests = {Uid(uid): request(uid, known) for uid, known in enumerate(job["objects"])}

    def fetch(uploads_end: float) -> dict[str, Any]:
        start = time.monotonic()
        decoded = [0.0]

        def decode(_: Uid, data: bytes) -> None:
            check_size(job, len(data))
            decoded.append(time.monotonic() - start)

        deadline = start + job["deadline_s"]
        gathered = gather(requests, decode=decode, interval=(0.0, uploads_end), deadline=deadline)
        # On a busy machine a short deadline skips others too; the report says how many.
        if not job["absent"] <= len(gathered.skipped) <= (len(requests) if job["absent"] else 0):
            raise WrongObjectError(f"{job['absent']} objects must be skipped, not {gathered.skipped}")
        return {"last_s": decoded[-1], "skipped": [str(error) for error in gathered.skipped.values()]}

    return "templar_pl", fetch


def boto3_one(job: Job) -> tuple[str, list[Callable[[], None]]]:
    """Return for each object a call that fetches it as boto3's documentation does, with a client per key."""
    import boto3
    from botocore.config import Config

    session = boto3.Session(region_name="auto")

    def fetch(client: Any, known: Known) -> None:
        place = {"Bucket": known["bucket"], "Key": job["key"]}
        if job["is_checked"]:
            check_size(job, client.head_object(**place)["ContentLength"])
        data = client.get_object(**place)["Body"].read()
        check_size(job, len(data))
        if job["is_checked"]:
            check_hash(known, data)

    def client(known: Known) -> Any:
        return session.client(
            "s3",
            endpoint_url=known["endpoint_url"],
            aws_access_key_id=known["key_id"],
            aws_secret_access_key=known["secret"],
            config=Config(s3={"addressing_style": "path"}),
        )

    return f"boto3 {boto3.__version__}", [partial(fetch, client(known), known) for known in job["objects"]]


def boto3_loop(job: Job) -> tuple[str, Fetch]:
    """One call after the other."""
    library, calls = boto3_one(job)

    def fetch(_: float) -> dict[str, Any]:
        for call in calls:
            call()
        return {}

    return library, fetch


def boto3_threads(job: Job) -> tuple[str, Fetch]:
    """All calls side by side, a thread each."""
    library, calls = boto3_one(job)
    pool = ThreadPoolExecutor(len(calls))

    def fetch(_: float) -> dict[str, Any]:
        for running in [pool.submit(call) for call in calls]:
            running.result()
        return {}

    return library, fetch


async def fetch_one(
    job: Job, known: Known, head: Callable[[], Awaitable[int]], get: Callable[[], Awaitable[Any]]
) -> None:
    """Fetch one object on a loop; the hash is computed beside it."""
    if job["is_checked"]:
        check_size(job, await head())
    data = await get()
    check_size(job, len(data))
    if job["is_checked"]:
        await asyncio.to_thread(check_hash, known, data)


def s3fs_side(job: Job) -> tuple[str, Fetch]:
    """A file system for each key, all files at once on their common loop."""
    import s3fs  # pyright: ignore[reportMissingImports] - may be left out
    from fsspec.asyn import get_loop, sync

    def open_system(known: Known) -> Any:
        return s3fs.S3FileSystem(
            key=known["key_id"],
            secret=known["secret"],
            endpoint_url=known["endpoint_url"],
            client_kwargs={"region_name": "auto"},
            config_kwargs={"s3": {"addressing_style": "path"}},
        )

    systems = [open_system(known) for known in job["objects"]]

    async def fetch(system: Any, known: Known) -> None:
        path = f"{known['bucket']}/{job['key']}"

        async def head() -> int:
            return (await system._info(path, refresh=True))["size"]

        await fetch_one(job, known, head, partial(system._cat_file, path))

    async def fetch_all() -> None:
        await asyncio.gather(*map(fetch, systems, job["objects"]))

    return f"s3fs {s3fs.__version__}", lambda _: sync(get_loop(), fetch_all) or {}


def obstore_side(job: Job) -> tuple[str, Fetch]:
    """A store for each key, all objects at once on a loop."""
    import obstore  # pyright: ignore[reportMissingImports] - may be left out
    from obstore.store import S3Store  # pyright: ignore[reportMissingImports] - may be left out

    def open_store(known: Known) -> Any:
        return S3Store(
            known["bucket"],
            endpoint=known["endpoint_url"],
            access_key_id=known["key_id"],
            secret_access_key=known["secret"],
            region="auto",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    stores = [open_store(known) for known in job["objects"]]
    loop = asyncio.new_event_loop()

    async def fetch(store: Any, known: Known) -> None:
        async def head() -> int:
            return (await obstore.head_async(store, job["key"]))["size"]

        async def get() -> Any:
            return await (await obstore.get_async(store, job["key"])).bytes_async()

        await fetch_one(job, known, head, get)

    async def fetch_all() -> None:
        await asyncio.gather(*map(fetch, stores, job["objects"]))

    return f"obstore {obstore.__version__}", lambda _: loop.run_until_complete(fetch_all()) or {}


SIDES: dict[str, Callable[[Job], tuple[str, Fetch]]] = {
    "gather": ours,
    "boto3, loop": boto3_loop,
    "boto3, threads": boto3_threads,
    "s3fs": s3fs_side,
    "obstore": obstore_side,
}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent
    main()
