"""Extrinsics of the fake chain: signed bytes on their way into a block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

# A compiled module, without stubs for the type checker.
from bittensor_core import Keypair  # pyright: ignore[reportAttributeAccessIssue]

from tests.servers.subtensor_calls import Call, PoolRefusal, apply_call, check_in_pool
from tests.servers.subtensor_encoding import decode, encode
from tests.servers.subtensor_state import ChainRefusal, State


@dataclass(frozen=True)
class Extrinsic:
    """A call that an account signed."""

    name: str
    params: Mapping[str, Any]
    signer: str
    nonce: int

    def signed_bytes(self) -> bytes:
        """Return what the account signs."""
        return encode(dataclasses.asdict(self))


@dataclass(frozen=True)
class Refusals:
    """An order to refuse submissions: of one call, or of all."""

    name: str
    call: str | None
    times: int
    in_pool: bool

    def fits(self, call: str, *, in_pool: bool) -> bool:
        """Say whether this order refuses a call, here and now."""
        return self.times > 0 and self.in_pool == in_pool and self.call in (None, call.split(".")[1])


@dataclass(frozen=True)
class Pending:
    """An extrinsic in the pool, and where its outcome goes."""

    extrinsic: Extrinsic
    outcome: Future[dict[str, Any]]

    def settle(self, refusal: ChainRefusal | None, **where: Any) -> None:
        """Hand over the outcome, unless nobody waits for it any more."""
        outcome = {
            "success": refusal is None,
            "message": "Success" if refusal is None else refusal.message,
            "name": None if refusal is None else refusal.name,
            **where,
        }
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_result(outcome)


def read_extrinsic(data: bytes) -> Extrinsic:
    """Return the extrinsic of signed bytes.

    Raises:
        PoolRefusal: the signature is not the signer's.
    """
    body, signature = decode(data)
    extrinsic = Extrinsic(**body)
    if not Keypair(ss58_address=extrinsic.signer).verify(extrinsic.signed_bytes(), signature):
        raise PoolRefusal("Invalid Transaction: Transaction has a bad signature", "BadProof")
    return extrinsic


class Pool:
    """Extrinsics that wait for a block, and orders to refuse some."""

    def __init__(self, *, is_old: bool) -> None:
        self._is_old = is_old
        self._pending: list[Pending] = []
        self._refusals: list[Refusals] = []

    def refuse(self, refusals: Refusals) -> None:
        """Refuse submissions to come."""
        self._refusals.append(refusals)

    def add(self, extrinsic: Extrinsic, state: State, next_block: int) -> Pending:
        """Take an extrinsic in.

        Raises:
            ChainRefusal: it would get into no block.
        """
        self._refuse_by_order(extrinsic.name, in_pool=True)
        if extrinsic.nonce < self.next_nonce(extrinsic.signer, state):
            raise PoolRefusal("Invalid Transaction: Transaction is outdated", "Stale")
        call = Call(extrinsic.name, extrinsic.params, extrinsic.signer, next_block)
        check_in_pool(call, state, is_old=self._is_old)
        pending = Pending(extrinsic, Future())
        self._pending.append(pending)
        return pending

    def next_nonce(self, address: str, state: State) -> int:
        """Return the nonce of the account's next extrinsic, those in the pool counted."""
        return state.nonces.get(address, 0) + sum(each.extrinsic.signer == address for each in self._pending)

    def take_all(self) -> list[Pending]:
        """Return all extrinsics, which then are no longer here."""
        pending, self._pending = self._pending, []
        return pending

    def apply(self, extrinsic: Extrinsic, state: State, block: int) -> tuple[State, ChainRefusal | None]:
        """Return the state after an extrinsic, and why its call was refused, if it was."""
        state = state.with_nonce_used(extrinsic.signer)
        try:
            self._refuse_by_order(extrinsic.name, in_pool=False)
            return apply_call(Call(extrinsic.name, extrinsic.params, extrinsic.signer, block), state), None
        except ChainRefusal as refusal:
            return state, refusal

    def _refuse_by_order(self, call: str, *, in_pool: bool) -> None:
        for index, order in enumerate(self._refusals):
            if order.fits(call, in_pool=in_pool):
                self._refusals[index] = dataclasses.replace(order, times=order.times - 1)
                raise ChainRefusal(f"refused by order: {order.name}", order.name)
