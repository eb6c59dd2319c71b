"""Lightning strategies that exchange a window's momentum with peers between gradient clipping and the optimizer step.

`ExchangeMixin` is what Templar adds to any of Lightning's engines; list it before the engine. A window is an epoch is
one optimizer step.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from templar_pl.compression import MomentumCodec, check_exact_arithmetic
from templar_pl.config import CompressionConfig, PeersConfig, WindowConfig
from templar_pl.errors import ConfigError
from templar_pl.exchange.round_trip import Limits
from templar_pl.training.checkpoint_io import AtomicCheckpointIO, restart_at_window
from templar_pl.training.network import LocalNetwork, Network
from templar_pl.training.recovery import RecoveryConfig
from templar_pl.training.refusals import refuse_unsuitable
from templar_pl.training.session import Session
from templar_pl.training.window_loader import NO_PAGES, WindowLoader
from templar_pl.training.window_run import WindowRun
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

WHOLE_WINDOW = 2**30
"""Batches that Lightning is told to accumulate: more than any window has, and a power of two, so that
loss / WHOLE_WINDOW * WHOLE_WINDOW is exact."""


class _ExchangeBeforeStep(LightningOptimizer):
    """The optimizer the precision plugin steps: closure (with hooks and clipping), then exchange, then step."""

    def __init__(self, optimizer: Optimizer, strategy: ExchangeMixin) -> None:
        super().__init__(optimizer)
        self._exchanging = strategy

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Run the closure, make the gradients the window's update, and step with them."""
        output = closure() if closure is not None else None
        self._exchanging.on_before_optimizer_step(self._optimizer, lambda: self._optimizer.step(**kwargs))
        return output


class ExchangeMixin(Strategy):
    """What Templar adds to an engine of Lightning: windows, exchange, agreement.

    Any `LightningModule` with one optimizer trains under it, and any `DataLoader`. Every node of a run must be given
    the same compression, window and peers settings; the digest of these and of the parameters' shapes is checked.
    """

    def __init__(
        self,
        network: Network | None = None,
        *,
        compression: CompressionConfig | None = None,
        window: WindowConfig | None = None,
        peers: PeersConfig | None = None,
        settings_digest: bytes = b"",
        recovery: RecoveryConfig | None = None,
        **engine: Any,
    ) -> None:
        """Store the settings; nothing is connected before training starts.

        Args:
            network: how peers are reached; the network of this machine, in folder `runs`, if None.
            compression: how momentum becomes payload and update.
            window: length of a window and its exchange.
            peers: whose payloads are gathered.
            settings_digest: digest of whatever else the nodes of the run must share.
            recovery: what this node does when it has to wait or fell behind.
            engine: arguments of the Lightning strategy that runs the model.
        """
        engine.setdefault("checkpoint_io", AtomicCheckpointIO())
        super().__init__(**engine)
        self.network: Network = network or LocalNetwork()
        self.compression = compression or CompressionConfig()
        self.window_config = window or WindowConfig()
        self.peers = peers or PeersConfig()
        self.session: Session | None = None
        self.recovery = recovery or RecoveryConfig()
        self._settings_digest = settings_digest
        self._trainer: Trainer | None = None
        self._loader: WindowLoader | None = None
        self._names: dict[Tensor, str] = {}
        self._limit: int | float = 1.0

    # What Lightning calls, in the order of a fit.

    def setup(self, trainer: Trainer) -> None:
        """Set up the engine; for fitting also check the trainer, prepare the momentum and join the network."""
        super().setup(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        refuse_unsuitable(trainer)
        trainer.accumulate_grad_batches = WHOLE_WINDOW
        # Lightning would take a limit for the length of the loader, and never step if a window has fewer batches.
        self._limit, trainer.limit_train_batches = trainer.limit_train_batches, 1.0
        self._trainer = trainer
        self.session = self._new_session()

    def process_dataloader(self, dataloader: object) -> object:
        """Make the training loader windowed; loaders of other stages stay as they are."""
        loader = super().process_dataloader(dataloader)
        trainer = self._trainer
        if trainer is None or self.session is None or not trainer.training:
            return loader
        self._open(self.session)
        self._loader = WindowLoader(
            loader,  # type: ignore[arg-type]  # Lightning types loaders as object
            self.session.run.phases,
            begin=self._begin_window,
            has_time=self.session.has_time,
            max_batches=count_batches(loader, self._limit),
        )
        return self._loader

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Undo Lightning's division of the loss by `accumulate_grad_batches`, and count the batch."""
        output = super().training_step(*args, **kwargs)
        if output is None or self.session is None:
            return output
        fields = output if isinstance(output, Mapping) else {"loss": output}
        self.session.count_batch(fields["loss"], fields.get("tokens", 0))
        loss = fields["loss"] * WHOLE_WINDOW
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable[[], Any], model: Any | None = None, **kwargs: Any
    ) -> Any:
        """Step with the mean gradient of the window's batches, exchanged after hooks and clipping."""
        proxy = _ExchangeBeforeStep(optimizer, self)
        # A LightningOptimizer stands in for the optimizer it wraps, though it is no subclass.
        stand_in = cast(Optimizer, proxy)
        return super().optimizer_step(stand_in, lambda: self._mean_gradient(closure), model, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer, step: Callable[[], Any]) -> None:
        """Exchange the window: its gradient goes into the momentum, its update takes the gradient's place."""
        assert self.session is not None
        lr = {self._names[p]: float(g["lr"]) for g in optimizer.param_groups for p in g["params"] if p in self._names}
        exchanged = self.session.exchange(lr, self._loader.pages if self._loader else NO_PAGES)
        step()
        self.session.finish(exchanged, float(optimizer.param_groups[0]["lr"]))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's state: in the middle of a window that of its start, since it will be trained anew."""
        state = super().lightning_module_state_dict()
        at_start = self.session.buffers_at_start if self.session is not None else {}
        return state | {name: buffer for name, buffer in at_start.items() if name in state}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state with the momentum and the place in the run."""
        state = super().optimizer_state(optimizer)
        return state if self.session is None else {**state, "templar": self.session.run.state_dict()}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the optimizer, the momentum and the place in the run."""
        states = [dict(state) for state in checkpoint["optimizer_states"]]
        saved = [state.pop("templar") for state in states if "templar" in state]
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})
        if saved and self.session is not None:
            self.session.run.load_state_dict(saved[0])

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint that resumes at the start of a window, from whatever hook it is saved."""
        restart_at_window(checkpoint)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, without running code from it unless asked to."""
        return super().load_checkpoint(checkpoint_path, weights_only=weights_only is not False)

    def teardown(self) -> None:
        """Leave the network, so that nobody waits for this node."""
        if self.session is not None:
            self.session.run.close()
        super().teardown()

    # What the hooks above share.

    def _new_session(self) -> Session:
        optimizer = self.optimizers[0]
        trained = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
        assert isinstance(self.lightning_module, LightningModule)
        parameters = {name: p for name, p in self.lightning_module.named_parameters() if p in trained}
        self._names = {p: name for name, p in parameters.items()}
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        codec = MomentumCodec(shapes, self.compression, self.root_device, product_dtype=exact_dtype(self.root_device))
        run = WindowRun(codec, self._digest(shapes), rebuild_windows=self.recovery.rebuild_windows)
        return Session(parameters, dict(self.lightning_module.named_buffers()), codec, run)

    def _digest(self, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
        agreed = {
            "compression": asdict(self.compression),
            "max_peers": self.peers.max_topk_peers,
            "settings": self._settings_digest.hex(),
            "shapes": {name: list(shape) for name, shape in shapes.items()},
        }
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).digest()

    def _open(self, session: Session) -> None:
        limits = Limits(
            timeout_s=self.window_config.gather_timeout_seconds,
            patience_s=self.recovery.patience_s,
            max_peers=self.peers.max_topk_peers,
        )
        connection = self.network.open(session.run.digest, self.window_config)
        session.run.open(connection, limits, keep_windows=self.window_config.stale_retention)

    def _begin_window(self) -> tuple[Uid, Window] | None:
        assert self.session is not None
        assert self._trainer is not None
        limit = self._trainer.max_epochs
        begun = self.session.begin(self._apply, None if limit in (None, -1) else limit)
        self._set_epoch(self.session.run.applied, is_over=begun is None)
        return begun

    def _apply(self, update: Mapping[str, Tensor]) -> None:
        """Apply the update of a window this node did not train in, as if it had."""
        assert self.session is not None
        assert self._trainer is not None
        self.session.set_gradients(update)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        for config in self._trainer.lr_scheduler_configs:
            config.scheduler.step()  # type: ignore[call-arg]  # schedulers that need a metric are refused

    def _mean_gradient(self, closure: Callable[[], Any]) -> Any:
        assert self.session is not None
        output = closure()
        batches = max(1, self.session.tally.batches)
        with torch.no_grad():
            for parameter in self.session.parameters.values():
                if parameter.grad is not None and batches > 1:
                    parameter.grad.div_(batches)
        return output

    def _set_epoch(self, applied: int, *, is_over: bool) -> None:
        """Make the trainer's epoch the number of windows applied, those caught up included."""
        assert self._trainer is not None
        progress = cast(_ProcessedTracker, self._trainer.fit_loop.epoch_progress.current)
        has_started = progress.ready - progress.completed
        # A run that is over leaves an empty epoch behind, which Lightning will count when it ends.
        done = applied - has_started if is_over else applied
        progress.completed = progress.processed = done
        progress.ready = progress.started = done + has_started


