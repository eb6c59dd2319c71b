"""What does gathering the payloads of a window take, beside other ways to fetch the same objects?

    python benchmarks/gather.py [--rounds 15] [--peers 16] [--mib 8] [--s3fs-venv FOLDER] [--quick] [--json out.json]

A real S3 server (SeaweedFS, its data in memory) on this machine holds one object for each peer, in a bucket and under a
read-only key of the peer's own. Each side runs in a process of its own with its clients opened and its connections
warm, and the sides take turns. There are two jobs: `bare`, the bytes of all objects, which is all that a plain call
does; and `checked`, what a node needs before it may use them: HEAD says that the size is right, then GET, then the
SHA-256 is compared. Our gather always asks HEAD first; in the bare job it leaves out the SHA-256 only.

Then come gathers in which a quarter of the peers do not answer as they should, with the other peers alone as the
measure: no object, when uploads have ended or will in 1 s; a port that refuses; a black hole, which takes connections
and is silent.

Sides that are not installed are left out and named. obstore comes with the extra `bench`. s3fs cannot live beside this
package, since aiobotocore wants an older botocore than our boto3: `--s3fs-venv` names a virtual environment that has
it; where there is none yet it is made, and s3fs is installed into it with pip.

Keys of the JSON file:
    setting                         peers, bytes, rounds, cpus (the server shares them), deadline_s (of two faults)
    libraries.S                     library and version of side S; sides left out are not in it
    jobs.J.S.wall_s, .cpu_s         medians for job J by side S; user and system time of its process, without the server
    jobs.J.S.peak_bytes             largest resident memory of any round, above that before the first one
    jobs.J.S.over_gather            wall_s / that of our gather
    jobs.J.gather_over_best         wall_s of our gather / the least of the others'; null without others
    faults.F.wall_s                 median seconds until gather returned; one round for those that last to the deadline
    faults.F.last_s                 median seconds until the last payload was decoded
    faults.F.after_end_s            seconds from the end of uploads until gather returned, where they end during it
    faults.F.skipped                most peers skipped in a round; more than a quarter if the deadline was short
    faults.F.reason                 of one of the peers that were skipped; null if there was none
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent

from tests.servers.nodes import credentials, node_buckets
from tests.servers.seaweed import seaweed

KEY = "run/payload/000000000"
SIDES = ("gather", "boto3, loop", "boto3, threads", "s3fs", "obstore")
CHECKED = {"bare": False, "checked": True}
"""Job -> whether each object is looked at first and its SHA-256 compared."""

S3FS = ("s3fs==2026.9.0", "aiobotocore==3.10.0")
GOING_ON = "no object, uploads going on"
UPLOADS_LAST_S = 1.0
CLOCK_S = 3.0  # a store's clock is told up to a second late, and gather waits for another one
LONG_S = 3600.0

Known = dict[str, str]
Job = dict[str, Any]
Measured = dict[str, Any]
Rows = dict[str, dict[str, Any]]


class Worker:
    """A side in a process of its own."""

    def __init__(self, side: str, jobs: Mapping[str, Job], python: str) -> None:
        """Start it and open its clients."""
        script = Path(__file__).with_name("gather_sides.py")
        self._side = side
        self._process = subprocess.Popen(
            [python, str(script), side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.opened = self._ask(jobs)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fetch(self, job: str, uploads_end: float) -> Measured:
        """Let it fetch everything once."""
        return self._ask([job, uploads_end])

    def _ask(self, question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._side} has failed; what it says is above")
        return json.loads(answer)


def known(node: str, endpoint_url: str, sha256: str) -> Known:
    """Return what a side must know of a node's object."""
    address = credentials(node, endpoint_url).address
    return {
        "node": node,
        "endpoint_url": endpoint_url,
        "bucket": address.account,
        "key_id": address.key.key_id,
        "secret": address.key.secret.reveal(),
        "sha256": sha256,
    }


