"""Keeps programs alive: starts each again when it ends, after pauses that grow, and ends them in order.

Nothing runs here between two calls of `look`, which never waits; only `end_in_order` does.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

log = logging.getLogger(__name__)

EXIT_SETTINGS = 2
"""Exit code of a program whose settings are wrong: it would end the same way again."""

_SLICE_S = 0.1


class State(StrEnum):
    """How a program is."""

    WAITING = "waiting"
    """Not started yet."""

    RUNNING = "running"
    RESTARTING = "restarting"
    """It ended; a pause is kept before it is started again."""

    DOWN = "down"
    """It was killed, and is held down."""

    STOPPED = "stopped"
    """It was asked to end, and did."""

    FAILED = "failed"
    """It ended too often, or its settings are wrong: it is not started again."""


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How long, and how often, an end is answered with another start."""

    first_pause_s: float = 1.0
    """Seconds before the first start after an end; doubled for each end that follows soon."""

    longest_pause_s: float = 60.0
    steady_s: float = 60.0
    """A life of so many seconds makes the next end a first one."""

    tries: int = 6
    """Ends in a row, each soon after its start, after which the program is given up."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run."""

    module: str
    """That `python -m` runs, under a lifeline (`lifeline.py`)."""

    arguments: Sequence[str]
    log_file: Path
    """Gets what every life of the program says, one behind the other; its folder must exist."""

    environment: Mapping[str, str] | None = None
    """Of the process; that of this one if None."""

    keeps_open: Sequence[int] = ()
    """Descriptors that each life of the program holds besides its own."""


class Program:
    """One program that is kept alive."""

    def __init__(self, name: str, command: Command, policy: RestartPolicy) -> None:
        """Store what to run; nothing is started.

        Args:
            name: for messages.
            command: what to run.
            policy: what an end is answered with.
        """
        self.name, self._command, self._policy = name, command, policy
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._due_at = 0.0
        self._is_held = self._must_end = False
        self._ends = 0
        self.state = State.WAITING
        self.starts = 0
        """How often it was started."""

        self.last_end = ""
        """In words, how its last life ended that was not asked to; empty if none did."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it. Raises `OSError` if the machine cannot."""
        command = self._command
        with command.log_file.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "templar_pl.roles.lifeline", command.module, *command.arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=command.environment,
                start_new_session=True,
                pass_fds=command.keeps_open,
            )
        self.starts += 1
        log.info("%s runs as process %d", self.name, self._process.pid)
        self._started_at, self.state = time.monotonic(), State.RUNNING

    def look(self) -> None:
        """See how it is, and start it again when that is due. Raises `OSError` if the machine cannot."""
        if self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._note_end(code)
            elif time.monotonic() - self._started_at > self._policy.steady_s:
                self._ends = 0
        if self.state is State.RESTARTING and time.monotonic() >= self._due_at:
            self.start()

    def kill(self, *, hold: bool = False) -> None:
        """Kill it as the kernel does when memory is short.

        Args:
            hold: whether it stays down until `release`.
        """
        self._is_held = hold
        if hold and self.state is State.RESTARTING:
            self.state = State.DOWN
        self._signal(signal.SIGKILL)

    def release(self) -> None:
        """Let it be started again."""
        self._is_held = False
        if self.state is State.DOWN:
            self.state, self._due_at = State.RESTARTING, 0.0

    def ask_to_end(self) -> None:
        """Ask it to end, for good."""
        self._must_end = True
        if self._process is None and self.state is not State.FAILED:
            self.state = State.STOPPED
        self._signal(signal.SIGTERM, whole_group=False)

    def destroy(self) -> None:
        """Kill it and all it started, for good; wait until it is gone."""
        self._must_end = True
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self.look()

    def _signal(self, number: signal.Signals, *, whole_group: bool = True) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            (os.killpg if whole_group else os.kill)(self._process.pid, number)

    def _note_end(self, code: int) -> None:
        assert self._process is not None
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        if self._must_end:
            self.state = State.STOPPED
            return
        self.last_end = _words(code)
        if self._is_held:
            self.state = State.DOWN
            return
        if code == EXIT_SETTINGS or self._ends + 1 >= self._policy.tries:
            self.state = State.FAILED
            told = self._command.log_file
            log.error("%s: %s, and is not started again; %s says why", self.name, self.last_end, told)
            return
        pause_s = min(self._policy.longest_pause_s, self._policy.first_pause_s * 2**self._ends)
        self._ends += 1
        self._due_at, self.state = time.monotonic() + pause_s, State.RESTARTING
        log.warning("%s: %s, and is started again in %.0f s", self.name, self.last_end, pause_s)


def end_in_order(
    groups: Sequence[Sequence[Program]], patience_s: float, *, in_a_hurry: Callable[[], bool] = lambda: False
) -> list[Program]:
    """Ask programs to end, group by group, and kill those of a group that do not in `patience_s` seconds.

    Args:
        groups: a group is asked when the one before it has ended.
        patience_s: seconds for each group.
        in_a_hurry: asked all the time; from the first yes on nobody is waited for.

    Returns:
        Those that had to be killed.
    """
    killed: list[Program] = []
    for group in groups:
        for program in group:
            program.ask_to_end()
        deadline = time.monotonic() + patience_s
        while any(program.pid is not None for program in group):
            if time.monotonic() >= deadline or in_a_hurry():
                break
            threading.Event().wait(_SLICE_S)
            for program in group:
                program.look()
        late = [program for program in group if program.pid is not None]
        for program in late:
            program.destroy()
        killed += late
    return killed


def _words(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"
