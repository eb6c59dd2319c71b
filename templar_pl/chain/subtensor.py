"""A connection to a subtensor by the bittensor package (SDK 11.3), with every wait bounded and every error ours.

The package raises its own `BittensorError`s, plain `ValueError`s for names its runtime does not know, `KeyError` and
`TypeError` for answers of another shape, and those of the network. All of them mean that the chain did not say what was
asked, so all become `ChainError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import bittensor as bt
from bittensor.settings import default_archive_endpoints, default_fallback_endpoints, resolve_endpoint

from templar_pl.chain.hotkeys import HotkeySigner
from templar_pl.errors import ChainError

T = TypeVar("T")

SDK_ERRORS = (bt.BittensorError, ValueError, KeyError, TypeError, OSError, TimeoutError)
"""What a question to the package may raise through no fault of ours."""

OpenSubstrate = Callable[[], bt.Substrate]
"""Makes what a client talks to the chain through, not connected yet."""


def rpc_substrate(network: str) -> OpenSubstrate:
    """Return what makes connections to a network that come back by themselves for as long as they are wanted.

    Args:
        network: name or address, as in `BittensorConfig`.
    """
    label, endpoint = resolve_endpoint(network)
    fallbacks = [url for url in default_fallback_endpoints(label) if url != endpoint]

    def open_substrate() -> bt.Substrate:
        return bt.RpcSubstrate(  # pyright: ignore[reportReturnType] - the package types `multisig_account` in two ways
            endpoint,
            fallback_endpoints=fallbacks,
            archive_endpoints=default_archive_endpoints(label),
            retry_forever=True,
        )

    return open_substrate


class Subtensor:
    """One connection. Belongs to the event loop it is opened in."""

    def __init__(self, network: str, netuid: int, substrate: bt.Substrate) -> None:
        """Store the parts; nothing is opened.

        Args:
            network: name or address, for messages.
            netuid: number of the subnet.
            substrate: what reads and writes.
        """
        self.network, self.netuid = network, netuid
        self._substrate = substrate
        self.client = bt.Client(network, substrate=substrate)

    async def connect(self, timeout_s: float) -> None:
        """Connect. Raises `ChainError`."""
        # Not the client's own connect: it also reads the symbols of all subnets' tokens and keeps them in ~/.bittensor.
        await self.ask(self._substrate.connect(), f"cannot connect to {self.network}", timeout_s)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._substrate.close()

    async def ask(self, question: Awaitable[T], what: str, timeout_s: float) -> T:
        """Return the answer to a question.

        Args:
            question: to the client.
            what: goes wrong if there is no answer, for messages.
            timeout_s: seconds until it is given up.

        Raises:
            ChainError: there is no answer in time, or it is a refusal.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await question
        except TimeoutError as error:
            raise ChainError(f"{what}: no answer within {timeout_s:g} s") from error
        except SDK_ERRORS as error:
            raise ChainError(f"{what}: {_words(error)}") from error


class SdkSigner:
    """A hotkey as the bittensor package wants its signers; the secret stays where it is."""

    def __init__(self, signer: HotkeySigner) -> None:
        """Wrap a hotkey."""
        self._signer = signer

    @property
    def ss58_address(self) -> str:
        """The address of the key."""
        return self._signer.hotkey

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the key."""
        return self._signer.public_key

    @property
    def crypto_type(self) -> int:
        """The kind of the key."""
        return bt.CRYPTO_SR25519

    def sign(self, payload: bytes) -> bytes:
        """Sign, in 64 bytes."""
        return self._signer.sign(payload)


def _words(error: Exception) -> str:
    """Say what an error says on one line, or its kind if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
