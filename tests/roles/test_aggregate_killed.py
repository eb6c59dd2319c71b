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
    "before os.rename kept/run/payload/000000004/1.bin",
    "before os.remove kept/run/payload/000000004/2.bin",
    "after put_file run/checkpoint/000000006/model.safetensors",
    "after put run/checkpoint/000000006/checkpoint.json",
    "before put_file run/aggregate/000000008.bin",
    "before put_once run/manifest/000000011.json",
]

# The first two ends leave a window and the one before it without an aggregate.
LOSSES = [
    "after put_once run/manifest/000000001.json lose 1",
    "after put_once run/manifest/000000002.json lose 2",
    "before put_file run/aggregate/000000004.bin lose 4",
    "after put_file run/aggregate/000000005.bin lose 5",
    "before put_once run/aggregate/000000007.json lose 7",
    "before os.remove kept/run/payload/000000009/0.bin lose 9",
]


def killed(tmp_path: Path, ends: list[str]) -> PastRun:
    """Return a run whose aggregator was killed at these moments."""
    past = PastRun(tmp_path / "past", windows=WINDOWS + 1)
    past.send_all(WINDOWS + 1)
    program = [sys.executable, "-m", "tests.roles.killed_aggregators", str(past.folder), str(WINDOWS), *ends]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    lives = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert lives.returncode == 0, lives.stderr
    return past


def kept(past: PastRun) -> list[str]:
    """Return the payloads that the aggregator has on its disk."""
    return [path.name for path in past.folder.glob("**/aggregate/kept/**/*.bin")]


def test_a_run_goes_on_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    past = killed(tmp_path, POINTS)

    assert run_aggregate(aggregator(past.folder, WINDOWS)) == 0

    assert [len(manifest.payloads) for manifest in manifests(past, WINDOWS)] == [0] + [3] * (WINDOWS - 1)
    joiner = caught_up(past, WINDOWS, tmp_path)
    assert joiner.fingerprint() == followed(past, WINDOWS).fingerprint()
    assert kept(past) == []


def test_payloads_that_vanish_behind_a_manifest_are_on_the_own_disk(tmp_path: Path) -> None:
    past = killed(tmp_path, LOSSES)

    assert run_aggregate(aggregator(past.folder, WINDOWS)) == 0

    assert [len(manifest.payloads) for manifest in manifests(past, WINDOWS)] == [0] + [3] * (WINDOWS - 1)
    assert caught_up(past, WINDOWS, tmp_path).applied == WINDOWS
    assert kept(past) == []
