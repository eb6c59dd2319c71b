"""Windows that end by the clock: two nodes of one module that is no Llama stay equal, and time bounds the window."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import torch

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.chain import LocalChainConfig
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.training import WindowReport
from tests.training.local import ConvClassifier, quiet_trainer, stripes

WINDOW_S, WINDOWS = 1.0, 6
CHAIN = LocalChainConfig(pace="wall", seconds_per_block=WINDOW_S / 5)
WINDOW = WindowConfig(blocks_per_window=5, time_window_delta_seconds=0.5)


class SlowClassifier(ConvClassifier):
    """A batch takes a tenth of a window, so that a pass over the data does not fit into one."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[WindowReport] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        time.sleep(WINDOW_S / 10)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        strategy = self.trainer.strategy
        assert isinstance(strategy, TemplarStrategy)
        assert strategy.session is not None
        if strategy.session.report is not None:
            self.reports.append(strategy.session.report)


def train(folder: Path, name: str) -> None:
    """Train one node; runs in a process of its own."""
    torch.set_num_threads(1)
    module = SlowClassifier()
    strategy = TemplarStrategy(
        LocalNetwork(str(folder), hotkey=name, chain=CHAIN), compression=CompressionConfig(topk=8), window=WINDOW
    )
    quiet_trainer(strategy, WINDOWS, logger=False).fit(module, stripes(640, 16, shuffle=True))
    trained = [(r.window, r.tally.batches, r.window_total_s, len(r.peers), r.put_failed) for r in module.reports]
    parameters = {n: p.detach() for n, p in module.named_parameters()}
    torch.save({"parameters": parameters, "trained": trained}, folder / f"{name}.pt")


def test_two_nodes_agree_when_windows_end_by_the_clock(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    nodes = [spawn.Process(target=train, args=(tmp_path, name)) for name in ("alice", "bob")]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join(240)
        assert node.exitcode == 0

    alice, bob = (torch.load(tmp_path / f"{name}.pt") for name in ("alice", "bob"))
    for name, parameter in alice["parameters"].items():
        assert torch.equal(parameter, bob["parameters"][name])
    for windows in (alice["trained"], bob["trained"]):
        # 40 batches of data, but no window had time for more than ten or so of them.
        assert all(1 <= batches <= 12 for _, batches, _, _, _ in windows)
        numbers = [window for window, *_ in windows]
        assert numbers == sorted(set(numbers))
