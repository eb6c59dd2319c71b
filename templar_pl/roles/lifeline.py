"""Runs a program of Python for as long as whoever started it lives.

    python -m templar_pl.roles.lifeline MODULE [arguments of the module]

Standard input is a pipe whose other end the parent holds and never writes to. However the parent ends, `kill -9`
included, the kernel closes that end; a thread here sees it, asks this process to end as SIGTERM does, and after GRACE_S
kills it with every process it started. So nobody is left behind, on any system that has pipes, and a node that is left
alone ends in order. The parent starts it in a session of its own, so that its group is this process and its children.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

GRACE_S = 20.0
"""Seconds between the end of the parent and that of this process at the latest."""


def hold_lifeline(stream: int, grace_s: float) -> threading.Thread:
    """Begin to watch a pipe; when it ends this process gets SIGTERM, and SIGKILL `grace_s` seconds later.

    Args:
        stream: descriptor of the reading end.
        grace_s: seconds for an end in order.
    """
    watch = threading.Thread(target=_watch, args=(stream, grace_s), name="lifeline", daemon=True)
    watch.start()
    return watch


def _watch(stream: int, grace_s: float) -> None:
    while os.read(stream, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(grace_s)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module that the command line names, with the arguments behind it."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m templar_pl.roles.lifeline MODULE [ARGUMENT ...]")
    hold_lifeline(sys.stdin.fileno(), GRACE_S)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
