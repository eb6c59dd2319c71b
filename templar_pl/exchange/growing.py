"""An object that is uploaded while it is still being made."""

from __future__ import annotations

import math
import threading
import time

from templar_pl.errors import StoreError, TransientError


class GrowingBody:
    """A file of known length whose reader waits for the writer. One thread appends, another one reads."""

    def __init__(self, size: int, data: bytes = b"") -> None:
        """Start with some bytes.

        Args:
            size: bytes that the object will have.
            data: the first of them.
        """
        self._size = size
        self._changed = threading.Condition()  # guards all below
        self._data = bytearray(data)
        self._place, self._deadline = 0, math.inf
        self._is_given_up = False

    def __len__(self) -> int:
        """Return the bytes that the object will have."""
        return self._size

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there."""
        with self._changed:
            return len(self._data) == self._size

    def append(self, part: bytes | memoryview) -> None:
        """Add the next bytes. Raises `ValueError` if the object has no room for them."""
        with self._changed:
            if len(self._data) + len(part) > self._size:
                raise ValueError(f"the object has {self._size} bytes, got {len(self._data) + len(part)}")
            self._data += part
            self._changed.notify_all()

    def give_up(self) -> None:
        """Say that the rest will not come."""
        with self._changed:
            self._is_given_up = True
            self._changed.notify_all()

    def whole(self) -> bytes:
        """Wait until all bytes are there and return them. Raises `StoreError` if they will not come."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._data) == self._size or self._is_given_up)
            if len(self._data) != self._size:
                raise StoreError("the object was given up while it was made")
            return bytes(self._data)

    def rewind(self, deadline: float) -> None:
        """Begin to read anew; reading ends at `deadline`, in seconds of `time.monotonic()`."""
        with self._changed:
            self._place, self._deadline = 0, deadline

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes of what is there, all of it for -1; nothing only at the end of the object.

        Raises:
            TransientError: nothing came by the deadline, or it is past.
            StoreError: the rest will not come.
        """
        with self._changed:
            left_s = self._deadline - time.monotonic()
            is_there = self._changed.wait_for(self._is_readable, None if math.isinf(left_s) else max(0.0, left_s))
            if not is_there or left_s <= 0:
                done = f"{self._place} of {self._size} bytes were sent, {len(self._data)} made"
                raise TransientError(f"the body took too long to send: {done}")
            if self._is_given_up and self._place == len(self._data) < self._size:
                raise StoreError("the object was given up while it was made")
            end = len(self._data) if size is None or size < 0 else min(len(self._data), self._place + size)
            part = bytes(memoryview(self._data)[self._place : end])
            self._place = end
            return part

    def _is_readable(self) -> bool:
        return self._place < len(self._data) or self._place == self._size or self._is_given_up
