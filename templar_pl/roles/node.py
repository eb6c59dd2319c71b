"""What a role that trains nothing is given: the parts of a node, made of the options of `fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from templar_pl.hparams import HParams
from templar_pl.training import Network, RecoveryConfig, Replica


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node before it is connected."""

    network: Network
    module: LightningModule
    """With random weights, on the CPU, in the dtype they were drawn in."""

    data: LightningDataModule
    """Not set up."""

    hparams: HParams
    settings_digest: bytes
    """32 bytes, of whatever the nodes of the run must share besides compression and shapes."""

    recovery: RecoveryConfig
    device: torch.device
    precision: str
    """As a trainer takes it: `32-true` or `bf16-mixed`, unless another one was asked for."""

    options: Mapping[str, Any]
    """The command's own options, by name."""

    check_interrupt: Callable[[], None]
    """Ends a wait by an exception if the process was asked to end."""

    def replica(self) -> Replica:
        """Set the module up as `fit` would, and return it; the node's module must not be used any more.

        Raises:
            ConfigError: no run takes the module or the precision, or the device's arithmetic is not exact.
        """
        numbers = self.hparams
        return Replica(
            self.module,
            numbers.compression,
            numbers.peers,
            self.settings_digest,
            self.device,
            precision=self.precision,
        )
