"""What tests of commands share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from templar_pl.units import Window
from tests.roles.audit_runs import START, World
from tests.roles.past_runs import PastRun


@pytest.fixture
def own_folder_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run in an empty folder, and give the log back as it was."""
    monkeypatch.chdir(tmp_path)
    loggers = [logging.getLogger(name) for name in (None, "templar_pl", "lightning.pytorch.utilities.rank_zero")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield tmp_path
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.fixture
def past(tmp_path: Path) -> PastRun:
    """Nine windows are over. Three nodes sent in all of them, but count from the second one on."""
    run = PastRun(tmp_path / "past")
    run.send_all(9)
    return run


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run that an audit passes, for tests that copy it."""
    return World(tmp_path_factory.mktemp("good"), Window(START)).write()


@pytest.fixture
def world(good_run: World, tmp_path: Path) -> World:
    """A copy of such a run, for a test of audits to change; tests of other commands have worlds of their own."""
    return good_run.copied_to(tmp_path / "run")
