"""Aggregate <-> bytes: the update of one window, -1, 0 or +1 for every element, for nodes that were not there.

    magic `TMPA`, version u32, window u64, run digest 32, public key 32, SHA-256 of the manifest 32, shapes digest 32
    for each parameter, by name: its elements in blocks of MAX_BLOCK_NUMEL (`compression/ternary.py`), SHA-256 32
    SHA-256 32, signature 64

Little-endian. Each SHA-256 is of everything before it; the hotkey signs a tag and the last one. Both ways an aggregate
goes tensor by tensor, in memory for one tensor, one block and one chunk of the bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from templar_pl.compression.passing import OnePlace
from templar_pl.compression.ternary import MAX_BLOCK_NUMEL, Ternary, TernaryError, most_bytes, pack_block, unpack_block
from templar_pl.errors import AggregateError, Fault
from templar_pl.protocol.fields import DIGEST_BYTES, check_between, check_digests
from templar_pl.protocol.keys import MAX_WINDOW
from templar_pl.protocol.signing import SIGNATURE_BYTES, Signer, Verify
from templar_pl.units import Window

MAGIC = b"TMPA"
VERSION = 1

_HEAD = struct.Struct(f"<4sIQ{DIGEST_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}s")
_SHAPES_TAG = b"templar_pl/shapes/1\0"
_SIGNATURE_TAG = b"templar_pl/aggregate/1\0"

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of every parameter that is exchanged, in any order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateHead:
    """What an aggregate says it is, or must be. Raises `ValueError` for a value out of range."""

    run: bytes
    """Digest of the run's settings; 32 bytes."""

    window: Window
    """The window whose update it is; 0..MAX_WINDOW."""

    public_key: bytes
    """The aggregator's hotkey; 32 bytes."""

    manifest: bytes
    """SHA-256 of the manifest of this window, as it stands in the aggregator's bucket; 32 bytes."""

    def __post_init__(self) -> None:
        check_digests(self, "run", "public_key", "manifest")
        check_between(self, window=(0, MAX_WINDOW))


_FAULTS = {"run": Fault.RUN, "window": Fault.WINDOW, "public_key": Fault.SENDER, "manifest": Fault.HASH}


