"""What one machine chooses for itself, beside the numbers that all nodes share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from templar_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where buckets, checkpoints and metrics are."""

    kind: Literal["local", "r2"] = "local"
    """Where buckets are: `local`, folders below `root`, for nodes of one machine; `r2`, Cloudflare R2 or another S3
    store, one bucket a node, whose keys are read from the environment (TEMPLAR_R2_...)."""

    root: str = "runs"
    """Folder of all runs; made on first use. Nodes of one machine that name the same folder find each other."""

    run: str = "local"
    """Name of the run: 1 to 40 of a-z, 0-9, dot, dash and underscore, no sign first. The digest of its numbers is
    added, so that other numbers make another run."""

    def __post_init__(self) -> None:
        if self.kind not in ("local", "r2"):
            raise ConfigError(f"store.kind must be local or r2, got {self.kind!r}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", self.run):
            raise ConfigError(
                f"run must be 1 to 40 of a-z, 0-9, dot, dash and underscore, no sign first, got {self.run!r}"
            )


@dataclass(frozen=True, kw_only=True)
class WalletConfig:
    """Which key this node signs with."""

    hotkey: str = "miner"
    """Name of the hotkey; each node of a run has its own. Made on first use on a local chain."""
