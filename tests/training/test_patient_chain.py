"""A chain that does not answer is asked again, whoever asks, but not about what nobody can know yet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.chain import LocalChain, LocalChainConfig, load_or_create_hotkey
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.errors import ChainError, FutureError
from templar_pl.node_config import FollowConfig
from templar_pl.training import Connection, RecoveryConfig
from templar_pl.training.patient_chain import PatientChain
from templar_pl.training.phases import PhaseClock
from templar_pl.units import Window
from tests.training.local import ConvClassifier, quiet_trainer, stripes

CHAIN = LocalChainConfig(pace="wall", seconds_per_block=0.5, record_windows=False)
WINDOW = WindowConfig(blocks_per_window=6, time_window_delta_seconds=1.0, gather_timeout_seconds=4.0)


class Stumbling:
    """A chain that does not tell the time of a block at first, whenever that is asked for."""

    def __init__(self, chain: Any, failures: int) -> None:
        self._chain, self._failures = chain, failures
        self.asked: dict[Window, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def upload_interval(self, window: Window) -> tuple[float, float]:
        self.asked[window] = self.asked.get(window, 0) + 1
        if self.asked[window] <= self._failures:
            raise ChainError("the chain does not tell the time of a block")
        return self._chain.upload_interval(window)


class StumblingNetwork(LocalNetwork):
    """A network on such a chain."""

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        connection = super().open(digest, window, sends=sends)
        return replace(connection, chain=Stumbling(connection.chain, 2))  # type: ignore[arg-type]  # it is one


@pytest.mark.parametrize("aggregator", [None, "writer"])
def test_a_chain_that_does_not_tell_when_uploads_end_ends_no_fit(tmp_path: Path, aggregator: str | None) -> None:
    load_or_create_hotkey(tmp_path / "hotkeys", "writer")
    follow = FollowConfig(aggregator=aggregator, wait_s=0.5)
    network = StumblingNetwork(str(tmp_path), hotkey="miner", chain=CHAIN, follow=follow)
    strategy = TemplarStrategy(
        network, compression=CompressionConfig(topk=8), window=WINDOW, recovery=RecoveryConfig(patience_s=60.0)
    )
    trainer = quiet_trainer(strategy, 2)

    trainer.fit(ConvClassifier(), stripes())

    assert trainer.current_epoch == 2


def patient(chain: Any, patience_s: float, check_interrupt: Callable[[], None] = lambda: None) -> PatientChain:
    return PatientChain(chain, PhaseClock(), patience_s=patience_s, check_interrupt=check_interrupt)


def test_an_answer_that_comes_late_is_returned_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    signer = load_or_create_hotkey(tmp_path, "miner")
    chain = LocalChain(tmp_path / "chain.sqlite", signer, CHAIN, run="ab")
    chain.open()
    stumbling = Stumbling(chain, 2)

    with caplog.at_level(logging.WARNING):
        interval = patient(stumbling, 60.0).upload_interval(Window(1))

    assert interval == chain.upload_interval(Window(1))
    assert stumbling.asked == {Window(1): 3}
    assert caplog.text.count("the chain does not answer, trying again: the chain does not tell the time") == 1
    chain.close()


def test_a_chain_that_goes_on_failing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match="does not tell"):
        patient(Stumbling(None, 10**9), 0.1).upload_interval(Window(1))


def test_what_lies_in_the_future_is_not_waited_for(tmp_path: Path) -> None:
    signer = load_or_create_hotkey(tmp_path, "miner")
    chain = LocalChain(tmp_path / "chain.sqlite", signer, LocalChainConfig(), run="ab")
    chain.open()

    def fail() -> None:
        raise AssertionError("it is waited for")

    with pytest.raises(FutureError, match="window 7 is not open yet; the open one is 0"):
        patient(chain, 600.0, fail).upload_interval(Window(7))
    chain.close()
