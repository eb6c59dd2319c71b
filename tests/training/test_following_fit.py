"""A fit that follows a run which is ahead of it: parameters of the others, momentum of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.chain import LocalChainConfig
from templar_pl.config import PeersConfig, WindowConfig
from templar_pl.errors import OutOfSyncError
from templar_pl.exchange import LocalBuckets
from templar_pl.protocol import Peer
from templar_pl.training import Connection, RecoveryConfig, WindowCheckpoint
from templar_pl.training.session import Session
from templar_pl.units import Uid, Window
from tests.training.local import quiet_trainer
from tests.training.past_run import CONFIG, RUN, START, Clock, Optimize, PastRun, Small, adamw, decoupled

FAST = WindowConfig(time_window_delta_seconds=1.0, gather_timeout_seconds=4.0)


class PastChain(Clock):
    """A chain on which a run lies in the past, all but the window that is open."""

    def __init__(self, run: PastRun) -> None:
        super().__init__(run.opened)
        self._run = run

    def peers(self, needed: Collection[Uid] = ()) -> dict[Uid, Peer]:
        run = self._run
        known = [
            run.peer(run.aggregator, 0),
            run.peer(run.validator, 1),
            *(run.peer(m.signer, m.uid) for m in run.miners),
        ]
        return {peer.uid: peer for peer in known}

    def candidates(self, window: Window) -> Mapping[Uid, Peer]:
        return {uid: peer for uid, peer in self.peers().items() if uid > 1}

    def close(self) -> None:
        """Let go of nothing."""


class PastNetwork(LocalNetwork):
    """The way to a run of the past."""

    def __init__(self, run: PastRun, **changes: Any) -> None:
        super().__init__(str(run.folder / "node"), chain=LocalChainConfig(pace="wall", record_windows=False))
        self.past, self._changes = run, changes

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        real, run = super().open(digest, window, sends=sends), self.past
        real.chain.close()
        parts: dict[str, Any] = {
            "run": RUN,
            "chain": PastChain(run),
            "buckets": LocalBuckets(run.folder / "store", real.hotkey),
            "start_window": START,
            "aggregator": run.aggregator.hotkey,
            "validator": run.validator.hotkey,
        }
        return replace(real, **(parts | self._changes))


class Trained(Small):
    """A model of the run that can be trained; it never is, where everything lies in the past."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.stack([value.square().sum() for value in self.values.values()]).sum()


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=2)


class Spy(Callback):
    """Looks at the node when all is caught up."""

    def __init__(self) -> None:
        self.learning_rate, self.momentum = 0.0, {}
        self.place, self.counted = 0, 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        session = session_of(trainer)
        self.learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        momentum = session.run.momentum.state_dict()
        self.place, self.momentum = momentum["momentum_at"], momentum["momentum"]["momentum"]
        self.counted = session.run.resynchronisations


def session_of(trainer: Trainer) -> Session:
    assert isinstance(trainer.strategy, TemplarStrategy)
    assert trainer.strategy.session is not None
    return trainer.strategy.session


def fit(
    run: PastRun,
    windows: int,
    *,
    optimize: Optimize = decoupled,
    seed: int = 0,
    ckpt: Path | None = None,
    network: LocalNetwork | None = None,
) -> tuple[Trained, Trainer, Spy]:
    """Catch up so many windows, and save a checkpoint at the end."""
    module, spy = Trained(optimize, seed), Spy()
    strategy = TemplarStrategy(
        network or PastNetwork(run),
        compression=CONFIG,
        window=FAST,
        peers=PeersConfig(),
        settings_digest=b"settings",
        recovery=RecoveryConfig(patience_s=0.5),
    )
    saver = WindowCheckpoint(str(run.folder / "saved"), 1000)
    trainer = quiet_trainer(strategy, windows, spy, saver, enable_checkpointing=True)
    trainer.fit(module, loader(), ckpt_path=ckpt, weights_only=True)
    return module, trainer, spy


def assert_is_live(module: Trained, trainer: Trainer, spy: Spy, run: PastRun) -> None:
    assert trainer.current_epoch == trainer.global_step == run.live.applied
    assert spy.learning_rate == run.live.learning_rate
    assert all(torch.equal(p, run.live.parameters[n]) for n, p in module.named_parameters())


