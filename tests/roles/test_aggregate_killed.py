"""kill -9 of an aggregator, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from templar_pl.roles.aggregate import run_aggregate
from tests.end_to_end.node import ROOT
from tests.roles.past_runs import PastRun, aggregator
from tests.roles.published import caught_up, followed, manifests

WINDOWS = 12
# Manifests run ahead of aggregates by a window or two, and a checkpoint comes each third window: each point lies beyond
# what the life before may have reached.
POINTS = [
    "before put_file run/checkpoint/000000000/model.safetensors",
    "after put_file run/checkpoint/000000000/model.safetensors",
    "after put run/checkpoint/000000000/checkpoint.json",
    "after put run/checkpoint/latest.json",
    "before put_once run/run.json",
    "after put_once run/run.json",
    "before put_once run/manifest/000000001.json",
    "after put_once run/manifest/000000001.json",
    "after put_once run/manifest/000000002.json",
    "after put_file run/aggregate/000000002.bin",
    "after put_once run/aggregate/000000002.json",
    "after put_file run/checkpoint/000000006/model.safetensors",
    "after put run/checkpoint/000000006/checkpoint.json",
    "before put_file run/aggregate/000000008.bin",
    "before put_once run/manifest/000000011.json",
]


def test_a_run_goes_on_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    past = PastRun(tmp_path / "past", windows=WINDOWS + 1)
    past.send_all(WINDOWS + 1)
    program = [sys.executable, "-m", "tests.roles.killed_aggregators", str(past.folder), str(WINDOWS), *POINTS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    lives = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert lives.returncode == 0, lives.stderr

    assert run_aggregate(aggregator(past.folder, WINDOWS)) == 0

    assert [len(manifest.payloads) for manifest in manifests(past, WINDOWS)] == [0] + [3] * (WINDOWS - 1)
    joiner = caught_up(past, WINDOWS, tmp_path)
    assert joiner.fingerprint() == followed(past, WINDOWS).fingerprint()
