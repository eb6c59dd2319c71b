"""A model that follows a run without a trainer: for whoever writes down, judges or checks what others train."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from templar_pl.compression import UpdateCodec
from templar_pl.config import CompressionConfig, PeersConfig
from templar_pl.exchange.checkpoint_files import load_checkpoint
from templar_pl.protocol import fingerprint
from templar_pl.protocol.checkpoint import Checkpoint
from templar_pl.protocol.model_state import ModelState
from templar_pl.training.applying import apply_update_, exact_dtype, trained_parameters
from templar_pl.training.configured import configure
from templar_pl.training.precision import precision_plugin
from templar_pl.training.run_digest import run_digest


class Replica:
    """A module with its optimizer and schedules, and how many windows of a run it has applied."""

    def __init__(
        self,
        module: LightningModule,
        compression: CompressionConfig,
        peers: PeersConfig,
        settings_digest: bytes,
        device: torch.device,
        *,
        precision: str = "32-true",
    ) -> None:
        """Set the module up as a trainer would for `fit`, and move it to its device.

        Args:
            module: of the run, with its first parameters.
            compression: how momentum becomes payload and update.
            peers: whose payloads are gathered.
            settings_digest: digest of whatever else the nodes of the run must share.
            device: where parameters are, and updates are computed.
            precision: as a trainer takes it; says of what dtype parameters are, and how steps are computed.

        Raises:
            ConfigError: no run takes the precision, or the module's optimizer or schedules; or the device's arithmetic
                is not exact.
        """
        self.precision = precision_plugin(precision, device)
        """Steps of the module are computed within its context."""

        self.module = _set_up(module, self.precision).to(device)
        self._configured = configure(self.module)
        self.parameters = trained_parameters(self.module, self._configured.optimizer)
        """What is trained and exchanged, in wire order."""

        self.codec = UpdateCodec(self.shapes, compression, device, product_dtype=exact_dtype(device))
        """Makes updates of payloads; holds no momentum."""

        self.digest = run_digest(self.parameters, compression, peers, settings_digest)
        """32 bytes, of the settings and parameter shapes that all nodes of the run share."""

        self.applied = 0
        """Windows of the run applied."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what is trained and exchanged, in wire order."""
        return {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}

    @property
    def state(self) -> ModelState:
        """The model as checkpoints hold it."""
        return ModelState(self.parameters, self._configured.optimizer, self._configured.schedules)

    @property
    def learning_rate(self) -> float:
        """With which the next window is applied; that of the first group of parameters."""
        return float(self._configured.optimizer.param_groups[0]["lr"])

    def fingerprint(self) -> bytes:
        """Return the 32 bytes that tell whether others hold the same parameters."""
        return fingerprint(self.parameters)

    def load(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Load a checkpoint from its files, and go to its place in the run; raises as `load_checkpoint`."""
        load_checkpoint(folder, checkpoint, self.state)
        self.applied = checkpoint.applied

    def apply(self, update: Iterable[tuple[str, Tensor]]) -> None:
        """Apply the update of the next window; see `apply_update_` for what it may be and raises."""
        apply_update_(self._configured.optimizer, self.parameters, update)
        for schedule in self._configured.schedules:
            schedule.step()
        self.applied += 1


def _set_up(module: LightningModule, precision: Precision) -> LightningModule:
    """Make a module's parameters as a trainer does."""
    module.setup("fit")
    with precision.module_init_context():
        module.configure_model()
    precision.convert_module(module)
    return module