def saved(run: PastRun, applied: int, *, change: float = 0.0) -> Path:
    """Return a checkpoint of this node's own, with momentum of its own; perhaps of other parameters."""
    fit(run, applied, network=PastNetwork(run, validator=None))
    path = run.folder / "saved" / f"window-{applied:09d}.ckpt"
    content = torch.load(path, weights_only=True)
    momentum = content["optimizer_states"][0]["templar"]
    momentum["momentum_at"] = applied
    for tensor in momentum["momentum"]["momentum"].values():
        tensor.fill_(0.5)
    content["state_dict"]["values.vector"] += change
    torch.save(content, path)
    return path


@pytest.mark.parametrize("optimize", [decoupled, adamw])
def test_a_newcomer_gets_the_parameters_schedule_and_step_of_the_others(tmp_path: Path, optimize: Optimize) -> None:
    run = PastRun(tmp_path, optimize, (0, 4)).go_on(9)

    module, trainer, spy = fit(run, 9, optimize=optimize, seed=7)

    assert_is_live(module, trainer, spy, run)
    assert spy.counted == 0
    assert not any(bool(tensor.any()) for tensor in spy.momentum.values())


class EarlyChain(PastChain):
    """A chain of before the run, whose first parameters are published while it is waited for."""

    def __init__(self, run: PastRun) -> None:
        super().__init__(run)
        self._asked = 0

    def window(self) -> Window:
        self._asked += 1
        if self._asked == 2:
            self._run.publish_checkpoint()
            self._run.go_on(3)
        return Window(START - 1) if self._asked <= 2 else self._run.opened


def test_a_node_that_waited_for_the_run_begins_with_the_parameters_that_were_published_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = PastRun(tmp_path)

    module, trainer, spy = fit(run, 3, seed=7, network=PastNetwork(run, chain=EarlyChain(run)))

    assert_is_live(module, trainer, spy, run)
    assert "starting anew from a checkpoint" not in caplog.text


def test_its_own_momentum_is_kept_where_its_own_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    run = PastRun(tmp_path).go_on(6)
    path = saved(run, 6)
    run.go_on(2)

    module, trainer, spy = fit(run, 8, ckpt=path)

    assert_is_live(module, trainer, spy, run)
    assert spy.place == 8
    assert all(bool((tensor == 0.5).all()) for tensor in spy.momentum.values())


def test_a_node_that_jumps_to_a_checkpoint_of_the_network_starts_its_momentum_at_zero(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(8,)).go_on(3)
    path = saved(run, 3)
    run.go_on(6)

    module, trainer, spy = fit(run, 9, ckpt=path)

    assert_is_live(module, trainer, spy, run)
    assert not any(bool(tensor.any()) for tensor in spy.momentum.values())


def test_a_node_whose_parameters_went_astray_is_brought_back_and_counted(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(4,)).go_on(6)
    path = saved(run, 6, change=1e-3)
    run.go_on(2)

    module, trainer, spy = fit(run, 8, ckpt=path)

    assert_is_live(module, trainer, spy, run)
    assert spy.counted == 1


def test_no_checkpoint_beyond_the_last_window_asked_for_is_taken(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(4, 8)).go_on(9)

    module, trainer, _ = fit(run, 6, seed=7)

    assert trainer.current_epoch == 6
    half = PastRun(tmp_path / "again").go_on(6)
    assert all(torch.equal(p, half.live.parameters[n]) for n, p in module.named_parameters())


def test_a_window_that_nothing_is_left_of_ends_the_fit_and_saves_what_is_right(tmp_path: Path) -> None:
    run = PastRun(tmp_path, checkpoints=(1,)).go_on(6)
    run.delete_aggregate(4)
    run.delete_payload(4)

    with pytest.raises(OutOfSyncError, match=f"window {START + 4} cannot be applied"):
        fit(run, 6)

    content = torch.load(tmp_path / "saved" / f"window-{4:09d}.ckpt", weights_only=True)
    wanted = PastRun(tmp_path / "again").go_on(4).live.parameters
    assert all(torch.equal(content["state_dict"][n], p) for n, p in wanted.items())
