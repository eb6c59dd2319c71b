"""The folder of a swarm: one swarm at a time, and only when all nodes of an earlier one are gone."""

from __future__ import annotations

import fcntl
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from templar_pl.errors import ConfigError
from templar_pl.roles.lifeline import GRACE_S

log = logging.getLogger(__name__)

MARK = "swarm.yaml"
"""What every node is given; a folder that has it may be deleted by --fresh."""

LOCK = "swarm.lock"
"""Held by the swarm alone."""

NODES_LOCK = "nodes.lock"
"""Held by the swarm and every node that it has started: free when the last of them is gone."""

PATIENCE_S = GRACE_S + 10.0
"""Seconds in which nodes end whose swarm was killed, and a little more for a machine that is busy."""

_SLICE_S = 0.2


@contextmanager
def own_folder(root: Path, *, fresh: bool, patience_s: float = PATIENCE_S) -> Iterator[int]:
    """Make the folder of a swarm, and keep other swarms out of it as long as this one or a node of it runs.

    Args:
        root: the folder.
        fresh: whether an earlier swarm in it is deleted.
        patience_s: seconds to wait for the nodes of an earlier swarm that was killed.

    Yields:
        A descriptor that every node must be handed.

    Raises:
        ConfigError: another swarm runs in it, or nodes of one; it holds an earlier one that is not to be deleted, or
            something else.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as lock, (root / NODES_LOCK).open("w") as nodes:
        if not _try_to_lock(lock):
            raise ConfigError(f"another swarm runs in {root}: stop it, or name another --store.root")
        found = _contents(root)
        if found and not (root / MARK).is_file():
            raise ConfigError(f"{root} holds something else than a swarm: name another folder by --store.root")
        if found and not fresh:
            raise ConfigError(f"{root} holds an earlier swarm: delete it by --fresh, or name another --store.root")
        _wait_for_nodes(nodes, root, patience_s)
        for path in _contents(root):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield nodes.fileno()


def _contents(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.name not in (LOCK, NODES_LOCK)]


def _wait_for_nodes(nodes: IO[str], root: Path, patience_s: float) -> None:
    give_up = time.monotonic() + patience_s
    if _try_to_lock(nodes):
        return
    log.info("waiting for the nodes of an earlier swarm in %s to end, for %.0f s at most", root, patience_s)
    while not _try_to_lock(nodes):
        if time.monotonic() >= give_up:
            raise ConfigError(
                f"nodes of an earlier swarm still run in {root} after {patience_s:.0f} s: end them, or name another "
                "--store.root"
            )
        threading.Event().wait(_SLICE_S)


def _try_to_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
