"""The state survives being written down, and damage is found."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.config import PeersConfig, ScoringConfig
from templar_pl.scoring import ScoringState, StateError, choose_from, judge, read_state, write_state
from templar_pl.units import Window
from tests.scoring.simulation import Network, simulate

SOME = simulate(3, windows=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.integers(0, 10**6), st.integers(0, 5))
def test_a_state_that_is_read_is_equal_to_the_bit(seed: int, windows: int) -> None:
    state = simulate(seed, windows=windows)

    assert read_state(write_state(state)) == state
    assert write_state(read_state(write_state(state))) == write_state(state)


def test_a_validator_that_was_killed_goes_on_as_if_it_had_not_been() -> None:
    states = [SOME, read_state(write_state(SOME))]
    for number, state in enumerate(states):
        network = Network(11)
        for window in map(Window, range(200, 205)):
            presences = network.presences()
            chosen = choose_from(states[number], presences, window, 4)
            records = network.records(window, presences, chosen, detects_copies=True)
            states[number] = judge(states[number], records, ScoringConfig(), PeersConfig()).state
        assert states[number] != state

    assert states[0] == states[1]


def test_a_new_state_is_written_too() -> None:
    assert read_state(write_state(ScoringState())) == ScoringState()


@given(st.text() | JSON.map(json.dumps))
def test_whatever_is_read_is_a_state_or_an_error_of_it(text: str) -> None:
    with pytest.raises(StateError):
        read_state(text)


@given(st.data(), JSON)
def test_any_field_may_be_damaged(data: st.DataObject, value: object) -> None:
    fields = json.loads(write_state(SOME))
    place = fields
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value

    try:
        state = read_state(json.dumps(fields))
    except StateError:
        return
    assert json.loads(write_state(state)) == fields


@given(st.integers(0, len(write_state(SOME)) - 3))
def test_a_text_that_was_cut_short_is_an_error(length: int) -> None:
    with pytest.raises(StateError, match="is not JSON"):
        read_state(write_state(SOME)[:length])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 1, "format of the scoring state must be 2, got '1'"),
        (("format",), True, "format of the scoring state must be 2, got 'True'"),
        (("miners", "0", "mu"), "25", "mu of miner 0 must be the text of float.hex"),
        (("window",), -2, r"window must be a whole number in -1\.\."),
        (("miners", "0", "mu"), "nan", "mu of miner 0 must be finite"),
        (("miners", "0", "mu"), 25.0, "mu of miner 0 must be text, got a float"),
        (("miners", "0", "mu"), "0x1p99999", "mu of miner 0 must be the text of float.hex"),
        (("miners", "0", "sigma"), "0x0.0p+0", "sigma of miner 0 must be above 0"),
        (
            ("miners", "0", "indicator"),
            "0x1.1000000000000p+0",
            r"indicator of miner 0 must be finite and in -1.0\.\.1.0, got 1.06",
        ),
        (("miners", "0", "sync"), "-0x1.0000000000000p-9", "sync of miner 0 must be finite and in"),
        (("miners", "0", "silent"), True, "silent of miner 0 must be a whole number"),
        (("miners", "0", "penalties"), 2**53, "penalties of miner 0 must be a whole number"),
        (("miners", "0", "hotkey"), 5, "hotkey of miner 0 must be text"),
        (("miners", "0", "more"), 5, "miner 0 must have the fields hotkey"),
        (("miners", "00"), {}, "a key of miners must be a uid, got '00'"),
        (("miners", "²"), {}, "a key of miners must be a uid"),
        (("miners", "9" * 5000), {}, "a key of miners must be a uid"),
        (("miners",), [], "miners must be a map, got a list"),
        (("peer_list", "uids"), [2, 1], "uids of peer_list must ascend"),
        (("peer_list", "uids"), [1, 1], "uids of peer_list must ascend"),
        (("peer_list", "uids"), {}, "uids of peer_list must be a list"),
        (("more",), 1, "the state must have the fields format"),
    ],
)
def test_an_error_says_where_the_damage_is(path: tuple[str, ...], value: object, message: str) -> None:
    fields = json.loads(write_state(SOME))
    place = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    with pytest.raises(StateError, match=message):
        read_state(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "[]", "{}", "NaN", "[" * 100_000, "null"])
def test_texts_that_are_no_state(text: str) -> None:
    with pytest.raises(StateError):
        read_state(text)
