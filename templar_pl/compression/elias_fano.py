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

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BOUND = 2**15
"""Largest K: an index is an int16."""

_SCRATCH_BYTES = 4 * 2**20  # of one block; four times less is slower, four times more no faster


class IndexCodeError(ValueError):
    """A row is no code of non-decreasing indices below the bound."""


@dataclass(frozen=True)  # no slots: what follows from the two numbers is kept
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

    @functools.cached_property
    def low_bits(self) -> int:
        """Bits of an index that are stored as they are: floor(log2(K / T))."""
        return (self.bound // self.num_indices).bit_length() - 1

    @functools.cached_property
    def upper_bits(self) -> int:
        """Bits of the unary part of a row."""
        return self.num_indices + ((self.bound - 1) >> self.low_bits)

    @functools.cached_property
    def upper_bytes(self) -> int:
        """U: bytes of the unary part of a row."""
        return -(-self.upper_bits // 8)

    @functools.cached_property
    def low_bytes(self) -> int:
        """Bytes of all low bits of a row."""
        return -(-self.num_indices * self.low_bits // 8)

    @functools.cached_property
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
        decode_rows(rows[block], code, block.start, out=indices[block])
    return indices


def decode_rows(rows: NDArray[np.uint8], code: IndexCode, first_row: int, *, out: NDArray[np.int16]) -> bool:
    """Do what `decode_indices` does for rows of one block, numbered from `first_row`, into `out`, contiguous.

    Returns:
        Whether all rows are sets: no index comes twice in any.
    """
    upper = _decode_upper(rows[:, : code.upper_bytes], code, first_row)
    upper <<= code.low_bits
    # At most (K - 1) | (2**low_bits - 1), below MAX_BOUND.
    np.bitwise_or(upper, _decode_low(rows[:, code.upper_bytes :], code, first_row), out=out, casting="unsafe")
    # Upper parts ascend and stay below the bound; with low bits neither needs to be so.
    are_sets = bool(ascents(out).all())
    if not are_sets:
        refuse_first(out[:, 1:] < out[:, :-1], first_row, "indices descend")
    refuse_first(out[:, -1] >= code.bound, first_row, f"the last index is not in 0..{code.bound - 1}")
    return are_sets


def ascents(indices: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Say of each index, (N, T) contiguous, whether it is larger than the one before it in its row; the first is."""
    is_larger = np.ones(indices.shape, dtype=np.bool_)
    flat = indices.reshape(-1)
    np.greater(flat[1:], flat[:-1], out=is_larger.reshape(-1)[1:])  # several times faster than row by row
    is_larger[:, 0] = True
    return is_larger


def row_blocks(num_rows: int, code: IndexCode, *, shares: int = 1) -> Iterator[slice]:
    """Cut rows into blocks whose intermediate values take some _SCRATCH_BYTES bytes, into `shares` at least."""
    # A byte for each bit of both parts, and four values of 8 bytes for each index.
    bytes_per_row = 8 * code.row_bytes + 32 * code.num_indices
    height = max(1, min(_SCRATCH_BYTES // bytes_per_row, -(-num_rows // shares)))
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
    return np.packbits(bits.reshape(-1), bitorder="little").reshape(len(bits), -1)  # faster than row by row


def _encode_low(indices: NDArray[np.int16], code: IndexCode) -> NDArray[np.uint8]:
    """Return (N, bytes) of the low bits."""
    if 0 < code.low_bits <= 8 and code.num_indices % 8 == 0:
        return _low_in_words(indices, code.low_bits)
    shape = (len(indices), code.num_indices, code.low_bits)
    bits = np.empty(shape, dtype=np.uint8)
    for bit in range(code.low_bits):
        bits[:, :, bit] = (indices >> bit) & 1
    return np.packbits(bits.reshape(len(indices), -1), axis=1, bitorder="little")


def _low_in_words(indices: NDArray[np.int16], low_bits: int) -> NDArray[np.uint8]:
    """Undo `_low_by_words`, where indices fill words: a third of the time of a byte a bit."""
    words = (indices.astype(np.uint8) & np.uint8((1 << low_bits) - 1)).reshape(-1).view("<u8")
    for lower, upper, shift in reversed(_halvings(low_bits)):
        moved = words >> shift
        moved &= upper
        words &= lower
        words |= moved
    return words.view(np.uint8).reshape(-1, 8)[:, :low_bits].reshape(len(indices), -1)


def _decode_upper(rows: NDArray[np.uint8], code: IndexCode, first_row: int) -> NDArray[np.int16]:
    """Return (N, T) indices without their low bits from (N, U) bytes."""
    refuse_first(padding_is_set(rows, code.upper_bits), first_row, "padding behind the upper part is not zero")
    # As bool: numpy finds true values seven times faster than non-zero ones.
    bits = np.unpackbits(np.ascontiguousarray(rows).reshape(-1), bitorder="little").view(np.bool_)
    places, width = np.flatnonzero(bits), 8 * code.upper_bytes
    # All rows have T set bits if and only if all of them together have, and no row's share leaves the row.
    if places.size == len(rows) * code.num_indices:
        places, starts = places.reshape(len(rows), code.num_indices), np.arange(0, bits.size, width)  # (N, T), (N,)
        if (places[:, 0] >= starts).all() and (places[:, -1] < starts + width).all():
            upper = places.astype(np.int16)  # wraps around, and back in the differences, which are below MAX_BOUND
            upper -= _least_places(*upper.shape, width)
            return upper
    num_set = bits.reshape(-1, width).sum(axis=1)
    what = f"the upper part must have {code.num_indices} set bits, one an index"
    refuse_first(num_set != code.num_indices, first_row, what)
    raise AssertionError("rows with the right number of set bits must be right together")


@functools.lru_cache(maxsize=8)
def _least_places(num_rows: int, num_indices: int, width: int) -> NDArray[np.int16]:
    """Return where the set bits of rows of zeros are, (N, T), modulo 2**16.

    To subtract it takes a fifth of the time of subtracting starts of rows and numbers of indices.
    """
    places = np.arange(num_rows)[:, None] * width + np.arange(num_indices)
    places = places.astype(np.int16)
    places.flags.writeable = False
    return places


def _decode_low(rows: NDArray[np.uint8], code: IndexCode, first_row: int) -> NDArray[np.integer]:
    """Return (N, T) low bits from (N, bytes)."""
    refuse_first(
        padding_is_set(rows, code.num_indices * code.low_bits), first_row, "padding behind the low bits is not zero"
    )
    if code.low_bits == 0:
        return np.zeros((len(rows), code.num_indices), dtype=np.int64)
    return _low_by_words(rows, code) if code.low_bits <= 8 else _low_by_bytes(rows, code)


def _low_by_words(rows: NDArray[np.uint8], code: IndexCode) -> NDArray[np.uint8]:
    """Do what `_decode_low` does for up to 8 bits: eight indices take so many bytes, which one word holds.

    Halves of the word are moved apart, then halves of these, until each index has a byte.
    """
    words = _words_of(rows, code)
    for lower, upper, shift in _halvings(code.low_bits):
        moved = words & upper
        moved <<= shift
        words &= lower
        words |= moved
    return words.view(np.uint8).reshape(len(rows), -1)[:, : code.num_indices]


@functools.cache
def _halvings(low_bits: int) -> list[tuple[np.uint64, np.uint64, np.uint64]]:
    """Return what stays, what moves and how far, where words of eight, four and two indices are halved."""
    halvings = []
    for indices in (4, 2, 1):
        field, room = indices * low_bits, indices * 8
        lower = sum(((1 << field) - 1) << start for start in range(0, 64, 2 * room))
        halvings.append((np.uint64(lower), np.uint64(lower << field), np.uint64(room - field)))
    return halvings


def _words_of(rows: NDArray[np.uint8], code: IndexCode) -> NDArray[np.uint64]:
    """Return a word for each eight indices of each row: their low bits, below what may be anything."""
    whole, rest = divmod(code.low_bytes, code.low_bits)
    if rest == 0:
        joined = np.empty(rows.size + 8, dtype=np.uint8)  # the last word ends behind the rows
        joined[:-8].reshape(rows.shape)[:] = rows
        return np.ndarray(len(rows) * whole, dtype="<u8", buffer=joined, strides=(code.low_bits,)).copy()
    packed = np.zeros((len(rows), whole + 1, 8), dtype=np.uint8)
    packed[:, :whole, : code.low_bits] = rows[:, : whole * code.low_bits].reshape(len(rows), whole, code.low_bits)
    packed[:, whole, :rest] = rows[:, whole * code.low_bits :]
    return packed.reshape(-1).view("<u8")


def _low_by_bytes(rows: NDArray[np.uint8], code: IndexCode) -> NDArray[np.int64]:
    """Do what `_decode_low` does for up to 15 bits: wherever they begin, three bytes hold them."""
    padded = np.zeros((len(rows), code.low_bytes + 2), dtype=np.uint8)
    padded[:, : code.low_bytes] = rows
    first_byte, shift = np.divmod(np.arange(code.num_indices) * code.low_bits, 8)
    low = padded[:, first_byte].astype(np.int64)  # (N, T)
    for byte in (1, 2):
        low |= padded[:, first_byte + byte].astype(np.int64) << (8 * byte)
    low >>= shift
    low &= (1 << code.low_bits) - 1
    return low
