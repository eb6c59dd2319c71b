"""What a node would find if it joined a run. Facts only: whoever asks judges them.

What could not be found out is there as the error that says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from templar_pl.errors import ChainError, ConfigError, StoreError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Block, Hotkey, Uid, Window


@dataclass(frozen=True)
class LocalOutlook:
    """What it would find on a local chain."""

    chain: str
    """File of the chain."""

    peers: Mapping[Uid, Peer] | None
    """Who is registered; None if the chain is made by the first node to join."""

    hotkey: Hotkey | None
    """Of this node; None if it is made when the node joins."""

    hotkey_file: Path


class Commitment(StrEnum):
    """What the own hotkey has committed to on the chain."""

    NONE = "none"
    SAME = "same"
    OTHER = "other"


@dataclass(frozen=True)
class RunStart:
    """Where a run began or will begin, and who says so."""

    window: Window
    """Window whose update is the first."""

    teller: Uid | None
    """Whose run file says so; None if the own settings do."""

    stake: float = 0.0
    """Of the teller, in alpha of the subnet."""

    is_published: bool = False
    """Whether the own bucket holds the run file; only where the own settings say when the run begins."""


@dataclass(frozen=True)
class OwnPlace:
    """The place of a registered hotkey on a subnet."""

    uid: Uid
    stake: float
    """In alpha of the subnet, with what root stake counts."""

    is_validator: bool
    """Whether it holds a validator permit."""


@dataclass(frozen=True)
class RunSeen:
    """What depends on the own bucket."""

    commitment: Commitment
    counts_in_s: float
    """Seconds until the payloads of this node count; 0 if they do. For a hotkey that is not registered: once it is."""

    start: RunStart | ConfigError | StoreError


@dataclass(frozen=True)
class SubnetSeen:
    """What the chain tells."""

    block: Block
    window: Window
    block_s: float
    """Seconds a block takes, as the chain says."""

    head_age_s: float
    """Seconds between the newest block and now, by the clock of this machine; below 0 if that is behind."""

    num_registered: int
    place: OwnPlace | None
    """None if the own hotkey is not registered, or not known."""

    run: RunSeen | ConfigError
    """The error: the keys of the own bucket cannot be used."""


@dataclass(frozen=True)
class SubnetOutlook:
    """What it would find on a subnet of Bittensor."""

    netuid: int
    network: str
    """Name, or scheme, host and port of an address."""

    hotkey_file: Path
    password: str
    """Where the password of the hotkey comes from; empty if it needs none."""

    hotkey: Hotkey | ConfigError
    register_command: str
    """What registers the hotkey."""

    cost_command: str
    """What tells what that costs."""

    has_local_buckets: bool
    """Whether payloads stay in folders of this machine."""

    subnet: SubnetSeen | ChainError | ConfigError


Outlook = LocalOutlook | SubnetOutlook
