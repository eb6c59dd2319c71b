"""Settings under which nodes could not agree are refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from templar_pl import LocalNetwork
from templar_pl.chain import LocalChainConfig
from templar_pl.config import WindowConfig
from templar_pl.errors import ConfigError


def test_a_gather_that_ends_before_uploads_are_over_is_refused_where_nobody_records_windows(tmp_path: Path) -> None:
    chain = LocalChainConfig(pace="wall", seconds_per_block=1.0, record_windows=False)
    window = WindowConfig(time_window_delta_seconds=1.0, gather_timeout_seconds=3.4)

    with pytest.raises(ConfigError, match=r"gather_timeout_seconds must be at least 3\.5"):
        LocalNetwork(str(tmp_path), chain=chain).open(bytes(32), window)

    assert not list(tmp_path.iterdir())


def test_where_windows_are_recorded_a_gather_may_be_short(tmp_path: Path) -> None:
    chain = LocalChainConfig(pace="wall", seconds_per_block=1.0)
    window = WindowConfig(time_window_delta_seconds=1.0, gather_timeout_seconds=3.4)

    LocalNetwork(str(tmp_path), chain=chain).open(bytes(32), window).close()
