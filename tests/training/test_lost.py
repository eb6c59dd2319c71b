"""A node whose parameters are not those the manifest names does not go on with them, nor save them."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch

from templar_pl import LocalNetwork, TemplarStrategy, WindowCheckpoint
from templar_pl.chain import LocalChainConfig
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.errors import OutOfSyncError
from templar_pl.node_config import FollowConfig
from templar_pl.units import Window
from tests.end_to_end.small_aggregator import SmallAggregator
from tests.training.local import ConvClassifier, quiet_trainer, stripes

CHAIN = LocalChainConfig(pace="wall", seconds_per_block=0.5, record_windows=False)
WINDOW = WindowConfig(blocks_per_window=6, time_window_delta_seconds=1.0, gather_timeout_seconds=4.0)
COMPRESSION = CompressionConfig(topk=8, momentum_decay=0.9)


def test_a_node_with_other_parameters_stops_where_nobody_has_those_of_the_run(tmp_path: Path) -> None:
    aggregator = SmallAggregator(tmp_path, ConvClassifier(), COMPRESSION, WINDOW, chain=CHAIN, lr=0.005)
    follow = FollowConfig(aggregator="writer", wait_s=20.0)
    strategy = TemplarStrategy(
        LocalNetwork(str(tmp_path), hotkey="miner", chain=CHAIN, follow=follow), compression=COMPRESSION, window=WINDOW
    )
    astray = ConvClassifier()
    with torch.no_grad():
        next(astray.parameters()).view(-1)[0] += 1.0
    saver = WindowCheckpoint(str(tmp_path / "saved"), every_n_windows=1)

    def write() -> None:
        for number in range(4):
            aggregator.publish(aggregator.follow(Window(number)))

    with closing(aggregator):
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        with pytest.raises(OutOfSyncError, match="the manifest is of parameters"):
            quiet_trainer(strategy, 4, saver, enable_checkpointing=True).fit(astray, stripes())
        writer.join(60)

    assert not list((tmp_path / "saved").glob("*"))
