"""What a checkpoint of the network consists of, and which one is the newest: signed by whoever publishes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from templar_pl.protocol.document import JsonMap, JsonValue, open_document, sign_document
from templar_pl.protocol.fields import check_between, check_digests, check_names, digest_of, text_of, whole_of
from templar_pl.protocol.keys import MAX_WINDOW, checkpoint_keys, run_key
from templar_pl.protocol.run_file import StoredFile
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Window

CHECKPOINT_FILE = "checkpoint.json"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"

MAX_CHECKPOINT_BYTES = 2**18
"""Some 1500 bytes with one group of parameters and one schedule."""

MAX_LATEST_BYTES = 1024

MAX_TOKENS = 2**53 - 1

_KIND, _LATEST_KIND = "checkpoint", "latest"
_VERSION = re.compile(r"[0-9A-Za-z.+!_-]{1,64}")
_FIELDS = {"run", "digest", "window", "applied", "fingerprint", "layout", "version", "files"}
_OPTIONAL = {"state", "tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The model of a run between two windows. Raises `ValueError` for a value out of range."""

    run: str
    """Name of the run, the first part of all its keys."""

    digest: bytes
    """32 bytes: of the settings and parameter shapes that all nodes share, as payloads carry it."""

    window: Window
    """The next window to apply: the parameters are those at which gradients of this window are taken, all windows
    before it are applied. 0..MAX_WINDOW."""

    applied: int
    """Windows of the run applied to them, which is the number of optimizer steps; 0..window. The run began with window
    `window - applied`."""

    fingerprint: bytes
    """32 bytes: of the parameters."""

    layout: bytes
    """32 bytes: SHA-256 of the head of the model's file, so of names, dtypes and shapes."""

    version: str
    """Version of the package that wrote it; 1..64 of 0-9, A-Z, a-z and `.+!_-`."""

    model: StoredFile
    """The parameters, under the key `{run}/checkpoint/{window:09d}/model.safetensors`."""

    optimizer: StoredFile | None = None
    """The optimizer's tensors, `optimizer.safetensors` beside it; None if it keeps none."""

    state: JsonMap | None = None
    """What optimizer and schedules keep besides; None if only parameters are stored."""

    tokens: int | None = None
    """Tokens that all nodes trained on in these windows; None if it is not known."""

    def __post_init__(self) -> None:
        run_key(self.run)
        check_digests(self, "digest", "fingerprint", "layout")
        check_between(self, window=(0, MAX_WINDOW), applied=(0, self.window))
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"version must be 1..64 of 0-9, A-Z, a-z and `.+!_-`, got {self.version[:80]!r}")
        if self.tokens is not None:
            check_between(self, tokens=(0, MAX_TOKENS))
        if self.state is None and self.optimizer is not None:
            raise ValueError("tensors of an optimizer need its state")
        for name, file in self.files.items():
            if file.key != (key := checkpoint_keys(self.run, name).key(self.window)):
                raise ValueError(f"the key of {name} must be {key}, got {file.key!r}")

    @property
    def start_window(self) -> Window:
        """The first window of the run."""
        return Window(self.window - self.applied)

    @property
    def files(self) -> dict[str, StoredFile]:
        """The files by name."""
        optimizer = {} if self.optimizer is None else {OPTIMIZER_FILE: self.optimizer}
        return {MODEL_FILE: self.model, **optimizer}


@dataclass(frozen=True, slots=True)
class Latest:
    """Which checkpoint is the newest that is complete. Raises `ValueError` for a value out of range."""

    run: str
    window: Window
    """Of the checkpoint; 0..MAX_WINDOW."""

    sha256: bytes
    """32 bytes: of its `checkpoint.json`."""

    def __post_init__(self) -> None:
        run_key(self.run)
        check_digests(self, "sha256")
        check_between(self, window=(0, MAX_WINDOW))


