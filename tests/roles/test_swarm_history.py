"""What a swarm has done is read from store and chain alone, and only from whose it is to say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.protocol.keys import debug_keys, manifest_keys
from templar_pl.roles.swarm_history import read_report
from templar_pl.units import Uid, Window
from tests.roles.swarm_runs import DIGEST, RUN, WrittenRun, state

OTHER = hashlib.sha256(b"other").digest()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WrittenRun]:
    written = WrittenRun(tmp_path, ["alice", "bob"])
    yield written
    written.chain.close()


def test_everything_that_is_published_is_read(run: WrittenRun) -> None:
    run.report("alice", 10, 2.5)
    run.report("bob", 10, math.nan, why="the store failed")
    run.manifest(10)
    run.score(8, {"alice": 1.5, "bob": 0.25})
    run.weigh({"alice": 3.0, "bob": 1.0})

    history = run.watcher().look()

    alice, bob = run.uids["alice"], run.uids["bob"]
    assert history.window == 12
    assert history.reports[alice][Window(10)].loss == 2.5
    assert history.reports[alice][Window(10)].peers == (Uid(0), Uid(1))
    assert history.reports[alice][Window(10)].before == state(10).hex()
    assert (history.reports[alice][Window(10)].bytes_up, history.reports[alice][Window(10)].bytes_down) == (100, 200)
    assert math.isnan(history.reports[bob][Window(10)].loss)
    assert history.reports[bob][Window(10)].put_failed == "the store failed"
    assert history.manifests[Window(10)].after == state(11)
    assert history.scores == {Window(8): {alice: 1.5, bob: 0.25}}
    assert history.weights == {alice: 0.75, bob: 0.25}
    assert history.uid_of(run.hotkeys["bob"]) == bob


def test_a_second_look_finds_what_came_since(run: WrittenRun) -> None:
    watcher = run.watcher()
    run.report("alice", 9)
    watcher.look()
    run.report("alice", 10)
    run.manifest(11)
    run.score(9, {"alice": 2.0})

    history = watcher.look()

    assert sorted(history.reports[run.uids["alice"]]) == [9, 10]
    assert sorted(history.manifests) == [11]
    newest = history.newest(run.uids["alice"])
    assert newest is not None
    assert newest.window == 10
    assert history.last_scores == {run.uids["alice"]: 2.0}


def test_what_all_should_hold_follows_from_either_manifest(run: WrittenRun) -> None:
    run.manifest(10)

    history = run.watcher().look()

    assert history.before(Window(10)) == state(10).hex()
    assert history.before(Window(11)) == state(11).hex()
    assert history.before(Window(9)) is None


@pytest.mark.parametrize(
    "forge",
    [
        lambda run: run.manifest(10, by="bob"),
        lambda run: run.manifest(10, digest=OTHER),
        lambda run: run.put("aggregator", manifest_keys(RUN).key(Window(10)), b"{}"),
    ],
    ids=["signed by another", "of another run", "no manifest"],
)
def test_a_manifest_that_is_not_the_aggregators_is_not_believed(
    run: WrittenRun, forge: Callable[[WrittenRun], None]
) -> None:
    forge(run)

    assert run.watcher().look().manifests == {}


def test_scores_that_are_not_the_validators_are_not_believed(run: WrittenRun) -> None:
    run.score(9, {"alice": 2.0}, by="bob")

    assert run.watcher().look().scores == {}


def test_without_aggregator_and_validator_reports_are_all_there_is(run: WrittenRun) -> None:
    run.report("alice", 10)
    run.manifest(10)
    run.score(9, {"alice": 2.0})

    history = run.watcher(aggregator=False, validator=False).look()

    assert history.reports[run.uids["alice"]]
    assert (history.manifests, history.scores, history.weights) == ({}, {}, {})


def test_a_report_that_is_none_is_left_out(run: WrittenRun) -> None:
    run.put("alice", debug_keys(RUN, run.uids["alice"]).key(Window(9)), b"[1]")
    run.report("alice", 10)

    assert sorted(run.watcher().look().reports[run.uids["alice"]]) == [10]


def test_a_node_speaks_only_for_itself(run: WrittenRun) -> None:
    run.put("alice", debug_keys(RUN, run.uids["bob"]).key(Window(9)), b"{}")

    history = run.watcher().look()

    assert not any(history.reports.values())
    assert DIGEST != OTHER


ANYTHING = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=5,
)
FIELDS = ("window", "loss", "peers", "parameters_before", "put_failed", "bytes_up", "bytes_down")


@given(
    st.binary() | (ANYTHING | st.fixed_dictionaries(dict.fromkeys(FIELDS, ANYTHING))).map(json.dumps).map(str.encode)
)
def test_any_bytes_are_a_report_or_a_value_error(data: bytes) -> None:
    try:
        read_report(data)
    except ValueError:
        pass
    else:
        assert set(json.loads(data)) >= set(FIELDS)