def upload(endpoint_url: str, nodes: Sequence[str], size: int) -> list[Known]:
    """Put an object of random bytes into each node's bucket."""
    objects = []
    for node in nodes:
        data = os.urandom(size)
        node_buckets(node, endpoint_url).own().put(KEY, data)
        objects.append(known(node, endpoint_url, hashlib.sha256(data).hexdigest()))
    return objects


def whole_jobs(objects: Sequence[Known], common: Job) -> dict[str, Job]:
    """Return the jobs of all sides."""
    return {
        name: {**common, "is_checked": is_checked, "objects": objects, "absent": 0}
        for name, is_checked in CHECKED.items()
    }


def fault_jobs(objects: Sequence[Known], hole: str, common: Job, deadline_s: float) -> dict[str, Job]:
    """Return jobs of our gather in which a quarter of the peers does not answer as it should, and one without them."""
    count = len(objects) // 4
    present = objects[count:]

    def job(count: int, endpoint_url: str) -> Job:
        missing = [known(f"absent-{number}", endpoint_url, "00" * 32) for number in range(count)]
        return {**common, "is_checked": True, "objects": [*missing, *present], "absent": count}

    store = present[0]["endpoint_url"]
    return {
        "none": job(0, store),
        "no object": job(count, store),
        "refused": job(count, refusing()) | {"deadline_s": deadline_s},
        "black hole": job(count, hole) | {"deadline_s": deadline_s},
    }


@contextmanager
def black_hole() -> Iterator[str]:
    """Listen and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def refusing() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def compare(workers: Mapping[str, Worker], rounds: int) -> dict[str, Rows]:
    """Let all sides take turns at all jobs, after one round that is not counted."""
    taken: dict[tuple[str, str], list[Measured]] = {(job, side): [] for job in CHECKED for side in workers}
    for _ in range(1 + rounds):
        for (job, side), measured in taken.items():
            measured.append(workers[side].fetch(job, time.time() + LONG_S))
    jobs: dict[str, Rows] = {job: {} for job in CHECKED}
    for (job, side), measured in taken.items():
        jobs[job][side] = {
            "wall_s": median(one["wall_s"] for one in measured[1:]),
            "cpu_s": median(one["cpu_s"] for one in measured[1:]),
            "peak_bytes": max(one["peak_bytes"] for one in measured),
        }
    for rows in jobs.values():
        for row in rows.values():
            row["over_gather"] = row["wall_s"] / rows["gather"]["wall_s"]
    return jobs


def over_best(rows: Rows) -> float | None:
    """Return our seconds over the least of the others', None without others."""
    others = [row["wall_s"] for side, row in rows.items() if side != "gather"]
    return rows["gather"]["wall_s"] / min(others) if others else None


