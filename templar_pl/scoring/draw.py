"""What a validator evaluates on, all of it from one secret that is drawn when uploads are over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from templar_pl.units import Uid, Window

SECRET_BYTES = 32

_TAG = b"templar_pl/draw/1\0"
_FIRST_STRANGER = 2**31  # no chain gives so many uids; a payload carries one of 32 bits
_WINDOWS = 10**9  # what the keys of objects have room for


@dataclass(frozen=True, slots=True)
class Draw:
    """Pages and batches that nobody could know of, and that everybody can find out once the secret is published."""

    secret: bytes
    """32 bytes, of which all else follows by SHA-256."""

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes, got {len(self.secret)}")

    def pages(self) -> tuple[Uid, Window]:
        """Return a uid that nobody has and a window: what is assigned to it are the random pages."""
        uid = _FIRST_STRANGER + self._number("uid") % _FIRST_STRANGER
        return Uid(uid), Window(self._number("window") % _WINDOWS)

    def choose(self, what: str, total: int, share: float) -> list[int]:
        """Choose a share of some things, at least one of them.

        Args:
            what: they are; each kind is drawn by itself.
            total: how many there are, at least 1.
            share: of them that is wanted, above 0 and at most 1; rounded to the nearest whole number of things.

        Returns:
            Their numbers, 0..total - 1, in ascending order.

        Raises:
            ValueError: there is nothing to choose from, or the share is out of range.
        """
        if total < 1 or not 0 < share <= 1:
            raise ValueError(f"total must be at least 1 and share above 0 and at most 1, got {total} and {share}")
        drawn = sorted(range(total), key=lambda number: self._hash(f"{what}/{number}"))
        return sorted(drawn[: max(1, round(share * total))])

    def seed(self, what: str) -> int:
        """Return a seed of other random numbers, 0..2**63 - 1."""
        return self._number(f"seed/{what}") >> 65

    def _number(self, what: str) -> int:
        """Return 128 bits."""
        return int.from_bytes(self._hash(what)[:16], "little")

    def _hash(self, what: str) -> bytes:
        return hashlib.sha256(_TAG + self.secret + what.encode()).digest()
