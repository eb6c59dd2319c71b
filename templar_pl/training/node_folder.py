"""Where a node of a run keeps what is its own."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from templar_pl.errors import ConfigError


class NodeFolder:
    """The folders of a run and of one of its nodes."""

    def __init__(self, run_dir: Path, hotkey: str) -> None:
        """Store the places; nothing is made.

        Args:
            run_dir: folder of the run.
            hotkey: name of the node's key, which tells it from all other nodes of this run on this machine.
        """
        self.run_dir, self._hotkey = run_dir, hotkey

    @property
    def node_dir(self) -> Path:
        """Folder of what only this node writes."""
        return self.run_dir / "nodes" / self._hotkey

    def lock(self) -> IO[str]:
        """Make the folder, and keep other processes from running as the same node until the file is closed.

        Raises:
            ConfigError: one does.
        """
        self.node_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.node_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise ConfigError(
                f"another process runs as hotkey {self._hotkey!r} in {self.node_dir}; "
                "give this one another hotkey, or stop the other"
            ) from error
        return lock
