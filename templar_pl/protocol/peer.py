"""Another node, as the register of the chain knows it."""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.units import Hotkey, Uid


@dataclass(frozen=True, slots=True)
class Peer:
    """A registered hotkey and where its bucket is."""

    uid: Uid
    hotkey: Hotkey
    public_key: bytes
    """32 bytes of sr25519, what payloads carry and signatures are checked with."""

    address: str
    """What the peer committed to on the chain: where its bucket is; empty if it committed nothing readable."""