def encode_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """Write and sign a checkpoint.

    Raises:
        ValueError: there are more than MAX_CHECKPOINT_BYTES bytes, or the state is no statement.
    """
    statement: JsonMap = {
        "run": checkpoint.run,
        "digest": checkpoint.digest.hex(),
        "window": checkpoint.window,
        "applied": checkpoint.applied,
        "fingerprint": checkpoint.fingerprint.hex(),
        "layout": checkpoint.layout.hex(),
        "version": checkpoint.version,
        "files": {name: {"sha256": f.sha256.hex(), "size": f.size} for name, f in checkpoint.files.items()},
    }
    if checkpoint.state is not None:
        statement["state"] = checkpoint.state
    if checkpoint.tokens is not None:
        statement["tokens"] = checkpoint.tokens
    data = sign_document(_KIND, statement, signer)
    if len(data) > MAX_CHECKPOINT_BYTES:
        raise ValueError(f"{CHECKPOINT_FILE} has at most {MAX_CHECKPOINT_BYTES} bytes, got {len(data)}")
    return data


def decode_checkpoint(data: bytes, verify: Verify) -> tuple[bytes, Checkpoint]:
    """Read and check a checkpoint.

    Args:
        data: bytes of any content and length.
        verify: checks a signature.

    Returns:
        The public key of whoever signed it, which may be anybody, and what it says.

    Raises:
        DocumentError: the fault is SIZE, FORMAT, SIGNATURE or CONTENT.
    """
    return open_document(_KIND, data, verify, max_bytes=MAX_CHECKPOINT_BYTES).read(_read, "checkpoint")


def encode_latest(latest: Latest, signer: Signer) -> bytes:
    """Write and sign which checkpoint is the newest."""
    statement: JsonMap = {"run": latest.run, "window": latest.window, "sha256": latest.sha256.hex()}
    return sign_document(_LATEST_KIND, statement, signer)


def decode_latest(data: bytes, verify: Verify) -> tuple[bytes, Latest]:
    """Read and check which checkpoint is the newest; arguments, result and errors as of `decode_checkpoint`."""
    return open_document(_LATEST_KIND, data, verify, max_bytes=MAX_LATEST_BYTES).read(
        _read_latest, "name of a checkpoint"
    )


def _read_latest(values: JsonMap) -> Latest:
    check_names(values, {"run", "window", "sha256"})
    return Latest(text_of(values, "run"), Window(whole_of(values, "window")), digest_of(values, "sha256"))


def _read(values: JsonMap) -> Checkpoint:
    """Return what a statement says. Raises `ValueError` if it is none about a checkpoint."""
    check_names(values, _FIELDS | (_OPTIONAL & values.keys()))
    run, window = text_of(values, "run"), Window(whole_of(values, "window"))
    files = _map_of(values, "files")
    check_names(files, {MODEL_FILE} | ({OPTIMIZER_FILE} & files.keys()))
    stored = {name: _stored(run, window, name, _map_of(files, name)) for name in files}
    return Checkpoint(
        run=run,
        digest=digest_of(values, "digest"),
        window=window,
        applied=whole_of(values, "applied"),
        fingerprint=digest_of(values, "fingerprint"),
        layout=digest_of(values, "layout"),
        version=text_of(values, "version"),
        model=stored[MODEL_FILE],
        optimizer=stored.get(OPTIMIZER_FILE),
        state=_map_of(values, "state") if "state" in values else None,
        tokens=whole_of(values, "tokens") if "tokens" in values else None,
    )


def _stored(run: str, window: Window, name: str, values: JsonMap) -> StoredFile:
    check_names(values, {"sha256", "size"})
    key = checkpoint_keys(run, name).key(window)
    return StoredFile(key=key, sha256=digest_of(values, "sha256"), size=whole_of(values, "size"))


def _map_of(values: JsonMap, name: str) -> JsonMap:
    value: JsonValue = values[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a map, got a {type(value).__name__}")
    return value
