"""Settings of every test: one thread, hypothesis profiles, and the servers some tests talk to."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.servers.moto import moto
from tests.servers.nodes import NODES, WITH_BUCKET
from tests.servers.seaweed import S3Server, seaweed

torch.set_num_threads(1)
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci", deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", deadline=None, max_examples=10_000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def seaweed_server() -> Iterator[S3Server]:
    """Return a real S3 server, started by the first test that asks for it."""
    with seaweed(NODES, WITH_BUCKET) as server:
        yield server


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """Return the address of a quick S3 server, started by the first test that asks for it."""
    with moto(WITH_BUCKET) as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def sdk_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the bittensor SDK caches out of the home folder."""
    folder = tmp_path_factory.mktemp("bittensor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime"))
        patch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(folder / "symbols.json"))
        yield


@pytest.fixture
def own_folder_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, and give the log back as it was."""
    monkeypatch.chdir(tmp_path)
    loggers = [logging.getLogger(name) for name in (None, "templar_pl", "lightning.pytorch.utilities.rank_zero")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers
