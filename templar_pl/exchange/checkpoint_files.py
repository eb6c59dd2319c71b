"""A checkpoint of the network as files in a folder: written from a model in use, and loaded into one.

<folder>/model.safetensors       the parameters
<folder>/optimizer.safetensors   what the optimizer keeps for them, if anything
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from templar_pl.errors import CheckpointError, ConfigError, Fault, OutOfSyncError, StoreError
from templar_pl.exchange.disk import explained
from templar_pl.exchange.large_objects import FileDigest, open_source
from templar_pl.exchange.tensor_files import PIECE_NUMEL, TensorFile, open_tensors, write_tensors
from templar_pl.protocol.checkpoint import MODEL_FILE, OPTIMIZER_FILE, Checkpoint
from templar_pl.protocol.fingerprint import TensorSum, combine_sums, fingerprint, partial_sum
from templar_pl.protocol.model_state import (
    MAX_KEYS,
    ModelState,
    check_optimizer_layout,
    max_optimizer_bytes,
    optimizer_tensors,
    place_for,
    read_description,
)
from templar_pl.protocol.tensor_layout import LENGTH_BYTES, difference, encode_header, file_bytes, layout_of

_HEADER_BYTES_PER_NAME = 512  # besides the name itself, and with it a key of 64 characters
NOT_STORABLE = "this model cannot be stored for others"

_OWN_HEADER_BYTES = 2**26
_LONGEST_CHARACTER = 6  # bytes that a character of a name takes in JSON at most


def write_snapshot(folder: Path, state: ModelState) -> None:
    """Write the files of a checkpoint into a folder; the model must not change meanwhile.

    Raises:
        ConfigError: the optimizer keeps something that cannot be stored or that no other node would take, or a
            parameter's dtype cannot be stored.
        StoreError: the disk failed.
    """
    try:
        layout_of(state.parameters)
        kept = optimizer_tensors(state)
        check_optimizer_layout(layout_of(kept), state)
    except (ValueError, CheckpointError) as error:
        raise ConfigError(f"{NOT_STORABLE}: {error}; publish no checkpoints") from error
    write_tensors(folder / MODEL_FILE, state.parameters)
    if kept:
        write_tensors(folder / OPTIMIZER_FILE, kept)


def digests(folder: Path) -> dict[str, FileDigest]:
    """Hash the files of a checkpoint. Raises `StoreError`."""
    found = {}
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        path = folder / name
        with explained("read", path):
            if path.exists():
                with open_source(path) as source:
                    found[name] = source.digest()
    return found


def inspect(folder: Path) -> tuple[bytes, bytes]:
    """Read the files of a checkpoint of our own, 2^20 elements at a time.

    Returns:
        The fingerprint of the parameters, and the digest of their layout.

    Raises:
        CheckpointError: a file is malformed, or a number is not finite.
        StoreError: the disk failed.
    """
    if (folder / OPTIMIZER_FILE).exists():
        with open_tensors(folder / OPTIMIZER_FILE, max_header_bytes=_OWN_HEADER_BYTES) as file:
            _check_all_finite(file)
    with open_tensors(folder / MODEL_FILE, max_header_bytes=_OWN_HEADER_BYTES) as file:
        return _fingerprint_of(file), hashlib.sha256(encode_header(file.layout)).digest()


def load_checkpoint(folder: Path, checkpoint: Checkpoint, state: ModelState) -> None:
    """Load a checkpoint into a model in use, which is touched only when all of it is known to be right.

    Every file is read twice, piece by piece: to be checked, and to be loaded. Memory: the model, 2^20 elements (one
    tensor, where it is not contiguous), and what the optimizer had not kept yet. Without an optimizer in `state` only
    the parameters are loaded.

    Args:
        folder: with its files.
        checkpoint: what they hold.
        state: the model, of the same make. What its optimizer keeps is replaced too.

    Raises:
        CheckpointError: files and checkpoint differ, they do not fit the model, or a number is not finite; the model is
            as it was.
        StoreError: the disk failed while the files were checked; the model is as it was.
        OutOfSyncError: the files changed, or the disk failed, while they were loaded: the model is neither the old nor
            the new one. Another checkpoint must be loaded before it is used.
    """
    with _opened(folder, checkpoint, state) as files:
        description = None
        if state.optimizer is not None:
            if checkpoint.state is None:
                raise CheckpointError("it has no state of the optimizer, only parameters", fault=Fault.CONTENT)
            description = read_description(state, checkpoint.state)
        _check(files, checkpoint)
        try:
            _load(files, state)
        except (CheckpointError, StoreError) as error:
            raise OutOfSyncError(_half_loaded(checkpoint, str(error))) from error
    if description is not None:
        description.take_over(state)
    if (found := fingerprint(state.parameters)) != checkpoint.fingerprint:
        raise OutOfSyncError(_half_loaded(checkpoint, f"their fingerprint is {found.hex()}"))


def check_sizes(checkpoint: Checkpoint, state: ModelState) -> None:
    """Refuse a checkpoint that cannot be one of this model, before any of its files is fetched.

    Raises:
        CheckpointError: the fault is CONTENT for another layout, SIZE for a size.
    """
    layout = layout_of(state.parameters)
    header = encode_header(layout)
    if checkpoint.layout != hashlib.sha256(header).digest():
        raise CheckpointError("its parameters have other names, dtypes or shapes", fault=Fault.CONTENT)
    if checkpoint.model.size != (expected := file_bytes(layout)):
        raise CheckpointError(
            f"{MODEL_FILE} is said to have {checkpoint.model.size} bytes, must have {expected}", fault=Fault.SIZE
        )
    limit = max_optimizer_bytes(state.parameters) + _max_optimizer_header(state)
    if checkpoint.optimizer is not None and checkpoint.optimizer.size > limit:
        raise CheckpointError(
            f"{OPTIMIZER_FILE} is said to have {checkpoint.optimizer.size} bytes, {limit} are allowed", fault=Fault.SIZE
        )


Files = dict[str, TensorFile]


@contextmanager
def _opened(folder: Path, checkpoint: Checkpoint, state: ModelState) -> Iterator[Files]:
    """Open the files that are loaded, and compare what they hold with the model."""
    expected = layout_of(state.parameters)
    with open_tensors(folder / MODEL_FILE, max_header_bytes=len(encode_header(expected))) as model:
        if odd := difference(model.layout, expected):
            raise CheckpointError(f"{MODEL_FILE}: {odd}", fault=Fault.CONTENT)
        if state.optimizer is None or checkpoint.optimizer is None:
            yield {MODEL_FILE: model}
            return
        with open_tensors(folder / OPTIMIZER_FILE, max_header_bytes=_max_optimizer_header(state)) as optimizer:
            check_optimizer_layout(optimizer.layout, state)
            yield {MODEL_FILE: model, OPTIMIZER_FILE: optimizer}


def _check(files: Files, checkpoint: Checkpoint) -> None:
    """Read everything once: parameters are told by their fingerprint. Raises `CheckpointError`."""
    if (found := _fingerprint_of(files[MODEL_FILE])) != checkpoint.fingerprint:
        said = checkpoint.fingerprint.hex()
        raise CheckpointError(
            f"the fingerprint of its parameters is {found.hex()}, said to be {said}", fault=Fault.CONTENT
        )
    if checkpoint.optimizer is None or OPTIMIZER_FILE not in files:
        return
    file = files[OPTIMIZER_FILE]
    if (digest := file.digest().sha256) != checkpoint.optimizer.sha256:
        said = checkpoint.optimizer.sha256.hex()
        raise CheckpointError(f"{OPTIMIZER_FILE} has sha256 {digest.hex()}, must have {said}", fault=Fault.HASH)
    _check_all_finite(file)


@torch.no_grad()
def _load(files: Files, state: ModelState) -> None:
    for name in files[MODEL_FILE].layout:
        _copy_(state.parameters[name], files[MODEL_FILE], name)
    if state.optimizer is None:
        return
    if OPTIMIZER_FILE not in files:
        state.optimizer.state.clear()
        return
    for name, form in files[OPTIMIZER_FILE].layout.items():
        _copy_(place_for(state, name, form), files[OPTIMIZER_FILE], name)


def _fingerprint_of(file: TensorFile) -> bytes:
    """Return the fingerprint of all tensors of a file. Raises `CheckpointError` if one is not finite."""
    return combine_sums({name: _sum_of(file, name) for name in file.layout})


def _sum_of(file: TensorFile, name: str) -> TensorSum:
    """Return what the fingerprint takes from a tensor."""
    form, value = file.layout[name], 0
    for start, piece in file.pieces(name):
        _check_finite(name, piece)
        value += int(partial_sum(piece, start))
    return TensorSum(form.dtype, form.shape, value)


def _check_all_finite(file: TensorFile) -> None:
    for name in file.layout:
        for _, piece in file.pieces(name):
            _check_finite(name, piece)


def _copy_(target: Tensor, file: TensorFile, name: str) -> None:
    """Overwrite a tensor, on any device, with one of a file."""
    if target.numel() <= PIECE_NUMEL or not target.is_contiguous():
        target.copy_(file.read(name))
        return
    flat = target.view(-1)
    for start, piece in file.pieces(name):
        flat[start : start + len(piece)].copy_(piece)


def _check_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and tensor.numel():
        # Neither allocates: a NaN anywhere makes both ends NaN.
        low, high = torch.aminmax(tensor)
        if not (low.isfinite() and high.isfinite()):
            raise CheckpointError(
                f"{name[:200]} holds a number that is not finite: the run diverged", fault=Fault.CONTENT
            )


def _max_optimizer_header(state: ModelState) -> int:
    names = sum(_LONGEST_CHARACTER * len(name) + _HEADER_BYTES_PER_NAME for name in state.parameters)
    return LENGTH_BYTES + MAX_KEYS * names


def _half_loaded(checkpoint: Checkpoint, reason: str) -> str:
    return (
        f"the parameters in memory are not those of the checkpoint of window {checkpoint.window}: {reason}; load "
        "another checkpoint or start again, they must not be trained on"
    )
