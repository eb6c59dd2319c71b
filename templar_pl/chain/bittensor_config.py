"""Settings of a chain of Bittensor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from templar_pl.config import WindowConfig, check_ranges
from templar_pl.errors import ConfigError
from templar_pl.protocol.keys import MAX_WINDOW

NETWORKS = ("finney", "test", "local")
"""Names that the bittensor package knows endpoints of; `local` is ws://127.0.0.1:9944."""

_ADDRESS = re.compile(r"""\w+://\S+?(?=[.,:;)'"]*(?:\s|\Z))""")


@dataclass(frozen=True, kw_only=True)
class BittensorConfig:
    """Which chain of Bittensor a node follows, and how patiently."""

    network: str | None = None
    """finney, test, local, or the ws:// or wss:// address of a subtensor; None for a local chain in a file."""

    start_window: int | None = None
    """Window whose update is the first of the run, block // blocks_per_window; 0..10**9 - 1. None: the run file of the
    leader tells. The node that begins a run gives it, and so becomes one that others can follow."""

    leader: int | None = None
    """Uid whose run file tells where the run began; 0..65535. None: the validator with the largest stake of those that
    have a bucket."""

    version_key: int | None = None
    """Version of the weights a validator sets; 0..2**63 - 1. None: the one the subnet asks for."""

    open_timeout_s: float = 60.0
    """Seconds in which the chain must be reached at the start; 0.1..3600."""

    request_timeout_s: float = 15.0
    """Seconds in which the chain must answer a question; 0.1..600."""

    submit_timeout_s: float = 60.0
    """Seconds in which something written must be in a block; 1..3600."""

    blocks_per_window: int = WindowConfig.blocks_per_window
    """Blocks a window lasts; 1..10**6."""

    delta_s: float = WindowConfig.time_window_delta_seconds
    """Seconds after the end of a window in which payloads may still land; 0..3600."""

    def __post_init__(self) -> None:
        if self.network is not None and self.network not in NETWORKS and not re.match(r"wss?://\S+\Z", self.network):
            raise ConfigError(
                f"bittensor.network must be {', '.join(NETWORKS)} or an address that begins with ws:// or wss://, "
                f"got {without_secrets(self.network)!r}"
            )
        check_ranges(
            self,
            open_timeout_s=(0.1, 3600),
            request_timeout_s=(0.1, 600),
            submit_timeout_s=(1, 3600),
            blocks_per_window=(1, 10**6),
            delta_s=(0, 3600),
        )
        for name, high in (("start_window", MAX_WINDOW), ("leader", 65_535), ("version_key", 2**63 - 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 0 <= value <= high):
                raise ConfigError(f"bittensor.{name} must be a whole number in 0..{high} or null, got {value!r}")
        if self.start_window is not None and self.leader is not None:
            raise ConfigError(
                "bittensor.start_window and bittensor.leader exclude each other: give the one to begin a run, the "
                "other to join the run of that uid"
            )


def without_secrets(text: str) -> str:
    """Return a text whose addresses have only scheme, host and port.

    User names, passwords, paths and queries of an endpoint may be secrets: they never get into messages or logs.
    """
    return _ADDRESS.sub(_shown, text)


def _shown(address: re.Match[str]) -> str:
    scheme, _, rest = address[0].partition("://")
    try:
        parts = urlsplit(address[0])
        host, port = parts.hostname, parts.port
    except ValueError:
        return f"{scheme}://..."
    # An @ behind what passes for the host: the address is malformed, and what passes for the host may be a secret.
    if not host or "@" in rest[len(parts.netloc) :]:
        return f"{scheme}://..."
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"
