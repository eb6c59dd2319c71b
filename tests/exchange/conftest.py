"""What tests of the exchange share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exchange.manifest_worlds import Scene
from tests.servers.nodes import empty


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A world with an aggregator that has written nothing, and without miners."""
    return Scene(tmp_path)


@pytest.fixture
def upstream(moto_url: str) -> str:
    empty(moto_url)
    return moto_url
