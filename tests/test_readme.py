"""The README keeps its promises: its Python runs, and its commands name what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the code of all blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_around_an_own_module_runs_as_it_stands(tmp_path: Path) -> None:
    (code,) = blocks("python")

    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
    )

    assert result.returncode == 0, result.stderr
    assert re.search(r"loss of the last window: \d", result.stdout)


def test_every_file_that_is_named_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    named = {*links, *re.findall(r"(?:configs|docs)/[\w./]+\.\w+", README)}

    assert len(named) >= 5
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_option_that_is_named_is_accepted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from templar_pl.cli import run_command  # noqa: PLC0415 - torch would slow down collecting this file

    monkeypatch.chdir(ROOT)
    commands = [line for line in "\n".join(blocks("bash")).splitlines() if "templar_pl fit" in line]
    assert len(commands) >= 4
    for line in commands:
        arguments = line.split("templar_pl fit")[1].replace("&", "").split()
        with pytest.raises(SystemExit) as stop:
            run_command(["fit", *arguments, "--print_config"])
        assert stop.value.code in (0, None), capsys.readouterr().err
