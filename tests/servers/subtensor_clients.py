"""Clients of the bittensor SDK on a fake chain, and wallets for them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import bittensor as bt
from bittensor.sp_core import Keypair

from tests.servers.subtensor_substrate import WireSubstrate


@dataclass(frozen=True)
class Keys:
    """What the SDK takes for a wallet: one key for all roles."""

    hotkey: Any

    @property
    def coldkey(self) -> Any:
        """The key that owns."""
        return self.hotkey

    @property
    def coldkeypub(self) -> Any:
        """The public half of it."""
        return self.hotkey

    @property
    def address(self) -> str:
        """The SS58 address."""
        return self.hotkey.ss58_address


def keys(name: str) -> Keys:
    """Return the keys of somebody; equal names have equal ones."""
    return Keys(Keypair.create_from_uri(f"//{name}"))


def client_of(substrate: WireSubstrate) -> bt.Client:
    """Return a client that is not connected yet."""
    # The protocol also asks for what only coldkeys, multisigs and encrypted submissions need.
    return bt.Client("local", substrate=cast(bt.Substrate, substrate))


@contextlib.asynccontextmanager
async def connected(substrate: WireSubstrate) -> AsyncIterator[bt.Client]:
    """Give a client that is connected, and close it."""
    client = client_of(substrate)
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


def commit_call(data: bytes, netuid: int = 3) -> Any:
    """Return the call by which a hotkey commits up to 128 bytes."""
    field = {f"Raw{len(data)}": "0x" + data.hex()}
    return bt.calls.Commitments.set_commitment(netuid=netuid, info={"fields": [[field]]})
