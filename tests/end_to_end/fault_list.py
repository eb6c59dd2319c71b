"""The faults that a run behind bent ways to its store goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.servers.nodes import credentials
from tests.servers.tcp_proxy import Bend, Rule, Way

UNTIL_APPLIED = -1.0
"""Instead of seconds: the fault is over when every node has applied the window."""

Ways = Mapping[str, Way]


@dataclass(frozen=True)
class Fault:
    """One fault, and how long it lasts."""

    name: str
    where: str
    begin: Callable[[Ways], None]
    lasts_s: float = UNTIL_APPLIED
    """Seconds after the end of the window."""


def everywhere(**rule: object) -> Callable[[Ways], None]:
    """Bend the ways of all nodes."""

    def begin(ways: Ways) -> None:
        for way in ways.values():
            way.bend(Rule(**rule))  # type: ignore[arg-type]  # fields of a rule

    return begin


def at_bob(bend: Bend, *methods: str) -> Callable[[Ways], None]:
    """Bend all ways to the bucket of bob."""
    return everywhere(bend=bend, bucket=credentials("bob", "").address.account, methods=methods)


ALL, BOB, CAROL = "all buckets", "bob's bucket", "carol's network"
OUTAGE_S = 4.0  # until no put is tried any more

FAULTS = (
    Fault("latency of 0.4 s", ALL, everywhere(bend=Bend(up_delay_s=0.2, down_delay_s=0.2))),
    Fault("10 kB/s a connection", ALL, everywhere(bend=Bend(bytes_per_s=10_000))),
    Fault("150 B/s a connection", BOB, at_bob(Bend(bytes_per_s=150))),
    Fault("every put arrives 2.2 s later", BOB, at_bob(Bend(up_delay_s=2.2), "PUT")),
    Fault("every put is reset in mid-body", BOB, at_bob(Bend(reset_request_after=300), "PUT")),
    Fault(
        "each node's first 2 gets are reset in mid-body",
        ALL,
        everywhere(bend=Bend(reset_answer_after=300), methods=("GET",), at_most=2),
    ),
    Fault(
        "each node's first 2 gets fall silent after the head",
        ALL,
        everywhere(bend=Bend(loses="answer's body"), methods=("GET",), at_most=2),
    ),
    Fault("every answer to a put is lost", BOB, at_bob(Bend(loses="answer"), "PUT")),
    Fault("black hole", BOB, at_bob(Bend(loses="request"))),
    Fault("black hole until 4 s after the window", ALL, everywhere(bend=Bend(loses="request")), OUTAGE_S),
    Fault("503", BOB, at_bob(Bend(status=503))),
    Fault("503 until 4 s after the window", ALL, everywhere(bend=Bend(status=503)), OUTAGE_S),
    Fault(
        "429 with Retry-After to each node's first 3 requests",
        ALL,
        everywhere(bend=Bend(status=429, headers={"Retry-After": "1"}), at_most=3),
    ),
    Fault("connections are refused until 4 s after the window", CAROL, lambda ways: ways["carol"].refuse(), OUTAGE_S),
)

SPLIT = Fault("every get is reset in mid-body; puts and heads work", BOB, at_bob(Bend(reset_answer_after=300), "GET"))
"""Bob sees its payload landed in time and counts it; nobody else can read it."""


def mend(ways: Ways) -> None:
    """End all faults."""
    for way in ways.values():
        way.bend()
        way.accept()
