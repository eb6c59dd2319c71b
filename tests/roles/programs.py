"""Small programs that are kept alive in tests: python -m tests.roles.programs WHAT FOLDER NAME."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from templar_pl.roles.supervisor import Command, Program, RestartPolicy
from templar_pl.roles.swarm_folder import MARK, own_folder

LONG_S = 300.0


def leave_word(folder: Path, name: str) -> None:
    """Write down that this process runs, all of it or nothing."""
    draft = folder / f".{name}.{os.getpid()}"
    draft.write_text(str(os.getpid()))
    draft.replace(folder / f"{name}.pid")


def obedient(folder: Path, name: str) -> None:
    """Run until SIGTERM, and say that it came."""

    def end(*_: object) -> None:
        (folder / f"{name}.ended").touch()
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    leave_word(folder, name)
    time.sleep(LONG_S)


def deaf(folder: Path, name: str) -> None:
    """Run on at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_word(folder, name)
    time.sleep(LONG_S)


def slow(folder: Path, name: str) -> None:
    """Take some time to end after SIGTERM, and say so outside of the folder."""

    def end(*_: object) -> None:
        time.sleep(1.5)
        (folder.parent / f"{name}.gone").touch()
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    leave_word(folder, name)
    time.sleep(LONG_S)


def parent(folder: Path, name: str) -> None:
    """Start another process, and run on."""
    subprocess.Popen([sys.executable, "-m", "tests.roles.programs", "deaf", str(folder), f"{name}-child"])
    leave_word(folder, name)
    time.sleep(LONG_S)


def swarm(folder: Path, name: str) -> None:
    """Keep a program alive in a folder of a swarm."""
    with own_folder(folder / "swarm", fresh=False) as lock:
        (folder / "swarm" / MARK).touch()
        arguments = [name, str(folder / "swarm"), "node"]
        command = Command(
            module="tests.roles.programs", arguments=arguments, log_file=folder / "log", keeps_open=(lock,)
        )
        program = Program(name, command, RestartPolicy())
        program.start()
        time.sleep(LONG_S)


def broken(folder: Path, name: str) -> None:
    """End at once, with the exit code that is the name."""
    sys.exit(int(name))


def supervise(folder: Path, name: str) -> None:
    """Keep two programs alive."""
    kept = []
    for child in name.split("+"):
        arguments = ["obedient", str(folder), child]
        command = Command(module="tests.roles.programs", arguments=arguments, log_file=folder / "log")
        kept.append(Program(child, command, RestartPolicy()))
    for program in kept:
        program.start()
    while True:
        for program in kept:
            program.look()
        time.sleep(0.05)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
