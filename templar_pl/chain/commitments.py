"""The addresses that hotkeys commit to on a subnet: one field of raw bytes, which are printable text in UTF-8."""

from __future__ import annotations

from typing import Any

import bittensor as bt

from templar_pl.chain.subtensor import AnswerError, SdkSigner, Subtensor
from templar_pl.errors import ChainError, ConfigError

COMMITMENTS = ("Commitments", "CommitmentOf")
"""Where the chain keeps them, by subnet and hotkey."""

MAX_ADDRESS_BYTES = 128
"""Bytes of a field of a commitment at most."""

QUOTA_REFUSAL = "SpaceLimitExceeded"
"""What the chain calls it when a hotkey commits more than some 3100 bytes in an epoch of its subnet."""

TEMPO, SINCE_EPOCH = ("SubtensorModule", "Tempo"), ("SubtensorModule", "BlocksSinceLastStep")
"""Length of an epoch, and how much of it is over, in blocks."""


def check_address(address: str) -> bytes:
    """Return an address as the bytes of a commitment.

    Raises:
        ConfigError: it has none or more than 128 bytes, or something that cannot be printed.
    """
    data = address.encode(errors="replace")
    if not 1 <= len(data) <= MAX_ADDRESS_BYTES:
        raise ConfigError(f"an address must have 1..{MAX_ADDRESS_BYTES} bytes on Bittensor, got {len(data)}")
    if not address.isprintable():
        raise ConfigError("an address must have printable characters only, for others could not read it")
    return data


def address_of(record: Any) -> str:
    """Return the address in a commitment; empty if it holds anything else, whatever that is.

    Args:
        record: of the chain; a dict whose "info" has a list of "fields", such as {"Raw3": "0x616263"}.
    """
    info = record.get("info") if isinstance(record, dict) else None
    fields = info.get("fields") if isinstance(info, dict) else None
    if not isinstance(fields, (list, tuple)) or len(fields) != 1 or not isinstance(fields[0], dict):
        return ""
    ((variant, value),) = fields[0].items() if len(fields[0]) == 1 else (("", None),)
    if not variant.startswith("Raw") or not isinstance(value, str):
        return ""
    try:
        address = bytes.fromhex(value.removeprefix("0x")).decode()
    except ValueError:
        return ""
    return address if address.isprintable() and len(value) <= 2 + 2 * MAX_ADDRESS_BYTES else ""


class OwnCommitment:
    """What the own hotkey has committed. Belongs to the event loop of its connection."""

    def __init__(self, subtensor: Subtensor, signer: SdkSigner, *, request_s: float, submit_s: float) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            signer: the own hotkey.
            request_s: seconds in which the chain must answer.
            submit_s: seconds in which a commitment must be in a block.
        """
        self._subtensor, self._signer = subtensor, signer
        self._request_s, self._submit_s = request_s, submit_s

    async def publish(self, data: bytes) -> None:
        """Commit to an address, if the chain does not say so already. The hotkey is registered.

        Raises:
            ChainError: the chain does not answer, or refuses.
        """
        subtensor, params = self._subtensor, [self._subtensor.netuid, self._signer.ss58_address]
        asked = subtensor.client.query(COMMITMENTS, params)
        known = await subtensor.ask(asked, "cannot read the own commitment", self._request_s)
        if address_of(known) == data.decode():
            return
        try:
            await subtensor.ask(self._submit(data), "the address was not committed", self._submit_s)
        except AnswerError as error:
            if error.name != QUOTA_REFUSAL:
                raise
            wait = await self._blocks_to_next_epoch()
            raise ChainError(f"{error}; the quota of this hotkey is used up, try again in {wait} blocks") from error

    async def _submit(self, data: bytes) -> None:
        call = bt.calls.Commitments.set_commitment(
            netuid=self._subtensor.netuid, info={"fields": [[{f"Raw{len(data)}": f"0x{data.hex()}"}]]}
        )
        result = await self._subtensor.client.submit_call(
            call, self._signer, signer="hotkey", wait_for_finalization=False
        )
        result.raise_for_failure()

    async def _blocks_to_next_epoch(self) -> int:
        subtensor, left = self._subtensor, []
        for item in (TEMPO, SINCE_EPOCH):
            asked = subtensor.client.query(item, [subtensor.netuid])
            left.append(int(await subtensor.ask(asked, "cannot read the length of an epoch", self._request_s) or 0))
        return max(1, left[0] - left[1])
