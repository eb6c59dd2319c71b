"""A whole network on one machine: starts its nodes as processes, keeps them alive, and judges what became of it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from templar_pl.errors import ChainError
from templar_pl.roles.supervisor import Program, State, end_in_order
from templar_pl.roles.swarm_history import History, Watcher
from templar_pl.roles.swarm_plan import SENDERS, Kind, Member, SwarmConfig
from templar_pl.roles.swarm_table import Row, Screen, row_of
from templar_pl.roles.swarm_verdict import Fate, Verdict, judge
from templar_pl.units import Hotkey, Uid, Window

log = logging.getLogger(__name__)

END_S = 45.0
"""Seconds for the miners to end in order, then for validator and aggregator: one may be in a window that is about to
close, which it waits for (GRACE_S of exchange/record.py) and gathers."""

PATIENCE_WINDOWS = 8
"""Windows after the last counted one for which who has not told of it yet is waited for; a validator is some behind."""

MOST_WAITED_WINDOWS = 20
"""Windows of the run after which a swarm ends in which not all miners have sent anything yet."""

_TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Node:
    """A member of the swarm with its process."""

    member: Member
    hotkey: Hotkey
    program: Program


class Asked:
    """How often the process was asked to end, by which signal first."""

    def __init__(self) -> None:
        """Start with nothing asked."""
        self.times = 0
        self.first: int | None = None

    def note(self, number: int, _: object) -> None:
        """Take a signal."""
        self.times += 1
        self.first = self.first or number

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended; 0 without one."""
        return 0 if self.first is None else 128 + self.first


