"""What a user sees while a node trains."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from templar_pl import WindowLog
from templar_pl.chain import LocalChainConfig
from templar_pl.config import WindowConfig
from templar_pl.training import LocalNetwork, TemplarStrategy, WindowProgressBar
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes


def watch(strategy: TemplarStrategy, *, is_terminal: bool) -> str:
    """Train two windows and return what the bar drew."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=160)
    trainer = quiet_trainer(strategy, 2, WindowProgressBar(console), progress_bar=True)
    trainer.fit(ConvClassifier(), stripes())
    return screen.getvalue()


def test_the_bar_shows_windows_loss_peers_and_bytes(tmp_path: Path) -> None:
    drawn = watch(local_strategy(tmp_path), is_terminal=True)

    for part in ("window", "2/2", "loss ", "peers 1/1", "up ", "down 0 B"):
        assert part in drawn


def test_the_bar_shows_the_time_left_where_windows_end_by_the_clock(tmp_path: Path) -> None:
    chain = LocalChainConfig(pace="wall", seconds_per_block=0.5)
    window = WindowConfig(blocks_per_window=2, time_window_delta_seconds=0.1)

    drawn = watch(TemplarStrategy(LocalNetwork(str(tmp_path), chain=chain), window=window), is_terminal=True)

    assert "s left" in drawn


def test_nothing_is_drawn_where_there_is_no_terminal(tmp_path: Path) -> None:
    assert watch(local_strategy(tmp_path), is_terminal=False) == ""


def test_the_log_has_one_line_a_window(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="templar_pl"):
        quiet_trainer(local_strategy(tmp_path), 3, WindowLog()).fit(ConvClassifier(), stripes())

    lines = [record.message for record in caplog.records if record.message.startswith("window ")]
    assert [line.split(":")[0] for line in lines] == ["window 0", "window 1", "window 2"]
    assert all("peers 1/1 | up " in line for line in lines)
