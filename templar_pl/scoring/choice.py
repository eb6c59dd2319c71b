"""Which miners are evaluated in a window."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from templar_pl.units import Uid, Window


def choose_evaluated(window: Window, waiting_since: Mapping[Uid, Window], count: int) -> list[Uid]:
    """Choose half by who has waited longest, among equals by SHA-256 of (window, uid), and half by that alone.

    Whoever has waited since window v is chosen after at most as many others as waited since v or longer, however many
    newcomers there are: nobody starves. By waiting alone the same miners would meet for ever, and ratings of
    groups that never meet cannot be compared: with 4 of 8 a window, both groups stay as they are.

    Args:
        window: that is evaluated.
        waiting_since: of each miner whose payload of the window counts, the window of its last evaluation, or in
            which it was first seen if it had none.
        count: how many to choose at most; at least 1.

    Returns:
        The chosen uids in ascending order; the same ones for any order of the miners.

    Raises:
        ValueError: count is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    queue = sorted(waiting_since, key=lambda uid: (waiting_since[uid], ticket(window, uid), uid))
    first, others = queue[: (count + 1) // 2], queue[(count + 1) // 2 :]
    drawn = sorted(others, key=lambda uid: (ticket(window, uid), uid))
    return sorted(first + drawn[: count - len(first)])


def ticket(window: Window, uid: Uid) -> bytes:
    """Return 32 bytes that order uids fairly, in another way each window."""
    return hashlib.sha256(b"templar_pl scoring" + window.to_bytes(8, "little") + uid.to_bytes(8, "little")).digest()