def count_batches(loader: Any, limit: int | float) -> int | None:
    """Return how many batches a window has at most, None for no limit.

    Args:
        loader: what the user gave the trainer.
        limit: `limit_train_batches` of the trainer: batches, or a share of the loader.

    Raises:
        ConfigError: a share of a loader that does not know its length.
    """
    if isinstance(limit, int):
        return limit
    if limit == 1.0:
        return None
    try:
        return max(1, int(len(loader) * limit))
    except TypeError as error:
        raise ConfigError(
            f"limit_train_batches must be a number of batches, got the share {limit}, and the loader has no length"
        ) from error


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype whose matrix products are exact on a device: fp32, or fp64 with a warning where fp32 rounds.

    Raises:
        ConfigError: neither is exact, so that this node would leave the others.
    """
    try:
        check_exact_arithmetic(device)
    except ConfigError as error:
        log.warning("%s; computing updates in float64, which is slower", error)
        check_exact_arithmetic(device, dtype=torch.float64)
        return torch.float64
    return torch.float32


class TemplarStrategy(ExchangeMixin, SingleDeviceStrategy):
    """Trains on one device and exchanges with peers.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1, with a decayed momentum in coefficient space, 1-bit values and an update
        defined in integers (docs/design.md).
    """

    strategy_name = "templar"
    parallel_devices: list[torch.device] | None = None  # the trainer fills it with the devices it was asked for

    @property
    def root_device(self) -> torch.device:
        """The device the trainer was asked for."""
        return self.parallel_devices[0] if self.parallel_devices else super().root_device


def register() -> None:
    """Make `Trainer(strategy="templar")` work; called when the package's training classes are first imported."""
    if "templar" not in StrategyRegistry.available_strategies():
        StrategyRegistry.register("templar", TemplarStrategy, description=TemplarStrategy.__doc__ or "")
