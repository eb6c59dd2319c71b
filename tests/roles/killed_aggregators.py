"""An aggregator that is killed again and again. Arguments: folder, windows, and where each of its lives ends.

A life ends `before` or `after` a call to the own bucket, such as `after put_once run/manifest/000000002.json`. They are
children of this process, so that torch is loaded once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from templar_pl.roles.aggregate import run_aggregate
from tests.roles.past_runs import Hook, WatchedNetwork, aggregator


def ending(moment: str, point: str) -> Hook:
    """Return what kills this process at its point."""

    def hook(name: str, key: str) -> None:
        if f"{moment} {name} {key}" == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def live(folder: Path, windows: int, point: str) -> int:
    """Run until the point; return how the process ended, as `os.waitstatus_to_exitcode` tells it."""
    child = os.fork()
    if child == 0:
        network = WatchedNetwork(folder, ending("before", point), ending("after", point))
        os._exit(run_aggregate(aggregator(folder, windows, network=network)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for point in sys.argv[3:]:
        if (code := live(Path(sys.argv[1]), int(sys.argv[2]), point)) != -signal.SIGKILL:
            sys.exit(f"it was not killed {point}: {code}")
