"""What a validator keeps on its disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from templar_pl.errors import ConfigError, Fault, StoreError
from templar_pl.roles.score_journal import Journal, Knowledge
from templar_pl.scoring import Lineage, Presence, ScoringState, WindowRecords, judge
from templar_pl.units import Hotkey, Uid, Window
from tests.roles.scored_runs import HPARAMS

START = Window(4)


def knowledge_after(window: int) -> Knowledge:
    presences = tuple(
        Presence(uid=Uid(uid), hotkey=Hotkey(f"hotkey-{uid}"), fault=Fault.LATE if uid == 2 else None) for uid in (1, 2)
    )
    records = WindowRecords(window=Window(window), presences=presences)
    state = judge(ScoringState(), records, HPARAMS.scoring, HPARAMS.peers).state
    return Knowledge(state, Lineage(START, {Window(window): b"f" * 32}), Window(window - 1))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "score", START)


def test_nothing_is_known_before_the_first_window(journal: Journal) -> None:
    assert journal.read() == Knowledge.at_start(START)
    assert list(journal.unpublished(Window(9))) == []


def test_what_was_written_is_read_by_the_next_life(journal: Journal, tmp_path: Path) -> None:
    for window in (7, 8):
        journal.write(knowledge_after(window), b"record %d" % window)

    later = Journal(tmp_path / "score", START)

    assert later.read() == knowledge_after(8)
    assert list(later.unpublished(Window(8))) == [(7, b"record 7"), (8, b"record 8")]


def test_a_record_that_is_published_is_forgotten(journal: Journal) -> None:
    for window in (7, 8):
        journal.write(knowledge_after(window), b"record")

    journal.published(Window(7))

    assert [window for window, _ in journal.unpublished(Window(8))] == [8]


def test_a_record_of_a_window_that_was_not_judged_to_the_end_is_dropped(journal: Journal) -> None:
    journal.write(knowledge_after(7), b"record")
    journal.write(knowledge_after(8), b"half judged")

    assert [window for window, _ in journal.unpublished(Window(7))] == [7]
    assert [window for window, _ in journal.unpublished(Window(8))] == [7]


def test_the_window_of_the_last_weights_is_kept_beside_the_rest(journal: Journal) -> None:
    journal.write(knowledge_after(7), b"record")

    journal.keep(replace(knowledge_after(7), weights_window=Window(7)))

    assert journal.read() == replace(knowledge_after(7), weights_window=Window(7))


def changed(text: str, **fields: object) -> str:
    return json.dumps(json.loads(text) | fields)


DAMAGED = {
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "of another version": lambda text: changed(text, format=2),
    "a field more": lambda text: changed(text, more=1),
    "of another run": lambda text: changed(text, start_window=5),
    "a damaged score": lambda text: changed(text, scoring={}),
    "a fingerprint too short": lambda text: changed(text, fingerprints={"7": "00"}),
    "fingerprints as a list": lambda text: changed(text, fingerprints=[]),
    "no window of weights": lambda text: changed(text, weights_window="x"),
    "nested without end": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_and_says_how_to_go_on(journal: Journal, tmp_path: Path, damage: str) -> None:
    journal.write(knowledge_after(7), b"record")
    path = tmp_path / "score" / "state.json"
    path.write_text(DAMAGED[damage](path.read_text()))

    with pytest.raises(ConfigError, match="is not what a validator of this run and version wrote"):
        journal.read()


def test_a_disk_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "score").write_text("a file where a folder must be")

    with pytest.raises(StoreError, match="cannot write"):
        Journal(tmp_path / "score", START).write(knowledge_after(7), b"record")
