"""What a checkpoint of the network consists of, and which one is the newest: signed by whoever publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from templar_pl.protocol.document import JsonMap, JsonValue
from templar_pl.protocol.fields import check_between, check_digests, check_names, check_version, read_map
from templar_pl.protocol.form import DIGEST, MAP, TEXT, WHOLE, Field, Form, Record
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
        check_version(self.version)
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
    """Write and sign a checkpoint. Raises `ValueError` as `Form.encode`."""
    return _FORM.encode(checkpoint, signer)


def decode_checkpoint(data: bytes, verify: Verify) -> tuple[bytes, Checkpoint]:
    """Read and check a checkpoint; arguments, result and errors as of `Form.decode`."""
    return _FORM.decode(data, verify)


def encode_latest(latest: Latest, signer: Signer) -> bytes:
    """Write and sign which checkpoint is the newest."""
    return _LATEST_FORM.encode(latest, signer)


def decode_latest(data: bytes, verify: Verify) -> tuple[bytes, Latest]:
    """Read and check which checkpoint is the newest; arguments, result and errors as of `Form.decode`."""
    return _LATEST_FORM.decode(data, verify)


def _checkpoint_of(run: str, window: Window, files: Mapping[str, dict[str, Any]], **said: Any) -> Checkpoint:
    """Make a checkpoint of what its fields say; the keys of its files follow from the rest."""
    stored = {name: StoredFile(key=checkpoint_keys(run, name).key(window), **file) for name, file in files.items()}
    model, optimizer = stored[MODEL_FILE], stored.get(OPTIMIZER_FILE)
    return Checkpoint(run=run, window=window, model=model, optimizer=optimizer, **said)


def _write_files(files: Mapping[str, StoredFile]) -> JsonMap:
    return {name: _FILE.write(file) for name, file in files.items()}


def _read_files(value: JsonValue, name: str) -> dict[str, dict[str, Any]]:
    files = read_map(value, name)
    check_names(files, {MODEL_FILE} | ({OPTIMIZER_FILE} & files.keys()))
    return {each: _FILE.read(read_map(files[each], each)) for each in files}


_FILE: Record[Any] = Record(dict, {"sha256": DIGEST, "size": WHOLE})
_FORM = Form(
    kind="checkpoint",
    what=CHECKPOINT_FILE,
    max_bytes=MAX_CHECKPOINT_BYTES,
    record=Record(
        _checkpoint_of,
        {
            "run": TEXT,
            "digest": DIGEST,
            "window": WHOLE,
            "applied": WHOLE,
            "fingerprint": DIGEST,
            "layout": DIGEST,
            "version": TEXT,
            "files": Field(_write_files, _read_files),
        },
        {"state": MAP, "tokens": WHOLE},
    ),
)
_LATEST_FORM = Form(
    kind="latest",
    what="name of a checkpoint",
    max_bytes=MAX_LATEST_BYTES,
    record=Record(Latest, {"run": TEXT, "window": WHOLE, "sha256": DIGEST}),
)
