"""An aggregator that is killed again and again. Arguments: folder, windows, and where each of its lives ends.

A life ends `before` or `after` a call to the own bucket, such as `after put_once run/manifest/000000002.json`, or
before a file of its own folder is given its name or deleted: `before os.rename kept/run/payload/000000004/1.bin`. With
` lose 2` behind it all payloads of window 2 are gone from the buckets of their owners when the next life begins. Lives
are children of this process, so that torch is loaded once.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from templar_pl.roles.aggregate import run_aggregate
from tests.roles.past_runs import Hook, WatchedNetwork, aggregator


def ending(moment: str, point: str) -> Hook:
    """Return what kills this process at its point."""

    def hook(name: str, key: str) -> None:
        if f"{moment} {name} {key}" == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def end_at_file(point: str) -> None:
    """Have this process killed before what it does to a file of its own folder, if that is the point."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove"):
            path = str(arguments[1 if event == "os.rename" else 0])
            if f"before {event} {path.partition('/aggregate/')[2]}" == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def lose(folder: Path, window: int) -> None:
    """Delete the payloads of a window from the buckets of their owners."""
    found = list(folder.glob(f"run/store-*/*/run/payload/{window:09d}"))
    assert found
    for path in found:
        shutil.rmtree(path)


def live(folder: Path, windows: int, point: str) -> int:
    """Run until the point; return how the process ended, as `os.waitstatus_to_exitcode` tells it."""
    child = os.fork()
    if child == 0:
        end_at_file(point)
        network = WatchedNetwork(folder, ending("before", point), ending("after", point))
        os._exit(run_aggregate(aggregator(folder, windows, network=network)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for argument in sys.argv[3:]:
        point, _, lost = argument.partition(" lose ")
        if (code := live(Path(sys.argv[1]), int(sys.argv[2]), point)) != -signal.SIGKILL:
            sys.exit(f"it was not killed {point}: {code}")
        if lost:
            lose(Path(sys.argv[1]), int(lost))
