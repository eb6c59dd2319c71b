"""The seam of the bittensor SDK over the fake chain: `bt.Client("local", substrate=FakeSubstrate(fake))`.

Everything above the transport is the SDK's own: decoding, reads, intents, checks before a submission. Failures come as
`RpcSubstrate` of the SDK raises them.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from bittensor import Balance
from bittensor._generated.errors import ERRORS
from bittensor.result import ChainError, ConnectionNotReady, ExtrinsicResult, RpcConnectionError

from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_encoding import decode, encode
from tests.servers.subtensor_pool import Extrinsic
from tests.servers.subtensor_state import ChainRefusal, LinkDown, NotInRuntime
from tests.servers.subtensor_wire import LOST, DirectWire, Wire

_DOCS = {info.name: info.docs for info in ERRORS.values()}


@dataclass(frozen=True)
class ComposedCall:
    """A call that the connected runtime knows."""

    module: str
    function: str
    params: dict[str, Any]


class WireSubstrate:
    """One connection of the SDK. It has more methods than a class should: the SDK's protocol asks for them."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self._is_open = wire, False
        self.token_symbols: dict[int, str] = {}

    def balance(self, rao: int, netuid: int = 0) -> Balance:
        return Balance(int(rao), netuid, self.token_symbols.get(netuid))

    async def connect(self) -> None:
        try:
            await self._wire.connect()
        except LinkDown as down:
            raise RpcConnectionError(str(down)) from down
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        await self._wire.close()

    async def block_number(self) -> int:
        return await self._ask("block_number")

    async def finalized_block_number(self) -> int:
        return await self._ask("block_number")

    async def block_hash(self, block: int | None = None) -> str:
        return await self._ask("block_hash", block)

    async def block_time(self) -> float:
        return await self._ask("constant", "Aura.SlotDuration") / 1000

    async def spec_version(self) -> int:
        return await self._ask("spec_version")

    async def get_block(self, block_number: int | None = None, block_hash: str | None = None) -> dict[str, Any]:
        return await self._ask("block", block_hash if block_number is None else block_number)

    async def query(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        return await self._ask("query", f"{module}.{storage_function}", params or [], block_hash)

    async def query_map(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> list[tuple[Any, Any]]:
        pairs = await self._ask("query_map", f"{module}.{storage_function}", params or [], block_hash)
        return [(key, value) for key, value in pairs]

    async def query_batch(
        self, module: str, storage_function: str, param_sets: list[list[Any]], block_hash: str | None = None
    ) -> list[Any]:
        return [await self.query(module, storage_function, params, block_hash) for params in param_sets]

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        return await self._ask("runtime_call", f"{api}.{method}", params, block_hash)

    async def constant(self, module: str, name: str) -> Any:
        return await self._ask("constant", f"{module}.{name}")

    async def blocks(self, *, finalized: bool = False) -> AsyncIterator[dict[str, Any]]:
        self._check_open()
        try:
            async with contextlib.aclosing(self._wire.heads()) as heads:
                async for header in heads:
                    yield {"header": header}
        except LinkDown as down:
            raise ChainError(LOST) from down
        except (GeneratorExit, asyncio.CancelledError):
            # The transport unsubscribes, and waits for the answer: through a silence, so long that silence lasts.
            with contextlib.suppress(ChainRefusal):
                if self._is_open:
                    await self._wire.ask("unsubscribe")
            raise

    async def compose(self, call: tuple[str, str, dict[str, Any]]) -> ComposedCall:
        module, function, params = call
        await self._ask("check_call", f"{module}.{function}", params)
        return ComposedCall(module, function, params)

    async def estimate_fee(self, call: ComposedCall, keypair: Any) -> Balance:
        return Balance.from_rao(0)  # calls of hotkeys are paid by their coldkeys, whose purse the fake does not keep

    async def account_next_index(self, address: str) -> int:
        return await self._ask("next_nonce", address)

    async def submit(
        self,
        call: ComposedCall,
        keypair: Any,
        *,
        nonce: int | None = None,
        period: int | None = None,
        wait_for_inclusion: bool = True,
        wait_for_finalization: bool = True,
    ) -> ExtrinsicResult:
        """Sign, submit and wait for the block; what a chain refuses is in the result."""
        self._check_open()
        try:
            next_nonce = await self._wire.ask("next_nonce", keypair.ss58_address)
            signed = await _sign(call, keypair, next_nonce if nonce is None else nonce)
            return _result(await self._wire.ask("submit", signed))
        except LinkDown as down:
            if str(down) != LOST:
                raise RpcConnectionError(str(down)) from down
            return _failure(ChainError(str(down)))
        except ChainRefusal as refusal:
            return _failure(_error(refusal.message, refusal.name))

    async def _ask(self, method: str, *params: Any) -> Any:
        self._check_open()
        try:
            return await self._wire.ask(method, *params)
        except LinkDown as down:
            raise RpcConnectionError(str(down)) from down
        except NotInRuntime as refusal:
            raise ValueError(str(refusal)) from refusal
        except ChainRefusal as refusal:
            raise _error(refusal.message, refusal.name) from refusal

    def _check_open(self) -> None:
        if not self._is_open:
            raise ConnectionNotReady("Client connection is not open.")


class FakeSubstrate(WireSubstrate):
    """A connection of the SDK to a fake chain in this process."""

    def __init__(self, fake: FakeSubtensor) -> None:
        super().__init__(DirectWire(fake))


async def _sign(call: ComposedCall, keypair: Any, nonce: int) -> bytes:
    params = decode(encode(call.params))  # as the chain reads them
    extrinsic = Extrinsic(f"{call.module}.{call.function}", params, keypair.ss58_address, nonce)
    payload = extrinsic.signed_bytes()
    signature = keypair.sign(payload)
    signature = await signature if inspect.isawaitable(signature) else signature
    return encode([decode(payload), bytes(signature)])


def _result(outcome: dict[str, Any]) -> ExtrinsicResult:
    block_hash, extrinsic_id = outcome["block_hash"], outcome["extrinsic_id"]
    if outcome["success"]:
        return ExtrinsicResult(True, "Success", block_hash, extrinsic_id, fee=Balance.from_rao(0))
    error = _error(outcome["message"], outcome["name"])
    return ExtrinsicResult(False, error.message, block_hash, extrinsic_id, error=error)


def _failure(error: ChainError) -> ExtrinsicResult:
    return ExtrinsicResult(False, error.message, error=error)


def _error(message: str, name: str | None) -> ChainError:
    return ChainError(_DOCS.get(name or "") or message, name)