class Swarm:
    """Runs the nodes through the counted windows."""

    def __init__(self, config: SwarmConfig, nodes: Sequence[Node], watcher: Watcher, screen: Screen) -> None:
        """Store the parts; nothing is started.

        Args:
            config: how long, and what is done to whom.
            nodes: all of them; who is there from the start in the order of their uids.
            watcher: of the run.
            screen: where it is shown.
        """
        self._config, self._nodes = config, list(nodes)
        self._watcher, self._screen = watcher, screen
        self._kills = config.kills()
        self._releases: list[tuple[int, Node]] = []
        self.first: Window | None = None
        """The first counted window; None before there is one."""

    def run(self, asked: Asked) -> None:
        """Run until all windows are counted, a node is given up, or the process is asked to end."""
        pause = threading.Event()
        for node in self._nodes:
            if node.member.joins_at is None:
                node.program.start()
        while not asked.times:
            for node in self._nodes:
                node.program.look()
            history = self._look()
            self._screen.show(history, self._rows(history), self._progress(history))
            if self._is_over(history) or any(node.program.state is State.FAILED for node in self._nodes):
                return
            self._carry_out(history)
            pause.wait(_TICK_S)

    def end(self, asked: Asked) -> None:
        """End all nodes, in bounded time: the miners first, for they need the others to the end of their window."""
        already = asked.times
        senders = [node.program for node in self._nodes if node.member.kind in SENDERS]
        others = [node.program for node in self._nodes if node.member.kind not in SENDERS]
        killed = end_in_order([senders, others], END_S, in_a_hurry=lambda: asked.times > already)
        for program in killed:
            log.warning("%s did not end in %.0f s and was killed", program.name, END_S)

    def verdict(self) -> Verdict | None:
        """Return what became of it; None if no window was counted."""
        history = self._look()
        if self.first is None:
            return None
        last = min(self._last(self.first), history.window - 1)
        return None if last < self.first else judge(history, self._fates(history), self.first, Window(last))

    def _look(self) -> History:
        try:
            return self._watcher.look()
        except ChainError as error:
            log.warning("the chain does not answer: %s", error)
            return self._watcher.history

    def _carry_out(self, history: History) -> None:
        """Do what is planned for the window that is open."""
        if self.first is None:
            self.first = self._find_first(history)
            if self.first is None:
                return
            log.info("window %d is the first that counts; the last is %d", self.first, self._last(self.first))
        number = history.window - self.first + 1
        for kill in [kill for kill in self._kills if kill.window <= number]:
            self._kills.remove(kill)
            node = self._nodes[kill.uid]
            log.info("%s is killed%s", node.member.name, f" for {kill.windows_down} windows" * (kill.windows_down > 0))
            node.program.kill(hold=kill.windows_down > 0)
            if kill.windows_down:
                self._releases.append((kill.window + kill.windows_down, node))
        for release in [release for release in self._releases if release[0] <= number]:
            self._releases.remove(release)
            release[1].program.release()
        for node in self._nodes:
            if node.program.state is State.WAITING and (node.member.joins_at or 0) <= number:
                node.program.start()

    def _find_first(self, history: History) -> Window | None:
        """Return the first window for which all miners sent something that were there from the start."""
        there = [
            {window for window, report in history.reports.get(uid, {}).items() if report.bytes_up}
            for uid in (history.uid_of(node.hotkey) for node in self._miners if node.member.joins_at is None)
            if uid is not None
        ]
        common = set.intersection(*there) if there else set()
        return min(common, default=None)

    def _is_over(self, history: History) -> bool:
        """Whether all is known of the last counted window, or nothing more is to be expected."""
        if self.first is None:
            return history.window > MOST_WAITED_WINDOWS
        last = self._last(self.first)
        if history.window > last + PATIENCE_WINDOWS:
            return True
        after = [Window(last + 1) in history.reports.get(uid, {}) for uid in self._uids(history).values()]
        is_scored = not self._config.validator or last in history.scores
        return is_scored and bool(after) and all(after)

    def _last(self, first: Window) -> Window:
        return Window(first + self._config.windows - 1)

    @property
    def _miners(self) -> list[Node]:
        return [node for node in self._nodes if node.member.kind is Kind.MINER]

    def _uids(self, history: History) -> dict[str, Uid]:
        """Return the number of every honest miner that should be running."""
        up = [node for node in self._miners if node.program.state in (State.RUNNING, State.RESTARTING)]
        found = {node.member.name: history.uid_of(node.hotkey) for node in up}
        return {name: uid for name, uid in found.items() if uid is not None}

    def _progress(self, history: History) -> str:
        if self.first is None:
            return "the nodes are starting" if history.window < 1 else "waiting until all miners take part"
        over = min(max(0, history.window - self.first), self._config.windows)
        return f"{over} of {self._config.windows} windows are over"

    def _rows(self, history: History) -> list[Row]:
        return [
            row_of(history, node.member.name, node.member.kind, history.uid_of(node.hotkey), node.program.state)
            for node in self._nodes
        ]

    def _fates(self, history: History) -> list[Fate]:
        return [
            Fate(
                name=node.member.name,
                kind=node.member.kind,
                uid=history.uid_of(node.hotkey),
                restarts=node.program.restarts,
                kept_alive=node.program.state is not State.FAILED,
            )
            for node in self._nodes
        ]


@contextmanager
def noted_signals(asked: Asked) -> Iterator[None]:
    """Count SIGINT and SIGTERM instead of dying of them."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, asked.note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_swarm(swarm: Swarm, screen: Screen) -> tuple[Verdict | None, int]:
    """Run a swarm to its end.

    Args:
        swarm: not started yet.
        screen: on which it is shown.

    Returns:
        What became of it, None if no window was counted; and 130 or 143 if a signal ended it, else 0.
    """
    asked = Asked()
    with noted_signals(asked):
        try:
            swarm.run(asked)
        finally:
            try:
                swarm.end(asked)
            finally:
                screen.close()
        return swarm.verdict(), asked.exit_code


def exit_code(verdict: Verdict | None, ended_by: int) -> int:
    """Return what the command ends with: 1 if honest nodes differ or one could not be kept alive, or nothing counted.

    Args:
        verdict: on the swarm.
        ended_by: 130 or 143 if a signal ended it before its time, else 0; a bad verdict counts more.
    """
    if verdict is None:
        return ended_by or 1
    if verdict.differs or not verdict.kept_alive:
        return 1
    return ended_by or (0 if verdict.equal else 1)
