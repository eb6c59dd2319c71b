"""Follows nodes through their windows by what they print."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.end_to_end.node import Node

LONG_S = 240.0  # a loaded machine of two cores
_LINE = re.compile(r" (?:window (\d+): (?:loss |caught up from )).*(?=\n)")
_PEERS = re.compile(r"peers (\d+)/\d+|caught up from (\d+) payload")
_SKIPPED = re.compile(r"skipped peer (\d+): .*")


@dataclass(frozen=True)
class Applied:
    """One window of one node, as its log tells it."""

    line: str
    seen_at: float
    """UTC seconds at which the line was there."""

    @property
    def peers(self) -> int:
        """Payloads that were applied."""
        found = _PEERS.search(self.line)
        assert found is not None, self.line
        return int(found[1] or found[2])

    @property
    def skipped(self) -> dict[int, str]:
        """Reason by uid."""
        found = (_SKIPPED.fullmatch(part) for part in self.line.split(" | "))
        return {int(one[1]): one[0] for one in found if one}

    @property
    def not_sent(self) -> str:
        """Why the own payload was not sent; empty if it was."""
        return "".join(part for part in self.line.split(" | ") if part.startswith("not sent: "))

    @property
    def was_trained(self) -> bool:
        """Whether the node took part, instead of catching up later."""
        return "loss" in self.line


class Watch:
    """The windows of several nodes."""

    def __init__(self, nodes: Mapping[str, Node], birth: float, window_s: float) -> None:
        self.nodes, self._birth, self._window_s = dict(nodes), birth, window_s
        self.applied: dict[str, dict[int, Applied]] = {name: {} for name in nodes}

    def end_of(self, window: int) -> float:
        """Return the UTC seconds at which a window ends."""
        return self._birth + (window + 1) * self._window_s

    def now_open(self) -> int:
        """Return the window that is open."""
        return int((time.time() - self._birth) // self._window_s)

    def look(self) -> None:
        """Read what was printed since."""
        now = time.time()
        for name, node in self.nodes.items():
            for found in _LINE.finditer(node.text()):
                self.applied[name].setdefault(int(found[1]), Applied(found[0], now))

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait; fail if a node ends meanwhile, or after a long time."""
        deadline = time.monotonic() + LONG_S
        while not is_so():
            for name, node in self.nodes.items():
                assert node.process.poll() is None, f"{name} ended while waiting until {what}:\n{node.text()}"
            assert time.monotonic() < deadline, f"not so in {LONG_S:g} s: {what}\n{self.texts()}"
            time.sleep(0.05)
            self.look()

    def wait_for_window(self, window: int) -> None:
        """Wait until every node has applied a window."""
        self.wait_until(lambda: all(window in self.applied[name] for name in self.nodes), f"all applied {window}")

    def wait_for_calm(self, margin_s: float) -> int:
        """Wait until every node trains the window that is open, which has a while to go; return it."""

        def is_calm() -> bool:
            window = self.now_open()
            has_time = self.end_of(window) - time.time() > margin_s
            return has_time and all(window - 1 in self.applied[name] for name in self.nodes)

        self.wait_until(is_calm, "all train the same window")
        return self.now_open()

    def texts(self) -> str:
        """Return all logs, for messages."""
        return "\n".join(f"--- {name}\n{node.text()}" for name, node in self.nodes.items())
