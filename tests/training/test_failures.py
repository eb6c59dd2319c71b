"""What goes wrong in a run, and what happens then."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from templar_pl import LocalNetwork, TemplarStrategy, WindowCheckpoint
from templar_pl.chain import LocalChainConfig
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.errors import ChainError, ConfigError, StoreError
from templar_pl.exchange import Bucket, BucketReader, Buckets
from templar_pl.training import Connection
from templar_pl.training.heartbeat import BEAT_S, Heartbeat
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes

COMPRESSION = CompressionConfig(topk=8, momentum_decay=0.9)
WINDOW = WindowConfig(gather_timeout_seconds=0.2)


class ReadOnlyAtTimes:
    """A bucket that cannot be written for some windows."""

    def __init__(self, bucket: Bucket, windows: Iterable[int]) -> None:
        self._bucket, self._windows = bucket, [f"{window:09d}" for window in windows]
        self.head, self.get, self.list, self.delete = bucket.head, bucket.get, bucket.list, bucket.delete

    def put(self, key: str, data: bytes) -> None:
        self._bucket.put(key, data)

    def put_once(self, key: str, data: bytes) -> bool:
        if any(window in key for window in self._windows):
            raise StoreError("the disk is full")
        return self._bucket.put_once(key, data)


class FullDisks:
    """The buckets of a node whose disk is full for some windows."""

    def __init__(self, buckets: Buckets, windows: Iterable[int]) -> None:
        self._buckets, self._own = buckets, ReadOnlyAtTimes(buckets.own(), windows)

    def own(self) -> Bucket:
        return self._own

    def of(self, address: str) -> BucketReader:
        return self._buckets.of(address)


class FailingNetwork(LocalNetwork):
    """A local network on which this node cannot put its payload in some windows."""

    def __init__(self, windows: Iterable[int], **network: Any) -> None:
        super().__init__(**network)
        self._windows = windows

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        connection = super().open(digest, window, sends=sends)
        return replace(connection, buckets=FullDisks(connection.buckets, self._windows))


def test_a_lone_node_that_cannot_put_goes_on_and_sends_later_what_it_kept(tmp_path: Path) -> None:
    failing = TemplarStrategy(FailingNetwork([1, 2], root=str(tmp_path / "a")), compression=COMPRESSION, window=WINDOW)
    module, steps = ConvClassifier(), []

    class Look(ConvClassifier):
        def on_train_epoch_end(self) -> None:
            assert failing.session is not None
            report = failing.session.report
            assert report is not None
            steps.append((len(report.peers), report.put_failed != "", report.norms.mean_momentum))

    module = Look()
    quiet_trainer(failing, 5).fit(module, stripes())

    assert [peers for peers, _, _ in steps] == [1, 0, 0, 1, 1]
    assert [failed for _, failed, _ in steps] == [False, True, True, False, False]
    assert steps[1][2] > steps[0][2]  # nothing of the gradient was lost


def test_a_node_that_cannot_put_does_not_hold_up_the_others(tmp_path: Path) -> None:
    chain = LocalChainConfig(min_miners=2)
    networks = {
        "bob": LocalNetwork(str(tmp_path), hotkey="bob", chain=chain),
        "alice": FailingNetwork([1], root=str(tmp_path), hotkey="alice", chain=chain),
    }
    strategies = {n: TemplarStrategy(net, compression=COMPRESSION, window=WINDOW) for n, net in networks.items()}
    modules = {name: ConvClassifier() for name in networks}
    other = threading.Thread(
        target=lambda: quiet_trainer(strategies["bob"], 4).fit(modules["bob"], stripes()), daemon=True
    )
    other.start()
    quiet_trainer(strategies["alice"], 4).fit(modules["alice"], stripes(80, 16))
    other.join(60)

    assert not other.is_alive()
    parameters = [dict(module.named_parameters()) for module in modules.values()]
    assert all(torch.equal(parameters[0][name], parameters[1][name]) for name in parameters[0])


def fit(folder: Path, windows: int) -> None:
    checkpoint = WindowCheckpoint(str(folder / "checkpoints"), every_n_windows=2)
    trainer = quiet_trainer(local_strategy(folder / "runs"), windows, checkpoint, enable_checkpointing=True)
    newest = sorted(folder.glob("checkpoints/*.ckpt"))
    trainer.fit(ConvClassifier(), stripes(), ckpt_path=newest[-1] if newest else None)


def test_a_checkpoint_that_is_ahead_of_its_chain_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, 4)
    for path in tmp_path.glob("runs/local/chain.sqlite*"):
        path.unlink()

    with pytest.raises(ConfigError, match="4 windows are applied, but the chain is at window 0"):
        fit(tmp_path, 8)


def test_payloads_of_a_deleted_chain_do_not_pass_for_those_of_a_new_one(tmp_path: Path) -> None:
    quiet_trainer(local_strategy(tmp_path), 2).fit(ConvClassifier(), stripes())
    for path in tmp_path.glob("local/chain.sqlite*"):
        path.unlink()
    again = local_strategy(tmp_path)

    quiet_trainer(again, 2).fit(ConvClassifier(), stripes(64, 16))

    assert len(list(tmp_path.glob("local/store-*"))) == 2


def test_a_trainer_that_fits_again_goes_on_in_the_run(tmp_path: Path) -> None:
    whole = ConvClassifier()
    quiet_trainer(local_strategy(tmp_path / "whole"), 4).fit(whole, stripes())
    parts, trainer = ConvClassifier(), quiet_trainer(local_strategy(tmp_path / "parts"), 2)
    trainer.fit(parts, stripes())
    trainer.fit_loop.max_epochs = 4

    trainer.fit(parts, stripes())

    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), parts.parameters(), strict=True))
    assert trainer.accumulate_grad_batches == 1


def test_no_training_batches_means_no_training(tmp_path: Path) -> None:
    module, trainer = ConvClassifier(), quiet_trainer(local_strategy(tmp_path), 2, limit_train_batches=0)

    trainer.fit(module, stripes())

    assert not module.losses
    assert trainer.limit_train_batches == 0


def test_several_training_loaders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there must be one training loader"):
        quiet_trainer(local_strategy(tmp_path), 1).fit(ConvClassifier(), [stripes(), stripes()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"reload_dataloaders_every_n_epochs": 1}, "must be 0"), ({"devices": 2}, "devices must be 1")],
)
def test_trainers_that_would_open_the_network_twice_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    trainer = quiet_trainer(local_strategy(tmp_path), 1, **settings)

    with pytest.raises(ConfigError, match=message):
        trainer.fit(ConvClassifier(), stripes())


def test_counting_the_steps_of_a_run_in_advance_is_refused_with_what_to_use_instead(tmp_path: Path) -> None:
    class Counts(ConvClassifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            assert self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    with pytest.raises(ConfigError, match=r"trainer\.max_epochs is the number of steps"):
        quiet_trainer(local_strategy(tmp_path), 1).fit(Counts(), stripes())


def test_a_second_process_with_the_same_hotkey_is_refused(tmp_path: Path) -> None:
    first = LocalNetwork(str(tmp_path)).open(bytes(32), WindowConfig())
    try:
        with pytest.raises(ConfigError, match="another process runs as hotkey 'miner'"):
            LocalNetwork(str(tmp_path)).open(bytes(32), WindowConfig())
    finally:
        first.close()
    LocalNetwork(str(tmp_path)).open(bytes(32), WindowConfig()).close()


def test_uploads_that_may_last_longer_than_a_window_are_refused(tmp_path: Path) -> None:
    chain = LocalChainConfig(pace="wall", seconds_per_block=0.1)

    with pytest.raises(ConfigError, match=r"must be below the length of a window, 0\.7 s, got 10"):
        LocalNetwork(str(tmp_path), chain=chain).open(bytes(32), WindowConfig())


def test_nodes_of_other_dtypes_are_not_of_one_run(tmp_path: Path) -> None:
    quiet_trainer(local_strategy(tmp_path), 1).fit(ConvClassifier(), stripes())

    with pytest.raises(ConfigError, match="run"):
        quiet_trainer(local_strategy(tmp_path), 2).fit(ConvClassifier().double(), stripes())


def test_a_heartbeat_goes_on_without_batches_until_nothing_has_moved_for_too_long() -> None:
    beats, beat = [], threading.Event()

    def touch() -> None:
        beats.append(1)
        beat.set()
        raise ChainError("busy")  # one failure does not end it

    heart = Heartbeat(touch, patience_s=3600)
    heart.start()
    for _ in range(2):
        assert beat.wait(10 * BEAT_S)
        beat.clear()
    heart.stop(5)
    tired = Heartbeat(touch, patience_s=-1)
    tired.start()

    assert len(beats) == 2
    assert not beat.wait(2.5 * BEAT_S)
    tired.stop(5)
