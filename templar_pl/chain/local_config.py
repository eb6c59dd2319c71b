"""Settings of a local chain."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from templar_pl.config import WindowConfig
from templar_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LocalChainConfig:
    """How a chain in one file on one machine keeps time. All processes on it must give the same settings."""

    pace: Literal["lockstep", "wall"] = "lockstep"
    """`lockstep`: a window ends as soon as every live miner has announced its payload. `wall`: it ends by the clock."""

    seconds_per_block: float = 12.0
    """Length of a block in seconds on `wall`; 0.001..3600. On `lockstep` blocks have no length of their own."""

    blocks_per_window: int = WindowConfig.blocks_per_window
    """Blocks a window lasts; 1..10**6."""

    lease_s: float = 20.0
    """Seconds a miner may be silent on `lockstep` before the others go on without it; 0.1..86400."""

    min_miners: int = 1
    """Miners that must have joined before the first window of `lockstep` can end; 1..512."""

    delta_s: float = WindowConfig.time_window_delta_seconds
    """Seconds after the end of a window in which payloads may still land on `wall`; 0..3600."""

    record_windows: bool = True
    """Whether the chain writes down by hash what each window consisted of. Without, on `wall` only, nodes apply what
    landed in time by the clock of the store, as on a public chain that nobody writes manifests for."""

    def __post_init__(self) -> None:
        if self.pace not in ("lockstep", "wall"):
            raise ConfigError(f"pace must be lockstep or wall, got {self.pace!r}")
        for name, low, high in (
            ("seconds_per_block", 0.001, 3600),
            ("blocks_per_window", 1, 10**6),
            ("lease_s", 0.1, 86_400),
            ("min_miners", 1, 512),
            ("delta_s", 0, 3600),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ConfigError(f"{name} must be in {low}..{high}, got {value!r}")
        if self.pace == "lockstep" and not self.record_windows:
            raise ConfigError("record_windows must be true on pace lockstep, whose windows end by the record")
        for name in ("blocks_per_window", "min_miners"):
            if not isinstance(getattr(self, name), int):
                raise ConfigError(f"{name} must be a whole number, got {getattr(self, name)!r}")


def chain_settings(config: LocalChainConfig, run: str) -> dict[str, str]:
    """Return what the file of a chain keeps of its settings, name -> value: equal ones are written alike.

    Args:
        config: how the chain keeps time.
        run: digest of the numbers the nodes agree on, in hex.
    """
    return {"run": run} | {name: _word(value) for name, value in asdict(config).items()}


def _word(value: str | float) -> str:
    """Write a setting down so that 20 and 20.0 are the same."""
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)
