"""A miner that was told to publishes checkpoints while it trains, and a newcomer starts from them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.node_config import FollowConfig
from templar_pl.training import RecoveryConfig
from tests.training.local import ConvClassifier, quiet_trainer, stripes

WINDOWS, EVERY = 5, 2


class Other(ConvClassifier):
    """Drew other numbers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.25)


def fit(folder: Path, module: ConvClassifier, hotkey: str, *, publishes: bool, follow: FollowConfig) -> None:
    strategy = TemplarStrategy(
        LocalNetwork(str(folder), hotkey=hotkey, follow=follow),
        compression=CompressionConfig(topk=8, momentum_decay=0.9),
        window=WindowConfig(checkpoint_frequency=EVERY),
        recovery=RecoveryConfig(publish_checkpoints=publishes),
    )
    quiet_trainer(strategy, WINDOWS).fit(module, stripes())


@pytest.mark.parametrize("publishes", [True, False])
def test_a_newcomer_starts_from_what_a_miner_published_while_it_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, publishes: bool
) -> None:
    caplog.set_level(logging.INFO)
    first, second = ConvClassifier(), Other()

    fit(tmp_path, first, "first", publishes=publishes, follow=FollowConfig())
    fit(tmp_path, second, "second", publishes=False, follow=FollowConfig(validator="first"))

    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs) == publishes
    assert ("loaded the checkpoint of peer 0" in caplog.text) == publishes
    assert bool(list(tmp_path.glob("local/store-*/*/*/checkpoint/latest.json"))) == publishes
    assert not [path for path in tmp_path.rglob("network-checkpoints/**/*") if path.is_file()]
