"""Runs `doctor` in this process and reads its report."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from templar_pl.cli_doctor import DoctorCLI, doctor_command
from templar_pl.exchange import credentials as names

ROOT = Path(__file__).parents[2]
MINER, R2, BITTENSOR = (f"--config={ROOT / 'configs' / name}.yaml" for name in ("miner", "r2", "bittensor"))


@dataclass(frozen=True)
class Report:
    """What it printed, row by row, and its exit code."""

    code: int
    states: dict[str, str]
    found: dict[str, str]
    """What was found, with how to mend it."""

    def of_state(self, state: str) -> set[str]:
        return {check for check, found in self.states.items() if found == state}


def examined(capsys: pytest.CaptureFixture[str], *arguments: str, command_line: type[DoctorCLI] = DoctorCLI) -> Report:
    """Run it on configs/miner.yaml; fail if it shows a secret."""
    code = doctor_command([MINER, *arguments, "--json"], command_line)
    printed = capsys.readouterr()
    for secret in (os.environ.get(names.WRITE_SECRET), os.environ.get(names.READ_SECRET)):
        assert not secret or secret not in printed.out + printed.err
    rows = json.loads(printed.out)
    assert all(row["mend"] or row["found"] for row in rows)
    return Report(
        code,
        {row["check"]: row["state"] for row in rows},
        {row["check"]: f"{row['found']} {row['mend']}" for row in rows},
    )


def everything(folder: Path) -> dict[str, str]:
    """Return all paths below a folder, with the hash of each file."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in folder.rglob("*")
    }
