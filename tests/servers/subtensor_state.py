"""What a fake of a subtensor chain knows at one block: frozen values, replaced as a whole when something changes.

Amounts are in rao (10 ** -9 of a token), weights are u16, times in milliseconds since 1970.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RAO = 10**9

BYTES_AN_EPOCH = 3100  # MaxSpace of pallet commitments: what a hotkey may commit in an epoch

MIN_BYTES_A_COMMITMENT = 100  # set_commitment of pallet commitments counts at least so many


class ChainRefusal(Exception):  # noqa: N818 - refusals are answers of a chain, not faults of the fake
    """The chain says no: `name` is its error's, None where it has none."""

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.message, self.name = message, name


class NotInRuntime(ChainRefusal):
    """The connected runtime does not have this storage item, call or runtime API."""


class LinkDown(ChainRefusal):
    """There is no connection to the chain."""


@dataclass(frozen=True)
class Neuron:
    """A registered hotkey. Its uid is its place in the subnet's list."""

    hotkey: str
    coldkey: str
    stake_rao: int
    validator_permit: bool
    block_at_registration: int
    last_update: int = 0
    incentive: int = 0


@dataclass(frozen=True)
class Commitment:
    """What a hotkey committed last, and in which block."""

    block: int
    fields: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class SealedWeights:
    """Weights nobody can read yet."""

    epoch: int
    hotkey: str
    block: int
    ciphertext: str
    reveal_round: int


@dataclass(frozen=True)
class Rules:
    """Hyperparameters of a subnet; the defaults are those of a new one."""

    tempo: int = 360
    weights_rate_limit: int = 100
    min_allowed_weights: int = 1
    max_weight_limit: int = 65535
    weights_version_key: int = 0
    commit_reveal: bool = False
    reveal_period_epochs: int = 1
    min_stake_rao: int = 0


@dataclass(frozen=True)
class Subnet:
    """One subnet at one block."""

    netuid: int
    rules: Rules = Rules()
    neurons: tuple[Neuron, ...] = ()
    commitments: Mapping[str, Commitment] = field(default_factory=dict)
    weights: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    sealed: tuple[SealedWeights, ...] = ()
    used_bytes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """For each hotkey the epoch it committed in last, and how many bytes in it."""

    def uid(self, hotkey: str) -> int | None:
        """Return the uid of a hotkey, None if it is not registered."""
        return next((uid for uid, neuron in enumerate(self.neurons) if neuron.hotkey == hotkey), None)

    def epoch(self, block: int) -> int:
        """Return the number of the epoch that a block is in."""
        return block // self.rules.tempo

    def with_neuron(self, uid: int, **changes: Any) -> Subnet:
        """Return the subnet with one neuron changed."""
        neurons = list(self.neurons)
        neurons[uid] = dataclasses.replace(neurons[uid], **changes)
        return dataclasses.replace(self, neurons=tuple(neurons))


@dataclass(frozen=True)
class State:
    """All subnets at one block, and how many extrinsics each account has signed."""

    subnets: Mapping[int, Subnet]
    nonces: Mapping[str, int] = field(default_factory=dict)

    def with_subnet(self, subnet: Subnet) -> State:
        """Return the state with one subnet changed."""
        return dataclasses.replace(self, subnets={**self.subnets, subnet.netuid: subnet})

    def with_nonce_used(self, address: str) -> State:
        """Return the state after an extrinsic of an account."""
        return dataclasses.replace(self, nonces={**self.nonces, address: self.nonces.get(address, 0) + 1})


@dataclass(frozen=True)
class Block:
    """One block and the state after it."""

    number: int
    hash: str
    parent_hash: str
    timestamp_ms: int
    state: State
    extrinsics: tuple[dict[str, Any], ...] = ()

    def header(self) -> dict[str, Any]:
        """Return what a subscription gets of it."""
        return {"number": self.number, "hash": self.hash, "parentHash": self.parent_hash}


def block_hash(parent_hash: str, number: int, timestamp_ms: int) -> str:
    """Return the 32 bytes of a block's hash as 0x and hexadecimal digits."""
    return "0x" + hashlib.blake2b(f"{parent_hash}/{number}/{timestamp_ms}".encode(), digest_size=32).hexdigest()
