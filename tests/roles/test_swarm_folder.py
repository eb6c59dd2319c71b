"""A folder belongs to one swarm, until the last of its processes is gone."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from templar_pl.errors import ConfigError
from templar_pl.roles.swarm_folder import MARK, own_folder

ROOT = Path(__file__).parents[2]
LONG_S = 60.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Return what starts a swarm of one program; nothing of it is left in the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(what: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "tests.roles.programs", "swarm", str(tmp_path), what]
        started.append(subprocess.Popen(line, cwd=ROOT))
        deadline = time.monotonic() + LONG_S
        while not (tmp_path / "swarm" / "node.pid").exists():
            assert time.monotonic() < deadline
            assert started[-1].poll() is None
            time.sleep(0.02)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(LONG_S)


def test_a_second_swarm_is_refused_at_once(start: Callable[[str], object], tmp_path: Path) -> None:
    start("obedient")

    with pytest.raises(ConfigError, match="another swarm runs in"), own_folder(tmp_path / "swarm", fresh=True):
        pass

    assert (tmp_path / "swarm" / "node.pid").exists()


def test_the_nodes_of_a_swarm_that_was_killed_are_waited_for_before_anything_is_deleted(
    start: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    swarm = start("slow")
    swarm.send_signal(signal.SIGKILL)
    swarm.wait(LONG_S)

    with own_folder(tmp_path / "swarm", fresh=True):
        pass

    assert (tmp_path / "node.gone").exists()  # its last act, some time after it was asked to end
    assert not (tmp_path / "swarm" / "node.pid").exists()
    assert not (tmp_path / "swarm" / MARK).exists()
    assert "waiting for the nodes of an earlier swarm" in caplog.text


def test_nodes_that_do_not_end_are_told_of_and_nothing_is_deleted(
    start: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    swarm = start("deaf")
    swarm.send_signal(signal.SIGKILL)
    swarm.wait(LONG_S)

    with (
        pytest.raises(ConfigError, match="nodes of an earlier swarm still run"),
        own_folder(tmp_path / "swarm", fresh=True, patience_s=0.5),
    ):
        pass

    assert (tmp_path / "swarm" / "node.pid").exists()


def test_an_earlier_swarm_is_deleted_only_when_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / MARK).touch()

    with pytest.raises(ConfigError, match="delete it by --fresh"), own_folder(tmp_path, fresh=False):
        pass

    assert (tmp_path / MARK).exists()
    with own_folder(tmp_path, fresh=True):
        assert not (tmp_path / MARK).exists()
