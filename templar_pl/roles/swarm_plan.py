"""What a swarm is made of, and what is done to it when."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from templar_pl.config import check_ranges
from templar_pl.errors import ConfigError

MAX_NODES = 64
"""Of each kind; a machine that carries more is not known."""

_KILL = re.compile(r"(\d{1,6})@(\d{1,6})(?::(\d{1,6}))?")
_JOIN = re.compile(r"(\d{1,6})@(\d{1,6})")


class Kind(StrEnum):
    """What a node does."""

    MINER = "miner"
    COPYCAT = "copycat"
    NOISY = "noisy"
    LAZY = "lazy"
    STALE = "stale"
    VALIDATOR = "validator"
    AGGREGATOR = "aggregator"


ADVERSARIES = (Kind.COPYCAT, Kind.NOISY, Kind.LAZY, Kind.STALE)
"""Who sends what it should not."""

SENDERS = (Kind.MINER, *ADVERSARIES)
"""Who sends payloads."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A node that is killed."""

    uid: int
    window: int
    """Number of a counted window, from 1."""

    windows_down: int
    """Windows until it may come back; 0: the supervisor starts it again as after any end."""


@dataclass(frozen=True, kw_only=True)
class SwarmConfig:
    """A whole network on one machine: who takes part, for how long, and what is done to it.

    Windows are counted from the first in which all miners took part that were there from the start.
    """

    miners: int = 4
    """Honest miners that are there from the start; 1..64. They get the uids from 0 on."""

    copycats: int = 0
    """Miners that send what another one sent, under their own signature; 0..64."""

    noisy: int = 0
    """Miners that send random gradients of the usual size; 0..64."""

    lazy: int = 0
    """Miners that train on the same pages in every window instead of those they were given; 0..64."""

    stale: int = 0
    """Miners that train on parameters which are some windows old; 0..64."""

    validator: bool = True
    """Whether somebody scores."""

    aggregator: bool = True
    """Whether somebody writes down what each window was; if not, it consists of what landed in time."""

    windows: int = 30
    """Windows to count before the swarm ends; 1..10**6."""

    seconds_per_window: float = 12.0
    """Length of a window; 1..3600."""

    start_s: float = 60.0
    """Seconds for all nodes to start, before the first window in which they can send begins; 1..3600. More nodes on
    fewer cores need more; who comes later joins later."""

    threads: int = 1
    """Threads of each node; 1..1024."""

    kill: list[str] = field(default_factory=list)
    """Nodes to kill as the kernel does: `UID@WINDOW`, started again at once, or `UID@WINDOW:WINDOWS`, after so many
    windows. May be given several times."""

    join: list[str] = field(default_factory=list)
    """Honest miners that come later: `COUNT@WINDOW`. May be given several times."""

    fresh: bool = False
    """Whether the folder of an earlier swarm, named by `store.root`, is deleted first."""

    json: bool = False
    """Whether the verdict is printed as JSON."""

    def __post_init__(self) -> None:
        kinds = dict.fromkeys(("copycats", "noisy", "lazy", "stale"), (0, MAX_NODES))
        check_ranges(self, miners=(1, MAX_NODES), windows=(1, 10**6), threads=(1, 1024), **kinds)
        check_ranges(self, seconds_per_window=(1, 3600), start_s=(1, 3600))
        joins, kills = self.joins(), self.kills()
        last = len(self.members()) - len(joins) - 1
        for kill in kills:
            if kill.uid > last:
                raise ConfigError(f"kill must name a uid in 0..{last}, who is there from the start, got {kill.uid}")
        for window in [kill.window for kill in kills] + joins:
            if not 1 <= window <= self.windows:
                raise ConfigError(f"kill and join must name a window in 1..{self.windows}, got {window}")

    def kills(self) -> list[Kill]:
        """Return who is killed when. Raises `ConfigError` for words that say no such thing."""
        found = [_match(_KILL, "kill", "UID@WINDOW or UID@WINDOW:WINDOWS", text) for text in self.kill]
        return [Kill(int(uid), int(window), int(down)) for uid, window, down in found]

    def joins(self) -> list[int]:
        """Return the window of each miner that comes later. Raises `ConfigError` for words that say no such thing."""
        found = [_match(_JOIN, "join", "COUNT@WINDOW", text) for text in self.join]
        return sorted(int(window) for count, window in found for _ in range(min(int(count), MAX_NODES)))

    def members(self) -> list[Member]:
        """Return everybody; who is there from the start in the order of their uids, who comes later last."""
        counts = (self.miners, self.copycats, self.noisy, self.lazy, self.stale)
        counts += (int(self.validator), int(self.aggregator))
        members = [
            Member(f"{kind}-{number}" if kind in SENDERS else str(kind), kind)
            for kind, count in zip(Kind, counts, strict=True)
            for number in range(count)
        ]
        later = enumerate(self.joins(), start=self.miners)
        return members + [Member(f"{Kind.MINER}-{number}", Kind.MINER, window) for number, window in later]


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a swarm."""

    name: str
    """Of its hotkey, of its folder and of its log."""

    kind: Kind
    joins_at: int | None = None
    """Number of the counted window at which it is started; None if it is there from the start."""


def _match(pattern: re.Pattern[str], option: str, form: str, text: str) -> tuple[str, ...]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ConfigError(f"{option} must read {form}, whole numbers, got {text!r}")
    return found.groups(default="0")
