"""Catching up takes the model, one tensor and one object of memory, however many windows and matrices there are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MIB = 2**20

# Blocks and chunks of the two readers, two of a fetch, a fingerprint's, threads, and what the allocator keeps of all of
# these: it does not grow with the model, and is a quarter of the tensor here, so that a second one shows.
ROOM = 4 * MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is read from /proc")


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "tests.training.memory_run", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout


@pytest.mark.parametrize("by", ["aggregates", "payloads"])
def test_windows_are_caught_up_in_the_memory_of_a_tensor_and_an_object(tmp_path: Path, by: str) -> None:
    run("publish", str(tmp_path), by)

    told = json.loads(run("follow", str(tmp_path), by))

    assert told["tensor"] == 16 * MIB
    assert told["object"] < 2 * MIB
    assert told["grown"] <= told["tensor"] + told["object"] + ROOM


def test_a_checkpoint_is_loaded_in_the_memory_of_a_tensor(tmp_path: Path) -> None:
    run("publish", str(tmp_path), "checkpoint")

    told = json.loads(run("follow", str(tmp_path), "checkpoint"))

    assert told["object"] > 48 * MIB
    assert told["grown"] <= told["tensor"] + ROOM
