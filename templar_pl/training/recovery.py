"""What one node does when it has to wait for others or fell behind them."""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What this node does when it has to wait or fell behind. Each node chooses for itself."""

    rebuild_windows: int = 100
    """Own windows to train again at most after a crash, so that the momentum is as if it had not happened; 0..10**9."""

    patience_s: float = 600.0
    """Seconds to wait for the others to close a window before this node stops; 0.1..10**7."""

    def __post_init__(self) -> None:
        if not 0 <= self.rebuild_windows <= 10**9:
            raise ConfigError(f"rebuild_windows must be in 0..{10**9}, got {self.rebuild_windows}")
        if not 0.1 <= self.patience_s <= 10**7:
            raise ConfigError(f"patience_s must be in 0.1..{10**7}, got {self.patience_s}")
