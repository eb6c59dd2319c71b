"""Ascending places inside a chunk, in a fixed number of bytes.

A row of T non-decreasing indices below K is split: the low bits l = floor(log2(K / T)) of each index are stored as they
are, the rest in unary, one set bit an index: bit (index >> l) + i is set for the i-th index. The upper part has
T + ((K - 1) >> l) bits and comes first. Each part is padded with zero bits to whole bytes; bits fill a byte
from the lowest. K = 4096 and T = 32 take 8 + 28 = 36 bytes, 33.3 would be the bound for a set.

Shapes: N = rows; T = indices a row; K = bound of the indices; U = bytes of the upper part; R = bytes of a row.

Source:
    Elias, "Efficient Storage and Retrieval by Content and Address of Static Files", J. ACM 21 (1974).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BOUND = 2**15
"""Largest K: an index is an int16."""

_SCRATCH_BYTES = 16 * 2**20  # of one block; ten times less is slower, ten times more no faster


class IndexCodeError(ValueError):
    """A row is no code of non-decreasing indices below the bound."""


@dataclass(frozen=True, slots=True)
class IndexCode:
    """How many bits and bytes a row takes. Raises `ValueError` for numbers out of range."""

    num_indices: int
    """T: indices a row; 1..bound."""

    bound: int
    """K: all indices are below; 1..MAX_BOUND."""

    def __post_init__(self) -> None:
        if not 1 <= self.bound <= MAX_BOUND:
            raise ValueError(f"bound must be in 1..{MAX_BOUND}, got {self.bound}")
        if not 1 <= self.num_indices <= self.bound:
            raise ValueError(f"num_indices must be in 1..{self.bound}, got {self.num_indices}")

    @property
    def low_bits(self) -> int:
        """Bits of an index that are stored as they are: floor(log2(K / T))."""
        return (self.bound // self.num_indices).bit_length() - 1

    @property
    def upper_bits(self) -> int:
        """Bits of the unary part of a row."""
        return self.num_indices + ((self.bound - 1) >> self.low_bits)

    @property
    def upper_bytes(self) -> int:
        """U: bytes of the unary part of a row."""
        return -(-self.upper_bits // 8)

    @property
    def low_bytes(self) -> int:
        """Bytes of all low bits of a row."""
        return -(-self.num_indices * self.low_bits // 8)

    @property
    def row_bytes(self) -> int:
        """R: bytes of a row."""
        return self.upper_bytes + self.low_bytes


def encode_indices(indices: NDArray[np.int16], code: IndexCode) -> NDArray[np.uint8]:
    """Code rows of indices.

    Args:
        indices: (N, T) in 0..K - 1, non-decreasing in every row; nothing checks it here.
        code: T and K.

    Returns:
        (N, R) bytes.
    """
    rows = np.empty((len(indices), code.row_bytes), dtype=np.uint8)  # (N, R)
    for block in row_blocks(len(indices), code):
        rows[block, : code.upper_bytes] = _encode_upper(indices[block], code)
        rows[block, code.upper_bytes :] = _encode_low(indices[block], code)
    return rows


def decode_indices(rows: NDArray[np.uint8], code: IndexCode) -> NDArray[np.int16]:
    """Undo `encode_indices`.

    Args:
        rows: (N, R) bytes of any content.
        code: T and K.

    Returns:
        (N, T) indices in 0..K - 1, non-decreasing in every row. `encode_indices` gives the same rows again.

    Raises:
        IndexCodeError: a row is none that `encode_indices` returns; the message names the first.
    """
    indices = np.empty((len(rows), code.num_indices), dtype=np.int16)  # (N, T)
    for block in row_blocks(len(rows), code):
        upper = _decode_upper(rows[block, : code.upper_bytes], code, block.start)
        low = _decode_low(rows[block, code.upper_bytes :], code, block.start)
        found = (upper << code.low_bits) | low  # (N, T)
        # Upper parts ascend and stay below the bound; with low bits neither needs to be so.
        refuse_first(found[:, 1:] < found[:, :-1], block.start, "indices descend")
        refuse_first(found[:, -1] >= code.bound, block.start, f"the last index is not in 0..{code.bound - 1}")
        indices[block] = found
    return indices


def row_blocks(num_rows: int, code: IndexCode) -> Iterator[slice]:
    """Cut rows into blocks whose intermediate values take some _SCRATCH_BYTES bytes."""
    # A byte for each bit of both parts, and four values of 8 bytes for each index.
    bytes_per_row = 8 * code.row_bytes + 32 * code.num_indices
    height = max(1, _SCRATCH_BYTES // bytes_per_row)
    return (slice(start, min(start + height, num_rows)) for start in range(0, num_rows, height))


def refuse_first(is_bad: NDArray[np.bool_], first_row: int, what: str) -> None:
    """Raise `IndexCodeError` that names the first row with a bad entry, counted from `first_row`, if there is one.

    Args:
        is_bad: (N,) or (N, any).
        first_row: number of the first of these rows.
        what: the fault, for the message.
    """
    if is_bad.any():
        raise IndexCodeError(f"chunk {first_row + int(np.argwhere(is_bad)[0, 0])}: {what}")


def padding_is_set(rows: NDArray[np.uint8], num_bits: int) -> NDArray[np.bool_]:
    """Say of each row (N, bytes) whether a bit from `num_bits` on is set; at most seven such bits are there."""
    if num_bits % 8 == 0:
        return np.zeros(len(rows), dtype=bool)
    return (rows[:, -1] >> (num_bits % 8)) != 0


def _encode_upper(indices: NDArray[np.int16], code: IndexCode) -> NDArray[np.uint8]:
    """Return (N, U) bytes of the unary parts."""
    bits = np.zeros((len(indices), 8 * code.upper_bytes), dtype=np.uint8)
    places = (indices >> code.low_bits) + np.arange(code.num_indices, dtype=np.int64)  # (N, T)
    places += np.arange(len(indices), dtype=np.int64)[:, None] * bits.shape[1]
    bits.reshape(-1)[places.reshape(-1)] = 1
    return np.packbits(bits, axis=1, bitorder="little")


def _encode_low(indices: NDArray[np.int16], code: IndexCode) -> NDArray[np.uint8]:
    """Return (N, bytes) of the low bits."""
    shape = (len(indices), code.num_indices, code.low_bits)
    bits = np.empty(shape, dtype=np.uint8)
    for bit in range(code.low_bits):
        bits[:, :, bit] = (indices >> bit) & 1
    return np.packbits(bits.reshape(len(indices), -1), axis=1, bitorder="little")


def _decode_upper(rows: NDArray[np.uint8], code: IndexCode, first_row: int) -> NDArray[np.int32]:
    """Return (N, T) indices without their low bits from (N, U) bytes."""
    # As bool: numpy finds true values seven times faster than non-zero ones.
    bits = np.unpackbits(rows, axis=1, bitorder="little").view(np.bool_)
    refuse_first(padding_is_set(rows, code.upper_bits), first_row, "padding behind the upper part is not zero")
    num_set = bits.sum(axis=1)
    refuse_first(
        num_set != code.num_indices, first_row, f"the upper part must have {code.num_indices} set bits, one an index"
    )
    places = np.flatnonzero(bits).reshape(len(rows), code.num_indices)  # (N, T)
    places -= np.arange(len(rows), dtype=np.int64)[:, None] * bits.shape[1]
    return (places - np.arange(code.num_indices)).astype(np.int32)


def _decode_low(rows: NDArray[np.uint8], code: IndexCode, first_row: int) -> NDArray[np.int32]:
    """Return (N, T) low bits from (N, bytes)."""
    if code.low_bits == 0:
        return np.zeros((len(rows), code.num_indices), dtype=np.int32)
    num_bits = code.num_indices * code.low_bits
    refuse_first(padding_is_set(rows, num_bits), first_row, "padding behind the low bits is not zero")
    # At most 15 bits that begin anywhere in a byte: three bytes hold them, and an int32 holds the three.
    padded = np.zeros((len(rows), code.low_bytes + 2), dtype=np.uint8)
    padded[:, : code.low_bytes] = rows
    first_byte, shift = np.divmod(np.arange(code.num_indices, dtype=np.int32) * np.int32(code.low_bits), np.int32(8))
    low = padded[:, first_byte].astype(np.int32)  # (N, T)
    for byte in (1, 2):
        low |= padded[:, first_byte + byte].astype(np.int32) << np.int32(8 * byte)
    low >>= shift
    low &= np.int32((1 << code.low_bits) - 1)
    return low
