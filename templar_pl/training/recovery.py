"""What one node does when it has to wait for others or fell behind them."""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.config import check_ranges


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What this node does when it has to wait or fell behind, and what it keeps of it. Each node chooses for itself."""

    rebuild_windows: int = 100
    """Own windows to train again at most after a crash, so that the momentum is as if it had not happened; 0..10**9."""

    patience_s: float = 600.0
    """Seconds to wait for the others to close a window before this node stops; 0.1..10**7."""

    debug_windows: int = 0
    """Windows for which a report of each window (loss, peers, why others were skipped, seconds; JSON) stays in the own
    bucket, for whoever looks into what went wrong; 0..10**6. 0 writes none."""

    publish_checkpoints: bool = False
    """Whether to publish a checkpoint of the network in the own bucket each `window.checkpoint_frequency` windows, for
    those who join or have lost their way and name this node as `follow.validator` or `follow.aggregator`; nobody else
    reads it. It takes room for one on the disk, and for three in the bucket."""

    def __post_init__(self) -> None:
        check_ranges(self, rebuild_windows=(0, 10**9), patience_s=(0.1, 10**7), debug_windows=(0, 10**6))
