"""Payloads on the own disk, from before a manifest lists them until its aggregate stands for them.

Their owners may delete or replace them at any time, and an aggregate that was cut off is made of them again.

    <folder>/<run>/payload/<window>/<uid>.bin   as they were fetched
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from templar_pl.errors import StoreError
from templar_pl.exchange import LocalBucket
from templar_pl.protocol import payload_key, payload_prefix
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)


class KeptPayloads:
    """Keeps the payloads of the windows whose aggregates are not out: one or two."""

    def __init__(self, folder: Path, run: str) -> None:
        """Store the settings; nothing is read or written before the first call.

        Args:
            folder: of this process alone; made if there is none.
            run: name of the run.
        """
        # A bucket, since that is what puts a file on disk for good, whole or not at all.
        self._bucket, self._run = LocalBucket(folder.parent, folder.name), run

    def keep(self, window: Window, uid: Uid, data: bytes) -> None:
        """Write a payload; on disk for good when this returns. Raises `StoreError` if the disk fails."""
        self._bucket.put(payload_key(self._run, window, uid), data)

    def find(self, window: Window, uid: Uid, sha256: bytes, size: int) -> bytes | None:
        """Return a payload that was kept; None if there is none of this hash, or it cannot be read.

        Args:
            window: of the payload.
            uid: of its sender.
            sha256: 32 bytes, of the whole payload.
            size: its bytes.
        """
        try:
            data = self._bucket.get(payload_key(self._run, window, uid), max_bytes=size)
        except StoreError as error:
            log.debug("window %d: the payload of peer %d is not at hand: %s", window, uid, error)
            return None
        return data if hashlib.sha256(data).digest() == sha256 else None

    def forget(self, window: Window) -> None:
        """Delete the payloads of a window and of those before it; what cannot be deleted is by the next call."""
        prefix = payload_prefix(self._run)
        try:
            # Windows have nine digits, so that the order of keys is the order of time.
            self._bucket.delete([key for key in self._bucket.list(prefix) if key < f"{prefix}{window + 1:09d}"])
        except StoreError as error:
            log.warning("window %d: payloads that are not needed any more cannot be deleted: %s", window, error)
