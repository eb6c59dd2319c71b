"""How a node reaches the others: what the strategy asks for. `LocalNetwork` and `BittensorNetwork` answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from templar_pl.chain import Chain, LeasedAgreement
from templar_pl.config import WindowConfig
from templar_pl.errors import ChainError, ConfigError
from templar_pl.exchange.aggregates import NodeBuckets
from templar_pl.exchange.window_values import Identity
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.training.outlook import Outlook
from templar_pl.training.run_view import RunView
from templar_pl.units import Hotkey, Uid, Window

log = logging.getLogger(__name__)

LOOK_S = 2.5
"""Seconds after the end of uploads in which every peer is asked once more: a second for stores that tell whole seconds,
one between two questions to a peer, and the time of an answer."""


@dataclass(frozen=True)
class Connection:
    """An open network, and who this node is in it."""

    run: str
    """Name of the run, first part of every object key."""

    chain: Chain
    agreement: LeasedAgreement | None
    """Who writes down what each window consists of; None if nobody does."""

    buckets: NodeBuckets
    signer: Signer
    verify: Verify
    hotkey: Hotkey
    uid: Uid

    address: str
    """Of the own bucket, as it was committed."""

    start_window: Window
    """Window whose update is the first of the run."""

    lock: IO[str]
    """Held as long as this node runs, so that no other process runs as the same node."""

    aggregator: Hotkey | None
    """Whose manifests say what a window consists of; None for nobody's. Counts where there is no agreement."""

    validator: Hotkey | None
    """Whose peer lists and checkpoints count besides; None for nobody's."""

    manifest_wait_s: float
    """Seconds after the end of uploads for which a manifest is waited for."""

    @property
    def peer(self) -> Peer:
        """This node, as the others see it."""
        return Peer(self.uid, self.hotkey, self.signer.public_key, self.address)

    def identity(self, digest: bytes) -> Identity:
        """Return who this node is in the run, whose settings and parameter shapes have a digest of 32 bytes."""
        return Identity(self.run, digest, self.uid, address=self.address, signer=self.signer, verify=self.verify)

    def close(self) -> None:
        """Take part no more and let go of the chain."""
        try:
            if self.agreement is not None:
                self.agreement.leave()
        except ChainError as error:
            log.warning("could not leave the chain; the others wait until the lease ends: %s", error)
        finally:
            self.chain.close()
            self.lock.close()


class Network(Protocol):
    """Connects a node to a run; keeps no connection itself."""

    @property
    def run_dir(self) -> Path:
        """Folder of what the nodes of the run on this machine share."""
        ...

    @property
    def node_dir(self) -> Path:
        """Folder of what only this node writes: its log, its metrics, its checkpoints."""
        ...

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        """Connect, register the own hotkey and publish where the own bucket is.

        Args:
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            window: length of a window and its exchange.
            sends: whether this node sends payloads; see `Register.register`.

        Raises:
            ConfigError: the chain belongs to a run with other settings, a key of the own bucket is not set, or nobody
                knows the hotkey that is to be followed.
            ChainError: the chain cannot be reached.
            StoreError: the own bucket cannot be reached.
        """
        ...

    def view(self, digest: bytes, window: WindowConfig) -> RunView:
        """Find the buckets of the run, and those whose word counts, without taking part: no key of one's own is needed.

        Raises:
            ConfigError: there is no such run, or nobody whose word counts.
            ChainError: the chain cannot be reached.
            StoreError: a bucket that tells where the run began, or who publishes manifests, cannot be read.
        """
        ...

    def look(self, digest: bytes, window: WindowConfig) -> Outlook:
        """Say what `open` would find on the chain; nothing is made, changed or locked.

        Raises as `open` does, unless the outlook has a place for the error.
        """
        ...


def refuse_short_gathers(window: WindowConfig) -> None:
    """Nodes that stop looking before uploads are over would not all see the same. Raises `ConfigError`."""
    least_s = window.time_window_delta_seconds + LOOK_S
    if window.gather_timeout_seconds < least_s:
        raise ConfigError(
            f"gather_timeout_seconds must be at least {least_s:g} where nobody records windows, {LOOK_S:g} s more than "
            f"time_window_delta_seconds, got {window.gather_timeout_seconds:g}: a gather would end before the last "
            "payload may land"
        )


def refuse_late_uploads(delta_s: float, window_s: float) -> None:
    """Uploads must be over before the next window is, whose length is `window_s` seconds. Raises `ConfigError`."""
    if delta_s >= window_s:
        raise ConfigError(
            f"time_window_delta_seconds must be below the length of a window, {window_s:g} s, got {delta_s:g}: "
            "a node would wait for payloads of one window beyond the end of the next"
        )


def warn_of_short_windows(delta_s: float, window_s: float) -> None:
    """Say so if a node that missed a window of `window_s` seconds may never come back.

    What a window was is known some time after its end. If the next one is over by then, who waited cannot train in it.
    Reckoned is with the end of uploads and LOOK_S. Who follows an aggregator waits for its manifest as long as `wait_s`
    after the end of uploads, which is not reckoned with: it comes in a moment where the aggregator keeps up.
    """
    known_s = delta_s + LOOK_S
    if window_s <= known_s:
        log.warning(
            "windows of %g s are short: one may be known only %g s after its end (time_window_delta_seconds + %g s), "
            "and then a node that misses one never joins again: let windows be longer, or uploads shorter",
            window_s,
            known_s,
            LOOK_S,
        )