def shapes_digest(shapes: Shapes) -> bytes:
    """Return 32 bytes that tell sets of parameters apart."""
    digest = hashlib.sha256(_SHAPES_TAG)
    for name in sorted(shapes):
        encoded, shape = name.encode(), shapes[name]
        digest.update(struct.pack("<I", len(encoded)) + encoded)
        digest.update(struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
    return digest.digest()


def max_aggregate_bytes(shapes: Shapes) -> int:
    """Return the bytes that no aggregate of a model with these parameters exceeds: some 0.1982 an element."""
    blocks = sum(most_bytes(size) for shape in shapes.values() for size in _block_sizes(math.prod(shape)))
    return _HEAD.size + blocks + DIGEST_BYTES * (len(shapes) + 1) + SIGNATURE_BYTES


def encode_aggregate(
    head: AggregateHead, update: Iterable[tuple[str, Tensor]], shapes: Shapes, signer: Signer
) -> Iterator[bytes]:
    """Write and sign an aggregate, piece by piece.

    Args:
        head: what it is, with the public key of `signer`.
        update: name and -1, 0 or 1 for every element of each parameter, by name; in its shape, of any real dtype, on
            any device. They are asked for one by one.
        shapes: of all parameters.
        signer: the hotkey of the aggregator.

    Yields:
        The bytes; the same for the same meaning, up to the signature.

    Raises:
        ValueError: a parameter is missing, unknown, not in the order of the names, of another shape or holds another
            number; or the signer is another one than the head names.
    """
    if head.public_key != signer.public_key:
        raise ValueError(f"the head names {head.public_key.hex()}, the signer is {signer.public_key.hex()}")
    digest = hashlib.sha256()
    for piece in _pieces(head, update, shapes):
        # What comes behind a parameter, and at the end, is the hash of what came before.
        data = piece if piece is not None else digest.digest()
        digest.update(data)
        yield data
    signature = signer.sign(_SIGNATURE_TAG + digest.digest())
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature must have {SIGNATURE_BYTES} bytes, got {len(signature)}")
    yield digest.digest() + signature


def decode_aggregate(
    chunks: Iterable[bytes],
    shapes: Shapes,
    expected: AggregateHead,
    verify: Verify,
    *,
    dtype: torch.dtype = torch.int8,
) -> Iterator[tuple[str, Tensor]]:
    """Read and check an aggregate, tensor by tensor; besides the tensors, in memory for two blocks and a chunk.

    A tensor is yielded when all bytes up to its end are those that whoever wrote them hashed. Whether that was the
    aggregator shows at the end only: before that, take the tensors into a copy, or read bytes whose hash is known.

    Args:
        chunks: the bytes, which may be any, in pieces of any sizes; what this raises goes through.
        shapes: of all parameters.
        expected: what was asked for.
        verify: checks a signature.
        dtype: of the tensors, any that numpy has and that holds -1.

    Yields:
        Name and -1, 0 or 1 for every element of each parameter, on the CPU, by name. Nothing keeps them.

    Raises:
        AggregateError: the bytes are not the aggregate that was asked for. Its fault is SIZE, FORMAT, RUN, WINDOW,
            SENDER, HASH, CONTENT or SIGNATURE.
    """
    stream = _Stream(chunks)
    _check_head(stream.take(_HEAD.size), shapes, expected)
    place = OnePlace(shapes.values(), dtype)
    for name in sorted(shapes):
        yield name, _read_tensor(stream, name, place.empty(shapes[name]))
    _check_end(stream, expected, verify)


def check_aggregate(chunks: Iterable[bytes], shapes: Shapes, expected: AggregateHead, verify: Verify) -> None:
    """Do what `decode_aggregate` does, and keep nothing of it: two blocks and a chunk of the bytes in memory.

    Raises:
        AggregateError: as `decode_aggregate`.
    """
    stream = _Stream(chunks)
    _check_head(stream.take(_HEAD.size), shapes, expected)
    for name in sorted(shapes):
        for _ in _read_blocks(stream, name, math.prod(shapes[name])):
            pass
    _check_end(stream, expected, verify)


class _Stream:
    """Hands over bytes in the sizes that are asked for, and hashes them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._left, self._digest = iter(chunks), memoryview(b""), hashlib.sha256()

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises `AggregateError` if there are fewer."""
        parts, missing = [], size
        while missing:
            if not self.has_more():
                raise AggregateError(f"it ends where {missing} more bytes must follow", fault=Fault.SIZE)
            parts.append(self._left[:missing])
            self._left = self._left[missing:]
            missing -= len(parts[-1])
        data = b"".join(parts)
        self._digest.update(data)
        return data

    def has_more(self) -> bool:
        """Tell whether any bytes are left."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._left = memoryview(chunk)
        return True

    def check_digest(self, where: str) -> bytes:
        """Return the hash that comes next. Raises `AggregateError` if it is not that of all bytes before it."""
        found = self._digest.digest()
        if self.take(DIGEST_BYTES) != found:
            raise AggregateError(f"the hash at {where} is not that of the bytes before it", fault=Fault.HASH)
        return found


def _pieces(head: AggregateHead, update: Iterable[tuple[str, Tensor]], shapes: Shapes) -> Iterator[bytes | None]:
    """Yield what an aggregate is made of up to its last hash; None stands for the others. Raises `ValueError`."""
    yield _HEAD.pack(MAGIC, VERSION, head.window, head.run, head.public_key, head.manifest, shapes_digest(shapes))
    names = sorted(shapes)
    for name, tensor in update:
        if not names or name != names[0] or tuple(tensor.shape) != shapes[name]:
            must = f"{names[0]} of shape {shapes[names[0]]}" if names else "nothing"
            raise ValueError(f"{must} must come next, got {name} of shape {tuple(tensor.shape)}")
        del names[0]
        flat, start = tensor.detach().reshape(-1), 0
        for size in _block_sizes(len(flat)):
            yield pack_block(_as_ternary(flat[start : start + size], name))
            start += size
        del tensor, flat  # or they would be here while the next one is made
        yield None
    if names:
        raise ValueError(f"the update lacks {len(names)} parameters, the first is {names[0]}")


def _block_sizes(numel: int) -> Iterator[int]:
    """Yield the elements of each block of a parameter."""
    for start in range(0, numel, MAX_BLOCK_NUMEL):
        yield min(MAX_BLOCK_NUMEL, numel - start)


def _as_ternary(block: Tensor, name: str) -> Ternary:
    """Return a block, (n,), as numbers of one byte. Raises `ValueError` if there are others than -1, 0 and 1."""
    numbers = (block.float() if block.dtype in (torch.bfloat16, torch.float16) else block).cpu().numpy()
    values = (numbers > 0).view(np.int8) - (numbers < 0).view(np.int8)
    if not (values == numbers).all():
        raise ValueError(f"an update is made of -1, 0 and 1, got {numbers[values != numbers][0]} in {name}")
    return values


def _check_head(packed: bytes, shapes: Shapes, expected: AggregateHead) -> None:
    """Raise `AggregateError` if a head is not what was expected."""
    magic, version, window, run, public_key, manifest, digest = _HEAD.unpack(packed)
    if magic != MAGIC or version != VERSION:
        reason = f"an aggregate begins with {MAGIC!r} and version {VERSION}, got {magic!r} and {version}"
        raise AggregateError(reason, fault=Fault.FORMAT)
    found = {"run": run, "window": window, "public_key": public_key, "manifest": manifest}
    for field in fields(expected):
        is_, must = found[field.name], getattr(expected, field.name)
        if is_ != must:
            raise AggregateError(f"{field.name} must be {_shown(must)}, got {_shown(is_)}", fault=_FAULTS[field.name])
    if digest != shapes_digest(shapes):
        raise AggregateError("it is of a model with other parameters", fault=Fault.CONTENT)


def _read_tensor(stream: _Stream, name: str, tensor: Tensor) -> Tensor:
    """Write to a tensor what comes next, and return it. Raises `AggregateError`."""
    flat = tensor.view(-1).numpy()
    for start, block in _read_blocks(stream, name, len(flat)):
        flat[start : start + len(block)] = block
    return tensor


def _read_blocks(stream: _Stream, name: str, numel: int) -> Iterator[tuple[int, Ternary]]:
    """Yield the blocks of the next tensor, each with its place; the next one overwrites it. Raises `AggregateError`."""
    room, start = np.empty(min(numel, MAX_BLOCK_NUMEL), dtype=np.int8), 0
    for size in _block_sizes(numel):
        try:
            unpack_block(stream.take, room[:size])
        except TernaryError as error:
            reason = f"parameter {name}, elements from {start} on: {error}"
            raise AggregateError(reason, fault=Fault.CONTENT) from error
        yield start, room[:size]
        start += size
    stream.check_digest(f"the end of {name}")


def _check_end(stream: _Stream, expected: AggregateHead, verify: Verify) -> None:
    """Raise `AggregateError` if what follows the tensors is not the last hash, its signature and the end."""
    message = _SIGNATURE_TAG + stream.check_digest("the end")
    if not verify(expected.public_key, message, stream.take(SIGNATURE_BYTES)):
        reason = f"the signature is not one of {expected.public_key.hex()} over these bytes"
        raise AggregateError(reason, fault=Fault.SIGNATURE)
    if stream.has_more():
        raise AggregateError("there are bytes behind the signature", fault=Fault.SIZE)


def _shown(value: bytes | int) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
