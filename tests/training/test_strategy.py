"""The strategy around any module: it learns, keeps Lightning's order, averages exactly, refuses what cannot agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor

from templar_pl import TemplarStrategy
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig
from templar_pl.errors import ConfigError
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_convolutional_classifier_learns(tmp_path: Path, precision: Any) -> None:
    module = ConvClassifier()

    quiet_trainer(local_strategy(tmp_path), 12, precision=precision).fit(module, stripes())

    assert mean(module.losses[-6:]) < 0.5 * mean(module.losses[:6])


def test_its_own_optimizer_settings_are_kept(tmp_path: Path) -> None:
    module = ConvClassifier(lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1))
    trainer = quiet_trainer(local_strategy(tmp_path), 8)

    trainer.fit(module, stripes())

    assert mean(module.losses[-6:]) < 0.7 * mean(module.losses[:6])
    assert trainer.optimizers[0].state  # AdamW's own moments of the update


def test_the_short_name_gives_the_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = quiet_trainer("templar", 1)

    trainer.fit(ConvClassifier(), stripes())

    assert isinstance(trainer.strategy, TemplarStrategy)
    assert (tmp_path / "runs" / "local" / "chain.sqlite").exists()


class GradientSpy(Callback):
    """Keeps the gradient that hooks see before clipping, and what the optimizer will step with."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.before.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})
        self.weights.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})


def test_hooks_see_the_exact_mean_over_the_batches_of_the_window(tmp_path: Path) -> None:
    spy, module = GradientSpy(), ConvClassifier()

    quiet_trainer(local_strategy(tmp_path), 1, spy).fit(module, stripes(64, 16))

    reference = ConvClassifier()
    for images, labels in stripes(64, 16):
        torch.nn.functional.cross_entropy(reference.net(images), labels).backward()
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(spy.before[0][name], parameter.grad / 4)


def test_the_update_comes_after_clipping_and_every_weight_moves_by_the_learning_rate(tmp_path: Path) -> None:
    spy, module = GradientSpy(), ConvClassifier()
    strategy = local_strategy(tmp_path)

    quiet_trainer(strategy, 1, spy, gradient_clip_val=1e-3).fit(module, stripes())

    assert strategy.session is not None
    # The spy saw the mean gradient, not an update of -1, 0 and 1 ...
    seen = torch.cat([g.flatten() for g in spy.before[0].values()])
    assert not seen.sign().equal(seen)
    # ... the momentum got it clipped ...
    report = strategy.session.report
    assert report is not None
    assert report.norms.max_grad <= 1e-3 * 1.001
    # ... and the update, which came after, was not clipped.
    steps = torch.cat([(spy.weights[0][n] - p.detach()).flatten() for n, p in module.named_parameters()])
    assert torch.allclose(steps.abs()[steps != 0], torch.tensor(0.005), rtol=1e-3)
    assert (steps != 0).float().mean() > 0.5


def test_the_step_is_the_update_of_the_codec_for_the_clipped_gradient(tmp_path: Path) -> None:
    spy, module = GradientSpy(), ConvClassifier()
    config = CompressionConfig(topk=8, momentum_decay=0.9)

    quiet_trainer(local_strategy(tmp_path, compression=config), 1, spy).fit(module, stripes())

    shapes = {n: tuple(p.shape) for n, p in module.named_parameters()}
    codec = MomentumCodec(shapes, config, torch.device("cpu"))
    codec.accumulate_(spy.before[0], dict.fromkeys(shapes, 0.005))
    update = codec.update([codec.compress_()])
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.detach(), spy.weights[0][name].add(update[name], alpha=-0.005))


def test_a_limit_of_batches_goes_on_in_the_loader_where_the_last_window_stopped(tmp_path: Path) -> None:
    class Seen(Callback):
        def __init__(self) -> None:
            self.firsts: list[float] = []

        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            self.firsts.append(float(batch[0].sum()))

    seen = Seen()
    quiet_trainer(local_strategy(tmp_path), 4, seen, limit_train_batches=2).fit(ConvClassifier(), stripes(64, 16))

    assert len(seen.firsts) == 8
    assert len(set(seen.firsts[:4])) == 4  # all four batches of the loader ...
    assert seen.firsts[:4] == seen.firsts[4:]  # ... and then from the start


def test_a_limit_that_no_window_reaches_does_not_keep_windows_from_ending(tmp_path: Path) -> None:
    module = ConvClassifier()

    quiet_trainer(local_strategy(tmp_path), 2, limit_train_batches=100).fit(module, stripes(64, 16))

    assert len(module.losses) == 8


def test_a_limit_may_be_a_share_of_the_loader(tmp_path: Path) -> None:
    module = ConvClassifier()

    quiet_trainer(local_strategy(tmp_path), 2, limit_train_batches=0.5).fit(module, stripes(64, 16))

    assert len(module.losses) == 4


def test_a_gradient_that_is_not_finite_does_not_enter_the_momentum(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Diverges(ConvClassifier):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (float("nan") if self.current_epoch == 1 else 1.0)

    module, strategy = Diverges(), local_strategy(tmp_path)

    quiet_trainer(strategy, 3).fit(module, stripes())

    assert all(bool(p.isfinite().all()) for p in module.parameters())
    assert "has diverged" in caplog.text


class NoOptimizerModule(ConvClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class TwoOptimizers(ConvClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[0].parameters(), 0.1), torch.optim.SGD(self.net[4].parameters(), 0.1)]


class Plateau(ConvClassifier):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (ConvClassifier(), {"precision": "bf16-true"}, "precision must be one of 32-true"),
        (ConvClassifier(), {"precision": "16-true"}, "precision must be one of 32-true"),
        (ConvClassifier(), {"accumulate_grad_batches": 4}, "accumulate_grad_batches must be 1, got 4"),
        (NoOptimizerModule(), {}, "automatic_optimization must be True"),
        (TwoOptimizers(), {}, "automatic_optimization must be True"),
        (ConvClassifier(torch.optim.LBFGS), {}, "LBFGS cannot be used"),
        (Plateau(), {}, "ReduceLROnPlateau cannot be used"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, LightningModule) else None,
)
def test_what_would_make_nodes_disagree_is_refused_before_the_first_window(
    tmp_path: Path, module: LightningModule, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        quiet_trainer(local_strategy(tmp_path), 1, **settings).fit(module, stripes())

    assert not list(tmp_path.iterdir())  # nothing was started


def test_a_callback_that_changes_the_accumulation_is_refused(tmp_path: Path) -> None:
    scheduler = GradientAccumulationScheduler({0: 2})

    with pytest.raises(ConfigError, match="a window accumulates all of its batches"):
        quiet_trainer(local_strategy(tmp_path), 1, scheduler).fit(ConvClassifier(), stripes())


def test_evaluation_needs_no_network(tmp_path: Path) -> None:
    class Evaluated(ConvClassifier):
        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            self.log("val/loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    results = quiet_trainer(local_strategy(tmp_path), 1).validate(Evaluated(), stripes(), verbose=False)

    assert results[0]["val/loss"] > 0
    assert not list(tmp_path.iterdir())
