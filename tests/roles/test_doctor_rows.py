"""How checks run, what their errors become, and how a report is shown."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest
from rich.console import Console

from templar_pl.errors import ConfigError, StoreError
from templar_pl.roles.doctor_rows import Check, Part, Row, State, UnmetError, run_checks
from templar_pl.roles.doctor_table import as_json, show_table

ROWS = [
    Row("good", State.OK, "all [bold]well[/bold]"),
    Row("so-so", State.WARNING, "could be better", "do this"),
    Row("bad", State.FAILED, "broken", "mend it"),
    Row("unknown", State.SKIPPED, "needs the others"),
]


def refuse() -> NoReturn:
    raise ConfigError("topk must be in 1..4096, got 0")


def shown(rows: list[Row], encoding: str = "utf-8") -> str:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show_table(rows, Console(file=written, width=80))
    written.seek(0)
    return written.read()


def test_checks_wait_side_by_side_and_their_rows_come_in_order() -> None:
    together = threading.Barrier(3, timeout=30)

    def wait(name: str) -> Iterator[Row]:
        together.wait()  # breaks unless all three run at once
        yield Row(name, State.OK, "met the others")

    rows = run_checks([Check(name, lambda name=name: wait(name)) for name in "abc"])

    assert [row.check for row in rows] == ["a", "b", "c"]


@pytest.mark.parametrize("error", [StoreError("no connection"), ConfigError("no key"), OSError(28, "disk full")])
def test_an_error_fails_its_check_alone_and_keeps_what_was_found_before(error: Exception) -> None:
    def failing() -> Iterator[Row]:
        yield Row("first step", State.OK, "done")
        raise error

    rows = run_checks([Check("failing", failing), Check("other", lambda: [ROWS[0]])])

    assert [(row.check, row.state) for row in rows] == [
        ("first step", State.OK),
        ("failing", State.FAILED),
        ("good", State.OK),
    ]
    assert rows[1].found == str(error)


def test_a_bug_in_a_check_rises() -> None:
    with pytest.raises(ZeroDivisionError):
        run_checks([Check("wrong", lambda: [Row("wrong", State.OK, str(1 // 0))])])


def test_a_check_of_what_is_wrong_elsewhere_is_skipped() -> None:
    part = Part(refuse)

    (row,) = run_checks([Check("memory", lambda: [Row("memory", State.OK, str(part.get()))])])

    assert (row.check, row.state) == ("memory", State.SKIPPED)


def test_only_the_part_that_is_wrong_itself_is_at_fault() -> None:
    wrong = Part(refuse)
    made_of_it = Part(lambda: [wrong.get()])

    assert wrong.fault() == "topk must be in 1..4096, got 0"
    assert made_of_it.fault() == ""
    assert Part(lambda: 3).fault() == ""
    with pytest.raises(UnmetError):
        made_of_it.get()


def test_a_part_may_be_none() -> None:
    assert Part(lambda: None).get() is None


def test_a_table_says_of_each_check_how_it_ended_and_how_to_mend_it() -> None:
    text = shown(ROWS)

    for mark, row in zip("✓!✗-", ROWS, strict=True):
        assert f"{mark}   {row.check}" in text
        assert row.found in text
        assert row.mend in text
    assert "ok 1, warning 1, failed 1, skipped 1: something would stop the run" in text


def test_a_terminal_without_such_signs_gets_plain_ones() -> None:
    text = shown(ROWS, encoding="ascii")

    assert "|XX | bad" in text
    assert "-> mend it" in text


def test_warnings_stop_nothing() -> None:
    assert "nothing here would stop the run" in shown(ROWS[:2])


def test_json_holds_the_same() -> None:
    assert json.loads(as_json(ROWS))[2] == {"check": "bad", "state": "failed", "found": "broken", "mend": "mend it"}
