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

    name: str = "default"
    """Name of the wallet, as in `btcli --wallet`: 1 to 64 letters, digits, `_`, `.` or `-`, no sign but `_` first.
    Counts on Bittensor only: a local chain keeps its keys itself."""

    hotkey: str = "miner"
    """Name of the hotkey, made of the same characters; each node of a run has its own. Made on first use on a local
    chain; on Bittensor it must be in the wallet."""

    path: str = "~/.bittensor/wallets"
    """Folder of all wallets, as in `btcli --wallet-path`. Counts on Bittensor only."""

    def __post_init__(self) -> None:
        for field, what in (("name", "wallet"), ("hotkey", "hotkey")):
            if not is_key_name(getattr(self, field)):
                raise ConfigError(f"wallet.{field}: {key_name_rule(what, getattr(self, field))}")
        if not self.path or "\0" in self.path:
            raise ConfigError(f"wallet.path must be the folder of all wallets, got {self.path!r}")


@dataclass(frozen=True, kw_only=True)
class FollowConfig:
    """Whose word this node takes for what the windows of a run were, beside what it sees itself."""

    aggregator: str | None = None
    """Hotkey whose manifests say which payloads a window consists of: its address, or on a local chain the name of a
    key of this machine. Without: nobody's on a local chain; on Bittensor that of who told where the run began."""

    validator: str | None = None
    """Hotkey whose peer lists and checkpoints count besides: its address, or on a local chain the name of a key of this
    machine. To a miner only checkpoints matter, so it may be any node that publishes them."""

    wait_s: float = 30.0
    """Seconds after the end of uploads for which a manifest is waited for, while the aggregator keeps up; 0..3600."""

    def __post_init__(self) -> None:
        for field in ("aggregator", "validator"):
            name = getattr(self, field)
            if name is not None and not is_key_name(name):
                raise ConfigError(f"follow.{field} must be the address of a hotkey, or {key_name_rule('hotkey', name)}")
        if isinstance(self.wait_s, bool) or not isinstance(self.wait_s, int | float) or not 0 <= self.wait_s <= 3600:
            raise ConfigError(f"follow.wait_s must be in 0..3600 seconds, got {self.wait_s!r}")


def is_key_name(name: str) -> bool:
    """Tell whether a wallet or a hotkey may have this name, which is that of its file."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name) is not None


def key_name_rule(what: str, got: str) -> str:
    """Say which names a wallet or a hotkey may have, and which one was given."""
    return f"the name of a {what} must be 1..64 letters, digits, `_`, `.` or `-`, no `.` or `-` first, got {got!r}"
