"""What tests of the exchange share."""

from __future__ import annotations

import pytest

from tests.servers.nodes import empty


@pytest.fixture
def upstream(moto_url: str) -> str:
    empty(moto_url)
    return moto_url