def measure_faults(worker: Worker, rounds: int, uploaded: float) -> Rows:
    """Gather with each fault in turns; once, where that lasts to the deadline."""
    over = uploaded + 1
    time.sleep(max(0.0, over + CLOCK_S - time.time()))
    taken: dict[str, list[Measured]] = {"none": [], "no object": []}
    for fault in taken:
        worker.fetch(fault, over)  # makes the connections
    for _ in range(rounds):
        for fault, measured in taken.items():
            measured.append(worker.fetch(fault, over))
    taken[GOING_ON] = [worker.fetch("no object", time.time() + UPLOADS_LAST_S) for _ in range(max(1, rounds // 5))]
    taken |= {fault: [worker.fetch(fault, over)] for fault in ("refused", "black hole")}
    faults = {fault: summary(measured) for fault, measured in taken.items()}
    faults[GOING_ON]["after_end_s"] = faults[GOING_ON]["wall_s"] - UPLOADS_LAST_S
    return faults


def summary(measured: Sequence[Measured]) -> dict[str, Any]:
    """Return the medians of some gathers, and a reason that was given."""
    found: dict[str, Any] = {name: median(one[name] for one in measured) for name in ("wall_s", "last_s")}
    skipped = max(len(one["skipped"]) for one in measured)
    return found | {"skipped": skipped, "reason": next(iter(measured[0]["skipped"]), None)}


def s3fs_python(folder: Path) -> str:
    """Return the Python of a virtual environment that has s3fs; make it if there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} with {', '.join(S3FS)}")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *S3FS], check=True)
    return str(python)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the server and all sides; return the report."""
    pythons = dict.fromkeys(SIDES, sys.executable)
    if arguments.s3fs_venv is not None:
        pythons["s3fs"] = s3fs_python(arguments.s3fs_venv)
    nodes = [f"peer-{number}" for number in range(arguments.peers)]
    keyed = [*nodes, *(f"absent-{number}" for number in range(len(nodes) // 4))]
    common = {"key": KEY, "size": int(arguments.mib * 2**20), "deadline_s": LONG_S}
    with ExitStack() as stack:
        server = stack.enter_context(seaweed(keyed, keyed))
        objects = upload(server.endpoint_url, nodes, common["size"])
        uploaded = time.time()
        whole = whole_jobs(objects, common)
        jobs = dict.fromkeys(SIDES, whole)
        jobs["gather"] = whole | fault_jobs(objects, stack.enter_context(black_hole()), common, arguments.deadline)
        opened = {side: stack.enter_context(Worker(side, jobs[side], pythons[side])) for side in SIDES}
        workers = {side: worker for side, worker in opened.items() if "missing" not in worker.opened}
        compared = compare(workers, arguments.rounds)
        faults = measure_faults(workers["gather"], arguments.rounds, uploaded)
    return {
        "setting": {
            "peers": len(nodes),
            "bytes": common["size"],
            "rounds": arguments.rounds,
            "deadline_s": arguments.deadline,
            "cpus": len(os.sched_getaffinity(0)),
        },
        "libraries": {side: worker.opened["library"] for side, worker in workers.items()},
        "jobs": {job: rows | {"gather_over_best": over_best(rows)} for job, rows in compared.items()},
        "faults": faults,
    }


def show(report: dict[str, Any]) -> None:
    """Print tables."""
    for side in [side for side in SIDES if side not in report["libraries"]]:
        print(f"{side} is left out: it is not installed (see --help)")
    for job, rows in report["jobs"].items():
        table = Table("side", "seconds", "over gather", "CPU seconds", "peak MiB", title=job)
        for side in report["libraries"]:
            row, mib = rows[side], f"{rows[side]['peak_bytes'] / 2**20:.0f}"
            table.add_row(side, f"{row['wall_s']:.3f}", f"{row['over_gather']:.2f}", f"{row['cpu_s']:.3f}", mib)
        Console().print(table)
        print(f"gather over the best of the others: {rows['gather_over_best']:.2f}")
    table = Table("fault of a quarter", "seconds", "last payload", "skipped", title="gather, checked, with faults")
    for fault, row in report["faults"].items():
        table.add_row(fault, f"{row['wall_s']:.3f}", f"{row['last_s']:.3f}", str(row["skipped"]))
    Console().print(table)
    for fault, row in report["faults"].items():
        print(f"{fault}: {row['reason'] or 'nobody is skipped'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="times that each side fetches everything")
    parser.add_argument("--peers", type=int, default=16, help="peers, at least 4")
    parser.add_argument("--mib", type=float, default=8.0, help="MiB of each object")
    parser.add_argument(
        "--deadline", type=float, default=35.0, help="seconds a gather may take with peers that never answer"
    )
    parser.add_argument("--s3fs-venv", type=Path, help="virtual environment with s3fs; made if it is not there")
    parser.add_argument("--quick", action="store_true", help="some seconds: 4 peers, small objects, 1 round")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.peers, arguments.mib, arguments.deadline = 1, 4, 0.25, 2.0
    report = measure(arguments)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
