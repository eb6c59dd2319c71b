"""Blocks of -1, 0 and +1 as few bytes: near one bit an element where zeros are rare or lie in runs.

Shapes: n = elements of a block, m = places that are listed, g = words of a dense block.

A block is a form, a list of places that tells where the zeros are, and a sign bit for each other element:

    form u8, m u32, U u32       little-endian
    U bits of quotients         a place is told by the gap to the one before, of elements that are not listed:
    m * k bits of rests         gap = quotient * 2**k + rest; a quotient is so many 0 bits and a 1 bit (Rice 1979)
    signs                       a bit for each element that is not zero, in their order: 1 for -1

Bits fill bytes from the lowest; each part is filled up with 0 bits. k follows from n and m (`rice_width`). ZEROS lists
the zeros, OTHERS the other elements, EDGES where zeros begin or end. DENSE lists nothing (m = U = 0): it is u64 words
of 41 elements, and behind them a bit for each, of its carry; 3**41 < 2**65, so this takes 1.5854 bits an element, where
log2 3 is 1.5850. The form of the fewest bytes is used, of equals the first one named here, and no other is read: a
block has one encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

MAX_BLOCK_NUMEL = 2**18
"""Elements of a block: as fp32 they stay in the cache, and the 9 bytes of the head are 0.0003 bits an element."""

ZEROS, OTHERS, EDGES, DENSE = range(4)

Ternary = NDArray[np.int8]
Plane = NDArray[np.bool_]
"""True where an element is not zero."""

Place = TypeVar("Place", np.int32, np.int64)

Take = Callable[[int], bytes]
"""Returns exactly so many of the next bytes, or raises."""

_HEAD = struct.Struct("<BII")
_GROUP = 41  # elements of a word with its carry
_RUN = 8  # mean length of a run from which on marks are faster than places: some 3 ns an element, 10 ns a run
_PIECE = 2**15  # elements
_POWER_40 = 3**40
_FIVE = np.array([1, 3, 9, 27, 81], dtype=np.uint8)  # 3**5 == 243 fits a byte
_EIGHT = [3 ** (5 * place) for place in range(8)]


class TernaryError(ValueError):
    """Bytes are no block in its only form."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """A way to tell where the zeros are."""

    form: int
    gaps: NDArray[np.int32]
    """(m,) elements between listed ones."""

    width: int
    """Bits of a rest, k."""

    quotient_bits: int

    @property
    def num_bytes(self) -> int:
        return (self.quotient_bits + 7) // 8 + (len(self.gaps) * self.width + 7) // 8

    def pack(self) -> bytes:
        quotients = np.zeros(self.quotient_bits, dtype=np.bool_)
        ends = self.gaps >> self.width
        ends += 1
        np.cumsum(ends, out=ends)
        ends -= 1
        quotients[ends] = True
        rests = np.empty((len(self.gaps), self.width), dtype=np.bool_)  # (m, k)
        for bit in range(self.width):
            rests[:, bit] = self.gaps & (1 << bit)
        head = _HEAD.pack(self.form, len(self.gaps), self.quotient_bits)
        return head + _pack_bits(quotients) + _pack_bits(rests)


def most_bytes(numel: int) -> int:
    """Return the bytes that no block of `numel` elements exceeds."""
    return _HEAD.size + _dense_bytes(numel)


def rice_width(numel: int, count: int) -> int:
    """Return k, the bits of a rest: the best where all sets of so many places are equally likely.

    Args:
        numel: elements of the block, n.
        count: places that are listed, m; 0..n.

    Returns:
        The length in bits of floor((962 (n - m) + 481 m) / 2000 m); 0 if m is 0.

    Source:
        A. Kiely, Selecting the Golomb Parameter in Rice Coding, IPN Progress Report 42-159 (2004): the best k is
        1 + floor(log2(log(phi - 1) / log(q))) where a gap goes on with chance q. -1 / log(q) is nearly the mean gap
        and a half; log(phi - 1) is -0.481.
    """
    return ((962 * (numel - count) + 481 * count) // (2000 * count)).bit_length() if count else 0


def pack_block(values: Ternary) -> bytes:
    """Return the bytes of a block.

    Args:
        values: (n,) of -1, 0 and 1; 1 <= n <= MAX_BLOCK_NUMEL.
    """
    is_other = values != 0
    if is_other.all():
        return _HEAD.pack(ZEROS, 0, 0) + _pack_bits(values < 0)
    listing = _shortest_listing(is_other)
    if listing is None:
        return _pack_dense(values)
    return listing.pack() + _pack_bits(_select(values < 0, is_other))


def unpack_block(take: Take, out: Ternary) -> None:
    """Undo `pack_block`.

    Args:
        take: hands over the bytes, which may be any; what it raises goes through.
        out: (n,) to be written; 1 <= n <= MAX_BLOCK_NUMEL.

    Raises:
        TernaryError: the bytes are not what `pack_block` returns for any block of this length.
    """
    form, count, quotient_bits = _HEAD.unpack(take(_HEAD.size))
    if form == DENSE and count == quotient_bits == 0:
        _unpack_dense(take, out)
    elif form == ZEROS and count == quotient_bits == 0:
        out[:] = _unpack_signs(take, len(out))
    elif form <= EDGES and count <= len(out) and count <= quotient_bits <= count + len(out):
        is_other = _unpack_plane(take, len(out), (form, count, quotient_bits))
        _place(_unpack_signs(take, int(np.count_nonzero(is_other))), is_other, out)
    else:
        raise TernaryError(f"no head of a block of {len(out)} elements: {form}, {count}, {quotient_bits}")


def _shortest_listing(is_other: Plane) -> _Listing | None:
    """Return the listing that makes the shortest block; None where dense coding makes a shorter one."""
    others = int(np.count_nonzero(is_other))
    edges = _num_changes(is_other) + (not is_other[0])
    counts = {ZEROS: len(is_other) - others, OTHERS: others, EDGES: edges}
    best, least = None, _dense_bytes(len(is_other)) - (others + 7) // 8
    for form in sorted(counts, key=counts.__getitem__):
        # A place takes a bit at least: with the fewest first, most others are out of the question.
        if (counts[form] + 7) // 8 <= least:
            listing = _listing(form, is_other)
            if listing.num_bytes < least or (listing.num_bytes == least and (best is None or form < best.form)):
                best, least = listing, listing.num_bytes
    return best


def _listing(form: int, is_other: Plane) -> _Listing:
    """List the places of a form in (n,)."""
    gaps = _gaps(np.flatnonzero(_listed(form, is_other)).astype(np.int32))
    width = rice_width(len(is_other), len(gaps))
    return _Listing(form, gaps, width, int((gaps >> width).sum()) + len(gaps))


def _gaps(places: NDArray[Place]) -> NDArray[Place]:
    """Turn ascending places, (m,), into the elements between them; the same memory."""
    places[1:] -= places[:-1]
    places[1:] -= 1
    return places


def _listed(form: int, is_other: Plane) -> Plane:
    """Mark the places that a form lists, (n,)."""
    if form == OTHERS:
        return is_other
    if form == ZEROS:
        return ~is_other
    begins_or_ends = np.empty_like(is_other)
    begins_or_ends[0] = not is_other[0]
    np.not_equal(is_other[1:], is_other[:-1], out=begins_or_ends[1:])
    return begins_or_ends


def _unpack_plane(take: Take, numel: int, head: tuple[int, int, int]) -> Plane:
    """Return which elements are not zero, (n,). Raises `TernaryError`."""
    form, count, quotient_bits = head
    width = rice_width(numel, count)
    quotients, rests = take((quotient_bits + 7) // 8), take((count * width + 7) // 8)
    places = _gaps(np.flatnonzero(_unpack_bits(quotients, quotient_bits)))  # (m,) int64: the bytes may say any number
    if len(places) != count:
        raise TernaryError(f"{count} places are said to be listed, {len(places)} are")
    places <<= width
    bits = _unpack_bits(rests, count * width).reshape(count, width)
    for bit in range(width):
        places += bits[:, bit].astype(np.int64) << bit
    places += 1
    np.cumsum(places, out=places)
    places -= 1
    if count and places[-1] >= numel:
        raise TernaryError(f"place {places[-1]} is listed in a block of {numel} elements")
    is_other = np.full(numel, form == ZEROS)
    is_other[places] = form != ZEROS
    if form == EDGES:
        is_other = ~np.logical_xor.accumulate(is_other)
    listing = _shortest_listing(is_other)
    if listing is None or listing.pack() != _HEAD.pack(*head) + quotients + rests:
        raise TernaryError(f"form {form} with {count} places is not the only form of this block")
    return is_other


def _select(values: Plane, is_chosen: Plane) -> Plane:
    """Return the chosen ones of (n,)."""
    if _is_in_runs(is_chosen):
        return values[is_chosen]
    parts = [values[piece][np.flatnonzero(is_chosen[piece])] for piece in _pieces(len(values))]
    return np.concatenate(parts)


def _place(signs: Ternary, is_chosen: Plane, out: Ternary) -> None:
    """Write (z,) to the chosen places of (n,), and zeros to all others."""
    out.fill(0)
    if _is_in_runs(is_chosen):
        out[is_chosen] = signs
        return
    first = 0
    for piece in _pieces(len(out)):
        places = np.flatnonzero(is_chosen[piece])
        out[piece][places] = signs[first : first + len(places)]
        first += len(places)


def _is_in_runs(is_chosen: Plane) -> bool:
    """Tell whether numpy chooses faster by the marks, run by run, than by a list of places, 8 bytes each."""
    return _RUN * _num_changes(is_chosen) < len(is_chosen)


def _num_changes(plane: Plane) -> int:
    """Count the elements of (n,) that differ from the one before."""
    before, after = plane[:-1], plane[1:]
    return sum(int(np.count_nonzero(before[piece] != after[piece])) for piece in _pieces(len(after)))


def _pieces(numel: int) -> Iterator[slice]:
    """Cut (n,) into pieces whose places stay in the cache."""
    for start in range(0, numel, _PIECE):
        yield slice(start, start + _PIECE)


def _pack_bits(bits: Plane) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack_bits(packed: bytes, count: int) -> NDArray[np.uint8]:
    """Return so many bits, (count,) of 0 and 1."""
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count, bitorder="little")


def _unpack_signs(take: Take, count: int) -> Ternary:
    """Return -1 and 1, (count,). Raises `TernaryError` for padding that is not zero."""
    packed = take((count + 7) // 8)
    if count % 8 and packed[-1] >> count % 8:
        raise TernaryError("the padding behind the signs must be zero")
    signs = _unpack_bits(packed, count).view(np.int8)
    signs *= -2
    signs += 1
    return signs


def _dense_bytes(numel: int) -> int:
    num_words = -(-numel // _GROUP)
    return 8 * num_words + (num_words + 7) // 8


def _pack_dense(values: Ternary) -> bytes:
    digits = np.zeros(-(-len(values) // _GROUP) * _GROUP, dtype=np.uint8)
    digits[: len(values)] = values + 1
    digits = digits.reshape(-1, _GROUP)  # (g, 41)
    fives = (digits[:, :-1].reshape(-1, 8, 5) * _FIVE).sum(-1, dtype=np.uint64)  # (g, 8)
    low = (fives * np.array(_EIGHT, dtype=np.uint64)).sum(-1, dtype=np.uint64)
    top = digits[:, -1].astype(np.uint64)
    words = low + top * np.uint64(_POWER_40)  # modulo 2**64
    # 2 * 3**40 is above 2**64, 3 * 3**40 below 2 * 2**64.
    carries = (top == 2) | (words < low)
    return _HEAD.pack(DENSE, 0, 0) + words.astype("<u8").tobytes() + _pack_bits(carries)


def _unpack_dense(take: Take, out: Ternary) -> None:
    num_words = -(-len(out) // _GROUP)
    packed = take(_dense_bytes(len(out)))
    words = np.frombuffer(packed, dtype="<u8", count=num_words).astype(np.uint64)
    carries = _unpack_bits(packed[8 * num_words :], num_words)
    top = carries + (words >= np.where(carries, 2 * _POWER_40 - 2**64, _POWER_40).astype(np.uint64))
    low = words - top.astype(np.uint64) * np.uint64(_POWER_40)  # modulo 2**64
    digits = np.empty((num_words, _GROUP), dtype=np.uint8)
    digits[:, -1] = top
    for place, power in enumerate(_EIGHT):
        five = (low // np.uint64(power) % np.uint64(_EIGHT[1])).astype(np.uint8)
        digits[:, 5 * place : 5 * place + 5] = five[:, None] // _FIVE % 3
    np.subtract(digits.reshape(-1)[: len(out)].view(np.int8), 1, out=out)
    is_other = out != 0
    if _shortest_listing(is_other) is not None or _pack_dense(out) != _HEAD.pack(DENSE, 0, 0) + packed:
        raise TernaryError("a dense block is not the only form of this one")
