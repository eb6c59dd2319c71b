"""A run as somebody sees it who takes no part: nothing is registered, written, locked or made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from templar_pl.errors import ConfigError
from templar_pl.exchange.aggregates import FileBuckets
from templar_pl.protocol.keys import manifest_keys
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.signing import Verify
from templar_pl.units import Hotkey, Uid, Window


@dataclass(frozen=True, kw_only=True)
class RunView:
    """Where the buckets of a run are, and whose word counts."""

    run: str
    """Name of the run, first part of every object key."""

    buckets: FileBuckets
    """Of which none is ours."""

    register: Callable[[Window], Mapping[Uid, Peer]]
    """Returns who was registered in a window, as well as it is still known. Raises `ChainError`."""

    candidates: Callable[[Window], Mapping[Uid, Peer]]
    """Returns whose payloads of a window might count, as well as it is still known. Raises `ChainError`."""

    aggregator: Peer
    """Whose manifests, aggregates and checkpoints are meant."""

    validator: Peer | None
    """Whose checkpoints count besides."""

    ends_at: Callable[[Window], float | None]
    """Returns the UTC seconds at which a window was over, when its uploads began; None where nobody can tell."""

    open_window: Callable[[], Window]
    """Returns the window that is open now by the clock of the chain. Raises `ChainError`."""

    start_window: Window
    """Window whose update is the first of the run."""

    verify: Verify
    close: Callable[[], None]
    """Lets go of the chain."""


def peer_of(peers: Mapping[Uid, Peer], hotkey: Hotkey | None) -> Peer | None:
    """Return who a hotkey is; None if none is given. Raises `ConfigError` if it is not registered."""
    if hotkey is None:
        return None
    found = next((peer for peer in peers.values() if peer.hotkey == hotkey), None)
    if found is None:
        raise ConfigError(f"hotkey {hotkey}, whose word is to count, is not registered in this run: name another")
    return found


def only_aggregator(peers: Mapping[Uid, Peer], buckets: FileBuckets, run: str) -> Peer:
    """Return the one peer whose bucket has manifests.

    Args:
        peers: of the run.
        buckets: of the run.
        run: first part of every key.

    Raises:
        ConfigError: none has, or several have.
        StoreError: a bucket cannot be read.
    """
    prefix = manifest_keys(run).prefix
    found = [
        peer
        for peer in peers.values()
        if peer.address and next(iter(buckets.of(peer.address).list(prefix)), None) is not None
    ]
    if len(found) != 1:
        who = ", ".join(peer.hotkey for peer in found) or "no node of this run"
        raise ConfigError(f"manifests are published by {who}: name one aggregator by --follow.aggregator")
    return found[0]
