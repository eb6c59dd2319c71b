"""A connection to a subtensor by the bittensor package (SDK 11.3), with every wait bounded and every error ours.

The package raises its own `BittensorError`s, plain `ValueError`s for names its runtime does not know, those of Python
for answers of another shape or in the midst of a reconnection, and those of the network. All of them mean that the
chain did not say what was asked, so all become `ChainError`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import bittensor as bt
from bittensor.settings import default_archive_endpoints, default_fallback_endpoints, resolve_endpoint

from templar_pl.chain.bittensor_config import without_secrets
from templar_pl.chain.hotkeys import HotkeySigner
from templar_pl.errors import ChainError

log = logging.getLogger(__name__)

T = TypeVar("T")

SDK_ERRORS = (
    bt.BittensorError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TimeoutError,
    TypeError,
    ValueError,
)
"""What a question to the package may raise through no fault of ours."""

CLOSE_TIMEOUT_S = 3.0
"""Seconds a connection is given to say goodbye."""

MAX_WORDS = 500
"""Characters of an error of the package that are passed on: a server writes what it likes."""

QUIET_LOGGERS = {"bittensor.transport": logging.ERROR, "websockets": logging.INFO}
"""Least levels of the loggers of the package's connections: the one warns of each attempt to connect, for hours where
there is no network, and tells addresses; the other tells the head of every request, so the secrets of an address."""

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
        for name, level in QUIET_LOGGERS.items():
            logger = logging.getLogger(name)
            logger.setLevel(max(level, logger.level))
        return bt.RpcSubstrate(  # pyright: ignore[reportReturnType] - the package types `multisig_account` in two ways
            endpoint,
            fallback_endpoints=fallbacks,
            archive_endpoints=default_archive_endpoints(label),
            retry_forever=True,
        )

    return open_substrate


class AnswerError(ChainError):
    """The chain did not answer, or refused: then `name` is what the chain calls that, where it has a name for it."""

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class Subtensor:
    """One connection. Belongs to the event loop it is opened in."""

    def __init__(self, network: str, netuid: int, substrate: bt.Substrate) -> None:
        """Store the parts; nothing is opened.

        Args:
            network: name or address.
            netuid: number of the subnet.
            substrate: what reads and writes.
        """
        self.network, self.netuid = without_secrets(network), netuid
        self._substrate = substrate
        self.client = bt.Client(network, substrate=substrate)

    async def connect(self, timeout_s: float) -> None:
        """Connect. Raises `ChainError`."""
        # Not the client's own connect: it also reads the symbols of all subnets' tokens and keeps them in ~/.bittensor.
        what = f"cannot connect to {self.network}; look at --bittensor.network and at the way to the internet"
        await self.ask(self._substrate.connect(), what, timeout_s)

    async def close(self) -> None:
        """Let go of the connection; what goes wrong in that is told to nobody but the log."""
        try:
            await self.ask(self._substrate.close(), f"the connection to {self.network} was not closed", CLOSE_TIMEOUT_S)
        except ChainError as error:
            log.debug("%s", error)

    async def ask(self, question: Awaitable[T], what: str, timeout_s: float) -> T:
        """Return the answer to a question.

        Args:
            question: to the client.
            what: goes wrong if there is no answer, for messages.
            timeout_s: seconds until it is given up.

        Raises:
            AnswerError: there is no answer in time, or it is a refusal.
        """
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await question
        except SDK_ERRORS as error:
            why = f"no answer within {timeout_s:g} s" if limit.expired() else words(error)
            refusal = AnswerError(f"{what}: {why}", getattr(error, "name", None))
        # Raised apart from the package's error, whose words in a traceback could tell the secrets of an address.
        raise refusal


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


def words(error: BaseException) -> str:
    """Say what an error says on one line and without secrets, or its kind if it says nothing."""
    said = "".join(character if character.isprintable() else " " for character in str(error))
    return without_secrets(" ".join(said.split()))[:MAX_WORDS] or type(error).__name__
