"""`score` on the command line: what it takes, and what it refuses before it judges anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from templar_pl.cli_score import score_command
from templar_pl.command_line import EXIT_SETTINGS
from tests.end_to_end.node import TINY

pytestmark = pytest.mark.usefixtures("own_folder_and_log")

CONFIGS = Path(__file__).parents[1] / "configs"
CHOSEN = ["--config", str(CONFIGS / "validator.yaml"), *TINY]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows=0"], "windows must be at least 1, got 0"),
        (["--score.keep_checkpoints=-1"], "keep_checkpoints must be a whole number in 0..1000, got -1"),
        (["--chain.record_windows=true"], "this chain closes windows by agreement: give all nodes --chain.pace wall"),
        (["--data.page_set.folder=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_way_to_mend_it(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [*CHOSEN, "--window.gather_timeout_seconds=20", f"--store.root={tmp_path}", *arguments]

    assert _exit_code(chosen) == EXIT_SETTINGS

    assert message in capsys.readouterr().err


def _exit_code(arguments: list[str]) -> int:
    try:
        return score_command(arguments)
    except SystemExit as stop:  # the parser refuses by itself
        return int(stop.code or 0)


def test_every_option_of_a_validator_is_documented_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        score_command(["--help"])

    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--windows" in text
    assert "--score.keep_checkpoints" in text
    assert "Newest checkpoints of the network that stay in its bucket" in " ".join(text.split())
