"""Lightning strategies that exchange a window's momentum with peers between gradient clipping and the optimizer step.

`ExchangeMixin` is what Templar adds to any of Lightning's engines; list it before the engine. A window is an epoch is
one optimizer step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig, PeersConfig, WindowConfig
from templar_pl.errors import ConfigError
from templar_pl.exchange.window_values import Limits
from templar_pl.training.applying import exact_dtype, trained_parameters
from templar_pl.training.catch_up_status import CatchUpStatus
from templar_pl.training.checkpoint_io import AtomicCheckpointIO, restart_at_window
from templar_pl.training.fitted_model import FittedModel
from templar_pl.training.lightning_loops import ExchangeBeforeStep, count_batches, divide_gradients, set_epoch
from templar_pl.training.local_network import LocalNetwork
from templar_pl.training.network import Network
from templar_pl.training.network_checkpoint import NetworkCheckpoints, network_checkpoints
from templar_pl.training.progress import WindowProgressBar
from templar_pl.training.recovery import RecoveryConfig
from templar_pl.training.refusals import refuse_several_devices, refuse_unsuitable
from templar_pl.training.run_digest import run_digest
from templar_pl.training.session import Session
from templar_pl.training.window_loader import BEFORE_FIRST, NO_PAGES, Place, WindowLoader
from templar_pl.training.window_run import WindowRun
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

CHECKPOINT_TIMEOUT_S = 60.0
"""Seconds that a network checkpoint on its way is waited for at the end; it is published in the next life otherwise."""

WHOLE_WINDOW = 2**30
"""Batches that Lightning is told to accumulate: more than any window has, and a power of two, so that
loss / WHOLE_WINDOW * WHOLE_WINDOW is exact."""


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
        self._checkpoints: NetworkCheckpoints | None = None
        self._loader: WindowLoader | None = None
        self._names: dict[Tensor, str] = {}
        self._limit: int | float = 1.0
        self._fitted: LightningModule | None = None  # a second fit of the same module goes on in the same run
        self._place: Place = BEFORE_FIRST

    # What Lightning calls, in the order of a fit.

    def setup(self, trainer: Trainer) -> None:
        """Set up the engine; for fitting also check the trainer, prepare the momentum and join the network."""
        super().setup(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        refuse_unsuitable(trainer)
        trainer.accumulate_grad_batches = WHOLE_WINDOW
        self._limit = trainer.limit_train_batches
        if self._limit != 0:
            # Lightning would take a limit for the length of the loader, and never step if a window has fewer batches.
            trainer.limit_train_batches = 1.0
        self._trainer, self._loader, self._place = trainer, None, BEFORE_FIRST
        if self.session is None or self._fitted is not self.lightning_module:
            self.session, self._fitted = self._new_session(), self.lightning_module

    def process_dataloader(self, dataloader: object) -> object:
        """Make the training loader windowed; loaders of other stages stay as they are."""
        loader = super().process_dataloader(dataloader)
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        if trainer.state.fn != TrainerFn.FITTING or not trainer.training:
            return loader
        if self.session is None or self._trainer is None:
            raise ConfigError(
                "estimated_stepping_batches is not known in configure_optimizers: a window is a step, so that "
                "trainer.max_epochs is the number of steps"
            )
        if self._loader is not None:
            raise ConfigError("there must be one training loader; combine several datasets into one")
        self._open(self.session)
        self._loader = WindowLoader(
            loader,  # type: ignore[arg-type]  # Lightning types loaders as object
            self.session.run.phases,
            begin=self._begin_window,
            has_time=self.session.has_time,
            seed=self.session.seed,
            max_batches=count_batches(loader, self._limit),
        )
        self._loader.go_to(self._place)
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
        # A LightningOptimizer stands in for the optimizer it wraps, though it is no subclass.
        stand_in = cast(Optimizer, ExchangeBeforeStep(optimizer, self.on_before_optimizer_step))
        return super().optimizer_step(stand_in, lambda: self._window_closure(closure), model, **kwargs)

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
        if self.session is None:
            return state
        place = self._place
        if self._loader is not None:
            place = self._loader.place_at_start if self.session.buffers_at_start else self._loader.place
        return {**state, "templar": {**self.session.run.state_dict(), "place": list(place)}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the optimizer, the momentum and the place in the run."""
        states = [dict(state) for state in checkpoint["optimizer_states"]]
        saved = [state.pop("templar") for state in states if "templar" in state]
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})
        if saved and self.session is not None:
            self.session.run.load_state_dict(saved[0])
            self._place = (int(saved[0]["place"][0]), int(saved[0]["place"][1]))

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
        try:
            if self._checkpoints is not None:
                self._publish_checkpoint()
                self._checkpoints.close(CHECKPOINT_TIMEOUT_S)
                self._checkpoints = None
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            if self.session is not None:
                self.session.run.close()
        finally:
            if self._trainer is not None:
                self._trainer.accumulate_grad_batches, self._trainer.limit_train_batches = 1, self._limit
                self._trainer = None
            super().teardown()

    # What the hooks above share.

    def _new_session(self) -> Session:
        module = self.lightning_module
        assert isinstance(module, LightningModule)
        parameters = trained_parameters(module, self.optimizers[0])
        self._names = {p: name for name, p in parameters.items()}
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        codec = MomentumCodec(shapes, self.compression, self.root_device, product_dtype=exact_dtype(self.root_device))
        digest = run_digest(parameters, self.compression, self.peers, self._settings_digest)
        run = WindowRun(codec, digest, rebuild_windows=self.recovery.rebuild_windows)
        return Session(parameters, lambda: dict(module.named_buffers()), codec, run)

    def _open(self, session: Session) -> None:
        limits = Limits(
            timeout_s=self.window_config.gather_timeout_seconds,
            patience_s=self.recovery.patience_s,
            max_peers=self.peers.max_topk_peers,
            keep_windows=self.window_config.stale_retention,
            check_interrupt=self._check_interrupt,
        )
        connection = self.network.open(session.run.digest, self.window_config)
        session.run.open(
            connection,
            limits,
            model=self._fitted_model(session),
            folder=self.network.node_dir / "catch-up",
            debug_windows=self.recovery.debug_windows,
            watch=self._watch,
        )

        if self.recovery.publish_checkpoints:
            folder, frequency = self.network.node_dir / "network-checkpoints", self.window_config.checkpoint_frequency
            self._checkpoints = network_checkpoints(connection, session.run.digest, folder, frequency=frequency)
            self._checkpoints.resume()

    def _publish_checkpoint(self) -> None:
        """Take a checkpoint for the network, if it is time for one and the parameters are between two windows."""
        if self._checkpoints is not None and self.session is not None and self.session.run.at_boundary:
            self._checkpoints.offer(self.session.run.applied, self._fitted_model(self.session).state)

    def _fitted_model(self, session: Session) -> FittedModel:
        return FittedModel(session.parameters, lambda: self.optimizers[0], self._schedules)

    def _begin_window(self) -> tuple[Uid, Window] | None:
        assert self.session is not None
        assert self._trainer is not None
        limit = self._trainer.max_epochs
        begun = self.session.begin(None if limit in (None, -1) else limit)
        set_epoch(self._trainer, self.session.run.applied, is_over=begun is None)
        self._publish_checkpoint()
        return begun

    def _check_interrupt(self) -> None:
        """End a wait when the process was asked to end."""
        if self._trainer is not None and self._trainer.received_sigterm:
            raise SIGTERMException

    def _schedules(self) -> list[LRScheduler]:
        assert self._trainer is not None
        # Those that need a metric are refused.
        return [cast(LRScheduler, config.scheduler) for config in self._trainer.lr_scheduler_configs]

    def _watch(self, status: CatchUpStatus | None) -> None:
        """Show how far this node is from the others, where the trainer shows its progress."""
        if self._trainer is not None and isinstance(bar := self._trainer.progress_bar_callback, WindowProgressBar):
            bar.show_catching_up(status)

    def _window_closure(self, closure: Callable[[], Any]) -> Any:
        assert self.session is not None
        output = closure()
        divide_gradients(self.session.parameters.values(), self.session.tally.batches)
        return output


class TemplarStrategy(ExchangeMixin, SingleDeviceStrategy):
    """Trains on one device and exchanges with peers.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1, with a decayed momentum in coefficient space, 1-bit values and an update
        defined in integers (docs/design.md).
    """

    strategy_name = "templar"
    parallel_devices: list[torch.device] | None = None  # the trainer fills it with the devices it was asked for

    def setup(self, trainer: Trainer) -> None:
        """Set up for one device. Raises `ConfigError` if the trainer was given several."""
        refuse_several_devices(self.num_devices)
        super().setup(trainer)

    @property
    def num_devices(self) -> int:
        """How many devices the trainer was asked for."""
        return len(self.parallel_devices or [self.root_device])

    @property
    def root_device(self) -> torch.device:
        """The device the trainer was asked for."""
        return self.parallel_devices[0] if self.parallel_devices else super().root_device


def register() -> None:
    """Make `Trainer(strategy="templar")` work; called when the package's training classes are first imported."""
    if "templar" not in StrategyRegistry.available_strategies():
        StrategyRegistry.register("templar", TemplarStrategy, description=TemplarStrategy.__doc__ or "")
