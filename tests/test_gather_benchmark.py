"""The benchmark of gathers runs, and its report says what its description promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gather.py"
ROW = {"wall_s", "cpu_s", "peak_bytes", "over_gather"}


def test_a_quick_run_reports_every_side_that_is_installed_and_every_fault(tmp_path: Path) -> None:
    report_file = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(report_file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr

    report = json.loads(report_file.read_text())
    assert {"gather", "boto3, loop", "boto3, threads"} <= set(report["libraries"])
    for side in ("s3fs", "obstore"):
        assert (side in report["libraries"]) != (f"{side} is left out" in ended.stdout)
    for job in ("bare", "checked"):
        rows = {side: set(report["jobs"][job][side]) for side in report["libraries"]}
        assert rows == dict.fromkeys(report["libraries"], ROW)
        others = [report["jobs"][job][side]["wall_s"] for side in rows if side != "gather"]
        ours = report["jobs"][job]["gather"]["wall_s"]
        assert report["jobs"][job]["gather_over_best"] == pytest.approx(ours / min(others))
    faults = report["faults"]
    assert (faults["none"]["skipped"], faults["none"]["reason"]) == (0, None)
    assert faults["no object"]["skipped"] == 1
    assert "uploads ended" in faults["no object"]["reason"]
    # A peer that never answers lasts to the deadline of 2 s.
    for fault in ("refused", "black hole"):
        assert faults[fault]["wall_s"] > 1.9
        assert faults[fault]["last_s"] < faults[fault]["wall_s"]
