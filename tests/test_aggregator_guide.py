"""The guide for aggregators keeps its promises: commands, options, links and messages."""

from __future__ import annotations

import re

import pytest

from templar_pl.cli import TemplarCLI, run_command
from templar_pl.cli_aggregate import AggregateCLI
from tests.documents import ROOT, blocks, commands, is_said, links, messages

GUIDE = (ROOT / "docs" / "aggregator.md").read_text()
COMMANDS = commands(GUIDE, "python")


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[3])
def test_every_command_is_accepted_as_it_stands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parse = {"fit": TemplarCLI, "aggregate": AggregateCLI}[words[3]]
    options = ["fit", *words[4:]] if parse is TemplarCLI else words[4:]

    with pytest.raises(SystemExit) as stop:
        run_command([*options, "--print_config"], parse)

    assert stop.value.code in (0, None), capsys.readouterr().err


def test_commands_of_both_kinds_were_found() -> None:
    assert {words[3] for words in COMMANDS} == {"fit", "aggregate"}


def test_every_option_of_the_table_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    named = re.findall(r"^\| `(--[\w.]+)", GUIDE, flags=re.MULTILINE)
    assert len(named) >= 5

    with pytest.raises(SystemExit):
        run_command(["--help"], AggregateCLI)

    told = capsys.readouterr().out
    for option in named:
        assert f"{option} " in told, option


def test_every_file_that_is_linked_to_exists() -> None:
    assert links(GUIDE)
    for link in links(GUIDE):
        assert (ROOT / "docs" / link).exists(), link


def test_every_message_that_is_shown_is_said_by_the_code() -> None:
    said = messages()
    shown = [line for block in blocks(GUIDE, "") for line in block.splitlines()]
    shown += re.findall(r"`(another process [^`]+)`", GUIDE)
    assert len(shown) >= 2
    for line in shown:
        assert is_said(re.sub(r"\d+", "...", line), said), line
