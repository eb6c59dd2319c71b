"""32 bytes that tell whether two nodes hold the same parameters, bit for bit.

Per tensor, a 64-bit sum over its elements of a mix of the element's bits and its place. The sum wraps around, so
blocks, shards, threads and devices may add in any order. One changed element always changes the sum, several changed
ones all but once in 2**64. It finds faults; it does not stop a forger, who can copy a fingerprint anyway.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BITS_AS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_TAG = b"templar_pl/fingerprint/1\0"

# Constants of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), as signed 64-bit numbers. GOLDEN is 2**64 / phi: multiples
# up to 1.9e9 of it stay more than 2**32 apart, so no two (32-bit element, place) pairs of one tensor meet.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64

_CPU_BLOCK = 2**15  # elements: what a block needs, 3/4 of a MiB, stays in a second-level cache
_CPU_STEP = np.int64((_CPU_BLOCK * _GOLDEN + 2**63) % 2**64 - 2**63)  # from a place to that one block further on
_DEVICE_BLOCK = 2**22  # elements: few launches, 32 MiB each for the two int64 values in use


@dataclass(frozen=True, slots=True)
class TensorSum:
    """What a fingerprint takes from one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    """Of the whole tensor, not of a shard."""

    value: int
    """`partial_sum` of the whole tensor, or the sum of it over all shards; only its lowest 64 bits count."""


def fingerprint(tensors: Mapping[str, Tensor]) -> bytes:
    """Return 32 bytes for named tensors, the same on every device.

    Args:
        tensors: of any real or boolean dtype, any shape, any device; the order of the names does not matter.

    Raises:
        TypeError: a tensor is complex or quantised.
    """
    # All sums are under way before the first one is waited for.
    sums = {name: partial_sum(tensor) for name, tensor in tensors.items()}
    return combine_sums(
        {name: TensorSum(tensor.dtype, tuple(tensor.shape), int(sums[name])) for name, tensor in tensors.items()}
    )


def partial_sum(tensor: Tensor, offset: int = 0) -> Tensor:
    """Sum the mixed elements of a tensor or of a contiguous piece of one.

    The sums of the pieces of a tensor add up, in int64 with wrap-around, to the sum of the tensor.

    Args:
        tensor: any shape, dtype of 1, 2, 4 or 8 bytes; read in row-major order. One that is not contiguous is copied.
        offset: place of its first element in the whole tensor, at least 0.

    Returns:
        An int64 scalar on the tensor's device.

    Raises:
        TypeError: the tensor is complex or quantised.
        ValueError: offset is negative.
    """
    if tensor.is_complex() or tensor.is_quantized:
        raise TypeError(f"a fingerprint needs real numbers or booleans, got {tensor.dtype}")
    if offset < 0:
        raise ValueError(f"offset must be at least 0, got {offset}")
    bits = tensor.detach().contiguous().reshape(-1).view(_BITS_AS[tensor.element_size()])
    if bits.device.type == "cpu":
        return torch.from_numpy(_sum_in_numpy(bits.numpy(), offset)).reshape(())
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, bits.numel(), _DEVICE_BLOCK):
        total += _mix(bits[start : start + _DEVICE_BLOCK], offset + start).sum()
    return total


def combine_sums(sums: Mapping[str, TensorSum]) -> bytes:
    """Return the fingerprint of the tensors that these sums were taken from."""
    digest = hashlib.sha256(_TAG)
    for name in sorted(sums):
        entry = sums[name]
        for text in (name.encode(), str(entry.dtype).removeprefix("torch.").encode()):
            digest.update(struct.pack("<I", len(text)) + text)
        digest.update(struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *entry.shape))
        digest.update(struct.pack("<Q", entry.value % 2**64))
    return digest.digest()


def _sum_in_numpy(bits: NDArray[np.signedinteger], offset: int) -> NDArray[np.int64]:
    """Return (1,) the sum of what `_mix` makes of the elements.

    Less than half the time of torch on a CPU: unsigned numbers are shifted as they are, and no block needs new memory.
    """
    size = min(len(bits), _CPU_BLOCK)
    places = np.arange(offset, offset + size, dtype=np.int64)
    places *= _GOLDEN
    room = np.empty((2, size), dtype=np.uint64)
    total = np.zeros(1, dtype=np.int64)
    for start in range(0, len(bits), _CPU_BLOCK):
        block = bits[start : start + _CPU_BLOCK]
        mixed, shifted = room[:, : len(block)]
        np.add(places[: len(block)], block, out=mixed.view(np.int64))
        for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, None)):
            np.right_shift(mixed, np.uint64(shift), out=shifted)
            np.bitwise_xor(mixed, shifted, out=mixed)
            if factor is not None:
                np.multiply(mixed, np.uint64(factor % 2**64), out=mixed)
        total += mixed.view(np.int64).sum()
        places += _CPU_STEP
    return total


def _mix(bits: Tensor, offset: int) -> Tensor:
    """Return one well-mixed int64 for each of the elements (any integer dtype) from place `offset` on."""
    mixed = torch.arange(offset, offset + bits.numel(), dtype=torch.int64, device=bits.device)
    mixed.mul_(_GOLDEN).add_(bits)
    mixed ^= _logical_shift(mixed, 30)
    mixed.mul_(_MIX_1)
    mixed ^= _logical_shift(mixed, 27)
    mixed.mul_(_MIX_2)
    mixed ^= _logical_shift(mixed, 31)
    return mixed


def _logical_shift(values: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right and fill with zeros; torch's own shift fills with the sign, which loses a bit."""
    return (values >> bits).bitwise_and_((1 << (64 - bits)) - 1)
