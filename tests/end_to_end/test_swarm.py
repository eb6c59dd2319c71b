"""A whole swarm, as a user would start it: it trains, survives a killed node, says what became of it, and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.node import ROOT, TINY

LONG_S = 300.0
QUICK = ("--seconds_per_window=4", "--window.time_window_delta_seconds=1", "--window.gather_timeout_seconds=4")
START_S = 50  # four processes import torch side by side on a loaded machine


class Swarm:
    """One `python -m templar_pl swarm` in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder / "swarm"
        line = [sys.executable, "-m", "templar_pl", "swarm", "--config", str(ROOT / "configs" / "swarm.yaml")]
        tiny = [option for option in TINY if "num_sanity" not in option and "check_val" not in option]
        line += [*tiny, *QUICK, f"--start_s={START_S}", f"--store.root={self.folder}", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._log = folder / "swarm.log"
        with self._log.open("wb") as log, (folder / "out").open("wb") as out:
            self.process = subprocess.Popen(line, cwd=folder, stdout=out, stderr=log, env=environment)
        self._out = folder / "out"

    def text(self) -> str:
        """Return what it has said, and what its nodes have."""
        logs = [path.read_text(errors="replace") for path in self.folder.glob("logs/*.log")]
        return "\n---\n".join([self._log.read_text(errors="replace"), *logs])

    def out(self) -> str:
        """Return what it has printed."""
        return self._out.read_text()

    def pids(self) -> list[int]:
        """Return the processes that it has started so far."""
        return [int(pid) for pid in re.findall(r"runs as process (\d+)", self._log.read_text())]

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait; fail if it ends before, or after a long time."""
        deadline = time.monotonic() + LONG_S
        while not is_so():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.2)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Swarm]]:
    """Return what starts swarms; none of them is left in the end."""
    started: list[Swarm] = []

    def start(*options: str) -> Swarm:
        started.append(Swarm(tmp_path, *options))
        return started[-1]

    yield start
    for swarm in started:
        swarm.process.kill()
        swarm.process.wait(30)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except FileNotFoundError:
        return True


def test_a_whole_network_trains_and_stays_equal_though_a_miner_is_killed(
    start: Callable[..., Swarm],
) -> None:
    swarm = start("--miners=2", "--windows=8", "--kill=1@2", "--json", "--scoring.windows_per_weights=2")

    code = swarm.process.wait(LONG_S)

    assert code == 0, swarm.text()
    verdict = json.loads(swarm.out())
    assert verdict["equal"], swarm.text()
    assert verdict["loss_fell"]
    first, last = verdict["windows"]
    assert last - first == 7
    assert verdict["manifests"] == 8
    nodes = {node["name"]: node for node in verdict["nodes"]}
    assert [nodes[name]["uid"] for name in ("miner-0", "miner-1", "validator", "aggregator")] == [0, 1, 2, 3]
    assert [nodes[name]["restarts"] for name in ("miner-0", "miner-1", "validator", "aggregator")] == [0, 1, 0, 0]
    assert nodes["miner-0"]["counted"] == 8
    assert nodes["miner-1"]["is_there_at_the_end"]
    assert all(nodes[name]["score"] is not None for name in ("miner-0", "miner-1"))
    assert json.loads((swarm.folder / "verdict.json").read_text()) == verdict
    assert all(is_gone(pid) for pid in swarm.pids())


def test_ctrl_c_ends_a_swarm_in_order_and_a_folder_is_used_again_only_when_that_is_asked_for(
    start: Callable[..., Swarm],
) -> None:
    swarm = start("--miners=1", "--no_validator", "--windows=1000")
    swarm.wait_until(lambda: "the first that counts" in swarm.text())
    began = time.monotonic()

    swarm.process.send_signal(signal.SIGINT)
    code = swarm.process.wait(LONG_S)

    assert code == 130, swarm.text()
    assert time.monotonic() - began < 120
    assert "was killed" not in swarm.text()
    assert swarm.text().count("stopped by SIGTERM") == 2  # each node ended in order
    assert len(swarm.pids()) == 2
    assert all(is_gone(pid) for pid in swarm.pids())
    assert start("--miners=1").process.wait(LONG_S) == 2
    assert (swarm.folder / "logs" / "miner-0.log").exists()


def test_kill_9_of_the_swarm_leaves_nobody_and_the_next_one_waits_for_that(start: Callable[..., Swarm]) -> None:
    swarm = start("--miners=1", "--no_validator", "--no_aggregator", "--windows=1000")
    swarm.wait_until(lambda: bool(swarm.pids()))
    pids = swarm.pids()
    swarm.wait_until(lambda: "window 0" in swarm.text())

    swarm.process.kill()
    again = start("--miners=1", "--no_validator", "--no_aggregator", "--windows=1000", "--fresh")
    again.wait_until(lambda: bool(again.pids()))

    assert all(is_gone(pid) for pid in pids)
    pids = again.pids()
    again.process.kill()
    deadline = time.monotonic() + 60
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, swarm.text()
        time.sleep(0.1)


def test_a_folder_that_holds_something_else_is_never_deleted(start: Callable[..., Swarm], tmp_path: Path) -> None:
    (tmp_path / "swarm").mkdir()
    (tmp_path / "swarm" / "thesis.txt").write_text("years of work")

    swarm = start("--miners=1", "--fresh")

    assert swarm.process.wait(LONG_S) == 2
    assert "holds something else than a swarm" in swarm.text()
    assert (tmp_path / "swarm" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("wrong", ["--chain.pace=lockstep", "--miners=0", "--kill=9@1"])
def test_wrong_options_are_refused_before_anything_is_made(start: Callable[..., Swarm], wrong: str) -> None:
    swarm = start(wrong)

    assert swarm.process.wait(LONG_S) == 2
    assert not swarm.folder.exists()
