"""Which pages of text a peer trains on in a window.

Every uid walks through an endless sequence of its own: one permutation of all pages after the other. Window w takes the
places from `w * pages_per_window` on, so no page comes back before every page has been given out.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence

MAX_PAGES = 2**62
"""Most pages of a page set; everything the permutation handles stays below 2**63."""

_ROUNDS = 8  # four give a good permutation of a large set (Luby, Rackoff 1988); tiny sets need more
_ROUND_TAG = b"templar_pl/pages/round/1\0"
_DIGEST_TAG = b"templar_pl/pages/digest/1\0"


def next_pages(offset: int, n: int, seed: int, num_pages: int) -> list[int]:
    """List the pages at places offset .. offset + n - 1 of the sequence of a seed.

    Integers and SHA-256 only, so every platform gives the same list. Time and memory grow with n alone.

    Args:
        offset: first place, `window * pages_per_window`; 0..2**64 - 1 - n.
        n: pages wanted, at least 0.
        seed: the uid, 0..2**64 - 1.
        num_pages: pages of the page set, 1..MAX_PAGES.

    Returns:
        n numbers in 0..num_pages - 1. Places k * num_pages .. (k + 1) * num_pages - 1 hold every page once.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 1 <= num_pages <= MAX_PAGES:
        raise ValueError(f"num_pages must be in 1..{MAX_PAGES}, got {num_pages}")
    if offset < 0 or n < 0 or offset + n >= 2**64:
        raise ValueError(f"offset and n must be at least 0 and their sum below 2**64, got {offset} and {n}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in 0..2**64 - 1, got {seed}")
    return [_permute(place % num_pages, seed, place // num_pages, num_pages) for place in range(offset, offset + n)]


def pages_digest(pages: Sequence[int], page_set_digest: bytes) -> bytes:
    """Return 32 bytes that stand for these pages, in this order, of this page set.

    Args:
        pages: page numbers, 0..2**64 - 1.
        page_set_digest: 32 bytes that stand for the contents of the page set.

    Raises:
        ValueError: the digest has another length or a page number is out of range.
    """
    if len(page_set_digest) != 32:
        raise ValueError(f"page_set_digest must have 32 bytes, got {len(page_set_digest)}")
    if any(not 0 <= page < 2**64 for page in pages):
        raise ValueError(f"page numbers must be in 0..2**64 - 1, got {min(pages)}..{max(pages)}")
    return hashlib.sha256(_DIGEST_TAG + page_set_digest + struct.pack(f"<{len(pages)}Q", *pages)).digest()


def _permute(place: int, seed: int, cycle: int, num_pages: int) -> int:
    """Return the page at a place (0..num_pages - 1) of the permutation that belongs to (seed, cycle).

    A Feistel network over Z_a x Z_b with a * b just above num_pages; a result outside is sent through again until
    it falls inside, which keeps the map one to one.

    Source:
        Black, Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, the generalised Feistel cipher (method
        3) and cycle walking (method 2).
    """
    # a * b - num_pages < a: almost no place needs a second turn.
    left_size = math.isqrt(num_pages - 1) + 1
    right_size = -(-num_pages // left_size)
    page = place
    while True:
        left, right = divmod(page, right_size)
        for turn in range(0, _ROUNDS, 2):
            left = (left + _round_value(seed, cycle, turn, right)) % left_size
            right = (right + _round_value(seed, cycle, turn + 1, left)) % right_size
        page = left * right_size + right
        if page < num_pages:
            return page


def _round_value(seed: int, cycle: int, turn: int, half: int) -> int:
    """Return 128 pseudo-random bits: so many that the rest modulo 2**31 is even to one part in 2**97."""
    block = _ROUND_TAG + struct.pack("<QQQQ", seed, cycle, turn, half)
    return int.from_bytes(hashlib.sha256(block).digest()[:16], "little")
