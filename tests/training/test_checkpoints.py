"""Checkpoints: whole or absent, newest kept, resumed to the bit, momentum only one's own."""

from __future__ import annotations

import errno
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from templar_pl import LocalNetwork, TemplarStrategy, WindowCheckpoint
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.errors import ConfigError
from templar_pl.training import Connection
from templar_pl.training.checkpoint_io import AtomicCheckpointIO
from templar_pl.units import Window
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes

pytestmark = pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
ADAM = torch.optim.AdamW


def fit(folder: Path, windows: int, *callbacks: Callback, **strategy: Any) -> ConvClassifier:
    """Train in `folder`, going on from the newest checkpoint there."""
    module = ConvClassifier(lambda params: ADAM(params, lr=0.003))
    checkpoint = WindowCheckpoint(str(folder / "checkpoints"), every_n_windows=2, keep=2)
    trainer = quiet_trainer(
        local_strategy(folder / "runs", **strategy), windows, checkpoint, *callbacks, enable_checkpointing=True
    )
    trainer.fit(module, stripes(64, 16), ckpt_path="last")
    return module


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_checkpoints_come_every_so_many_windows_and_at_the_end_and_the_newest_are_kept(tmp_path: Path) -> None:
    fit(tmp_path, 7)

    assert saved(tmp_path) == ["window-000000006.ckpt", "window-000000007.ckpt"]


def test_a_checkpoint_loads_without_running_code(tmp_path: Path) -> None:
    fit(tmp_path, 2)

    state = torch.load(tmp_path / "checkpoints" / "window-000000002.ckpt", weights_only=True)

    assert state["optimizer_states"][0]["templar"]["applied"] == 2
    assert (
        state["epoch"] == state["global_step"] == 2
    )  # at the start of a window, although a hook inside of one saved it
    current = state["loops"]["fit_loop"]["epoch_progress"]["current"]
    assert set(current.values()) == {2}


def equal_states(left: ConvClassifier, right: ConvClassifier) -> bool:
    states = left.state_dict(), right.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_run_in_two_parts_is_equal_to_one_in_one_part(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 6)
    fit(tmp_path / "parts", 3)

    resumed = fit(tmp_path / "parts", 6)

    assert equal_states(whole, resumed)  # the statistics of its batch norm included


def fit_by_chance(folder: Path, windows: int) -> list[torch.Tensor]:
    """Train with dropout, shuffled, two batches a window of the four there are; return the parameters."""
    module = ConvClassifier()
    module.net.insert(3, torch.nn.Dropout(0.5))
    torch.rand(windows)  # what the program drew before is another thing each time
    checkpoint = WindowCheckpoint(str(folder / "checkpoints"), every_n_windows=2)
    strategy = local_strategy(folder / "runs")
    trainer = quiet_trainer(strategy, windows, checkpoint, enable_checkpointing=True, limit_train_batches=2)
    trainer.fit(module, stripes(64, 16, shuffle=True), ckpt_path="last")
    return [p.detach() for p in module.parameters()]


def test_what_is_drawn_by_chance_is_drawn_again_by_a_resumed_run(tmp_path: Path) -> None:
    whole = fit_by_chance(tmp_path / "whole", 6)
    fit_by_chance(tmp_path / "parts", 3)

    resumed = fit_by_chance(tmp_path / "parts", 6)

    assert all(torch.equal(p, q) for p, q in zip(whole, resumed, strict=True))


class StopInTheMiddle(Callback):
    """Ends the process's training with an exception, as SIGTERM does, in the middle of a window."""

    def __init__(self, window: int) -> None:
        self.window = window

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.window and batch_idx == 1:
            raise KeyError("stopped")


def test_a_run_stopped_in_the_middle_of_a_window_trains_that_window_anew(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 6)
    with pytest.raises(KeyError):
        fit(tmp_path / "parts", 6, StopInTheMiddle(3))
    assert saved(tmp_path / "parts") == ["window-000000002.ckpt", "window-000000003.ckpt"]

    resumed = fit(tmp_path / "parts", 6)

    assert equal_states(whole, resumed)


def test_the_momentum_of_another_hotkey_is_not_taken_over(tmp_path: Path) -> None:
    fit(tmp_path, 4)
    network = LocalNetwork(str(tmp_path / "runs"), hotkey="other")
    strategy = TemplarStrategy(network, compression=CompressionConfig(topk=8, momentum_decay=0.9))
    checkpoint = tmp_path / "checkpoints" / "window-000000004.ckpt"
    module = ConvClassifier(lambda params: ADAM(params, lr=0.003))

    class Look(Callback):
        momentum: float = -1.0

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert strategy.session is not None
            state = strategy.session.run.state_dict()["momentum"]["momentum"]
            self.momentum = sum(float(m.abs().sum()) for m in state.values())

    look = Look()
    quiet_trainer(strategy, 5, look).fit(module, stripes(64, 16), ckpt_path=checkpoint, weights_only=True)

    assert look.momentum == 0


SETTINGS = CompressionConfig(topk=8, momentum_decay=0.9)


def other_value(name: str) -> Any:
    """Return another value that a compression setting may have."""
    value = getattr(SETTINGS, name)
    if choices := get_args(get_type_hints(CompressionConfig)[name]):
        return next(choice for choice in choices if choice != value)
    return value / 2 if isinstance(value, float) else value // 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    fit(folder, 2, compression=SETTINGS)
    return folder


@pytest.mark.parametrize("name", [field.name for field in fields(CompressionConfig)])
def test_a_checkpoint_of_another_compression_setting_is_refused(trained: Path, name: str) -> None:
    other = replace(SETTINGS, **{name: other_value(name)})

    with pytest.raises(ConfigError, match="belongs to a run with other settings"):
        fit(trained, 4, compression=other)


def test_a_checkpoint_of_a_run_that_began_with_another_window_is_refused(trained: Path) -> None:
    class LaterNetwork(LocalNetwork):
        def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
            return replace(super().open(digest, window, sends=sends), start_window=Window(1))

    strategy = TemplarStrategy(LaterNetwork(root=str(trained)), compression=SETTINGS)
    checkpoint = max((trained / "checkpoints").glob("window-*.ckpt"))

    with pytest.raises(ConfigError, match="began with window 0, this one began with window 1"):
        quiet_trainer(strategy, 4).fit(ConvClassifier(), stripes(64, 16), ckpt_path=checkpoint, weights_only=True)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target, io = tmp_path / "a.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"x": 1}, target)

    class Full:
        def __reduce__(self) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        io.save_checkpoint({"x": Full()}, target)

    assert torch.load(target, weights_only=True) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("settings", [{"every_n_windows": 0}, {"keep": 0}])
def test_numbers_below_one_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        WindowCheckpoint(**settings)
