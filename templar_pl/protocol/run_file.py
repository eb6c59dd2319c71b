"""The run file: what somebody who joins a run must know before anything else, signed by whoever runs it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from templar_pl.protocol.document import JsonMap, JsonValue, open_document, sign_document
from templar_pl.protocol.fields import check_between, check_digests, check_names, digest_of, text_of, whole_of
from templar_pl.protocol.keys import MAX_WINDOW, run_key
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Window

MAX_RUN_FILE_BYTES = 4096
"""A run file has some 600 bytes, less than 2048 at most."""

MAX_NETUID = 2**16 - 1
MAX_OBJECT_BYTES = 2**53 - 1

_KIND = "run"
_VERSION = re.compile(r"[0-9A-Za-z.+!_-]{1,64}")
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
_FIELDS = {"run", "digest", "netuid", "start_window", "blocks_per_window", "version"}


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
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"version must be 1..64 of 0-9, A-Z, a-z and `.+!_-`, got {self.version[:80]!r}")
        if self.checkpoint is not None and not self.checkpoint.key.startswith(f"{self.run}/"):
            raise ValueError(f"the checkpoint of {self.run} must be below its name, got {self.checkpoint.key!r}")


def encode_run_file(run_file: RunFile, signer: Signer) -> bytes:
    """Write and sign a run file, in at most MAX_RUN_FILE_BYTES bytes."""
    statement: JsonMap = {
        "run": run_file.run,
        "digest": run_file.digest.hex(),
        "netuid": run_file.netuid,
        "start_window": run_file.start_window,
        "blocks_per_window": run_file.blocks_per_window,
        "version": run_file.version,
    }
    if run_file.checkpoint is not None:
        file = run_file.checkpoint
        statement["checkpoint"] = {"key": file.key, "sha256": file.sha256.hex(), "size": file.size}
    return sign_document(_KIND, statement, signer)


def decode_run_file(data: bytes, verify: Verify) -> tuple[bytes, RunFile]:
    """Read and check a run file.

    Args:
        data: bytes of any content and length.
        verify: checks a signature.

    Returns:
        The public key of whoever signed it, which may be anybody, and what it says.

    Raises:
        DocumentError: the bytes are no run file, or the signature is not good. The fault is SIZE, FORMAT, SIGNATURE or
            CONTENT.
    """
    return open_document(_KIND, data, verify, max_bytes=MAX_RUN_FILE_BYTES).read(_read, "run file")


def _read(statement: JsonMap) -> RunFile:
    """Return what a statement says. Raises `ValueError` if it is none about a run."""
    check_names(statement, _FIELDS | ({"checkpoint"} & statement.keys()))
    return RunFile(
        run=text_of(statement, "run"),
        digest=digest_of(statement, "digest"),
        netuid=whole_of(statement, "netuid"),
        start_window=Window(whole_of(statement, "start_window")),
        blocks_per_window=whole_of(statement, "blocks_per_window"),
        version=text_of(statement, "version"),
        checkpoint=_stored_file(statement["checkpoint"]) if "checkpoint" in statement else None,
    )


def _stored_file(value: JsonValue) -> StoredFile:
    if not isinstance(value, dict):
        raise ValueError("checkpoint must be a map")
    check_names(value, {"key", "sha256", "size"})
    return StoredFile(key=text_of(value, "key"), sha256=digest_of(value, "sha256"), size=whole_of(value, "size"))
