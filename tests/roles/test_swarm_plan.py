"""Who a swarm is made of, and what is done to it, follows from its options."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import ConfigError
from templar_pl.roles.swarm_plan import ADVERSARIES, SENDERS, Kill, Kind, SwarmConfig


def test_honest_miners_come_first_then_adversaries_then_those_who_send_nothing_then_who_joins() -> None:
    config = SwarmConfig(miners=2, copycats=1, noisy=1, lazy=1, stale=1, join=["2@3", "1@2"])

    names = [member.name for member in config.members()]

    started = ["miner-0", "miner-1", "copycat-0", "noisy-0", "lazy-0", "stale-0", "validator", "aggregator"]
    assert names == [*started, "miner-2", "miner-3", "miner-4"]
    assert [member.joins_at for member in config.members()] == [None] * 8 + [2, 3, 3]


@given(
    st.integers(1, 5),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), max_size=3),
)
def test_there_are_as_many_of_each_as_was_asked_for(
    miners: int, adversaries: tuple[int, ...], validator: bool, aggregator: bool, joins: list[tuple[int, int]]
) -> None:
    numbers: dict[str, Any] = dict(zip(("copycats", "noisy", "lazy", "stale"), adversaries, strict=True))
    config = SwarmConfig(
        miners=miners,
        validator=validator,
        aggregator=aggregator,
        join=[f"{count}@{window}" for count, window in joins],
        **numbers,
    )

    members = config.members()

    count = {kind: sum(member.kind is kind for member in members) for kind in Kind}
    assert count[Kind.MINER] == miners + sum(number for number, _ in joins)
    assert [count[kind] for kind in ADVERSARIES] == list(adversaries)
    assert (count[Kind.VALIDATOR], count[Kind.AGGREGATOR]) == (validator, aggregator)
    assert len({member.name for member in members}) == len(members)
    from_start = [member for member in members if member.joins_at is None]
    assert members[: len(from_start)] == from_start
    sends = [member.kind in SENDERS for member in from_start]
    assert sends == sorted(sends, reverse=True)


def test_kills_are_read_with_and_without_a_time_to_stay_down() -> None:
    assert SwarmConfig(kill=["1@5", "3@10:4"]).kills() == [Kill(1, 5, 0), Kill(3, 10, 4)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"miners": 0}, "miners must be"),
        ({"copycats": -1}, "copycats must be"),
        ({"windows": 0}, "windows must be"),
        ({"seconds_per_window": 0.5}, "seconds_per_window must be"),
        ({"start_s": float("nan")}, "start_s must be"),
        ({"threads": 0}, "threads must be"),
        ({"kill": ["1"]}, "kill must read UID@WINDOW or UID@WINDOW:WINDOWS"),
        ({"kill": ["miner@3"]}, "kill must read"),
        ({"kill": ["6@3"]}, r"kill must name a uid in 0\.\.5"),
        ({"kill": ["1@31"]}, r"must name a window in 1\.\.30"),
        ({"kill": ["1@0"]}, r"must name a window in 1\.\.30"),
        ({"join": ["1:3"]}, "join must read COUNT@WINDOW"),
        ({"join": ["1@31"]}, r"must name a window in 1\.\.30"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SwarmConfig(**wrong)


def test_who_joins_later_cannot_be_killed_by_a_uid_that_nobody_knows_yet() -> None:
    with pytest.raises(ConfigError, match="who is there from the start"):
        SwarmConfig(miners=1, join=["1@2"], kill=["3@4"])
