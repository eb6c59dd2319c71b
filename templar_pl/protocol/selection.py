"""Whose payloads of a window are applied, when there are more than a run takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from templar_pl.units import Uid, Window


def select_peers(uids: Iterable[Uid], max_peers: int, window: Window) -> list[Uid]:
    """Choose at most `max_peers` of those who took part, the same ones on every node.

    The choice is drawn by SHA-256 of (window, uid), so that over many windows everybody has the same chance.

    Args:
        uids: who took part in the window, in any order.
        max_peers: how many to take at most; at least 1.
        window: the window they took part in.

    Returns:
        The chosen uids in ascending order.

    Raises:
        ValueError: max_peers is below 1.
    """
    if max_peers < 1:
        raise ValueError(f"max_peers must be at least 1, got {max_peers}")
    drawn = sorted(uids, key=lambda uid: (_ticket(window, uid), uid))
    return sorted(drawn[:max_peers])


def _ticket(window: Window, uid: Uid) -> bytes:
    return hashlib.sha256(b"templar_pl peers" + window.to_bytes(8, "little") + uid.to_bytes(8, "little")).digest()
