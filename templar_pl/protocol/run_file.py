"""The run file: what somebody who joins a run must know before anything else, signed by whoever runs it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from templar_pl.protocol.fields import check_between, check_digests, check_version
from templar_pl.protocol.form import DIGEST, TEXT, WHOLE, Form, Record, nested
from templar_pl.protocol.keys import MAX_WINDOW, run_key
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Window

MAX_RUN_FILE_BYTES = 4096
"""A run file has some 600 bytes, less than 2048 at most."""

MAX_NETUID = 2**16 - 1
MAX_OBJECT_BYTES = 2**53 - 1

_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An object in the bucket of whoever names it. Raises `ValueError` for a value out of range."""

    key: str
    """1..4 segments of 1..100 letters, digits and `._-`, no dot first, behind `{run}/checkpoint/`."""

    sha256: bytes
    """32 bytes."""

    size: int
    """Bytes; 1..2**53 - 1."""

    def __post_init__(self) -> None:
        if not re.fullmatch(rf"[^/]+/checkpoint(?:/{_SEGMENT}){{1,4}}", self.key):
            raise ValueError(f"the key of a checkpoint must be RUN/checkpoint/..., got {self.key[:80]!r}")
        check_digests(self, "sha256")
        check_between(self, size=(1, MAX_OBJECT_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """What a run is. Raises `ValueError` for a value out of range."""

    run: str
    """Name of the run, the first part of all its keys."""

    digest: bytes
    """32 bytes: of the settings and parameter shapes that all nodes share, as payloads carry it."""

    netuid: int
    """Number of the subnet; 0..65535."""

    start_window: Window
    """The window whose update is the first of the run; 0..MAX_WINDOW."""

    blocks_per_window: int
    """Blocks of the chain a window lasts; 1..10**6."""

    version: str
    """Version of the package that published the file; 1..64 of 0-9, A-Z, a-z and `.+!_-`."""

    checkpoint: StoredFile | None = None
    """The parameters before the first window; None if every node draws them itself."""

    def __post_init__(self) -> None:
        run_key(self.run)
        check_digests(self, "digest")
        check_between(self, netuid=(0, MAX_NETUID), start_window=(0, MAX_WINDOW), blocks_per_window=(1, 10**6))
        check_version(self.version)
        if self.checkpoint is not None and not self.checkpoint.key.startswith(f"{self.run}/"):
            raise ValueError(f"the checkpoint of {self.run} must be below its name, got {self.checkpoint.key!r}")


_STORED_FILE = Record(StoredFile, {"key": TEXT, "sha256": DIGEST, "size": WHOLE})
_FORM = Form(
    kind="run",
    what="run file",
    max_bytes=MAX_RUN_FILE_BYTES,
    record=Record(
        RunFile,
        {
            "run": TEXT,
            "digest": DIGEST,
            "netuid": WHOLE,
            "start_window": WHOLE,
            "blocks_per_window": WHOLE,
            "version": TEXT,
        },
        {"checkpoint": nested(_STORED_FILE)},
    ),
)


def encode_run_file(run_file: RunFile, signer: Signer) -> bytes:
    """Write and sign a run file, in at most MAX_RUN_FILE_BYTES bytes."""
    return _FORM.encode(run_file, signer)


def decode_run_file(data: bytes, verify: Verify) -> tuple[bytes, RunFile]:
    """Read and check a run file; arguments, result and errors as of `Form.decode`."""
    return _FORM.decode(data, verify)
