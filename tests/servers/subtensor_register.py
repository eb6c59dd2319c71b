"""The hand on one subnet of the fake chain: who is registered, and by which rules."""

from __future__ import annotations

import dataclasses
from typing import Any

# A compiled module, without stubs for the type checker.
from bittensor_core import Keypair  # pyright: ignore[reportAttributeAccessIssue]

from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_state import RAO, Neuron, Subnet


class Register:
    """Changes one subnet in the head block."""

    def __init__(self, fake: FakeSubtensor, netuid: int = 3) -> None:
        self._fake, self._netuid = fake, netuid

    @property
    def subnet(self) -> Subnet:
        """The subnet as it is at the head."""
        return self._fake.head.state.subnets[self._netuid]

    def register_hotkey(
        self, hotkey: str, *, coldkey: str | None = None, stake: float = 0.0, validator_permit: bool = False
    ) -> int:
        """Register a hotkey at the next uid, which is returned; `stake` is in whole tokens.

        As on the chain, the registration counts as its last update: the rate limit for weights runs from here.
        """
        neuron = self._neuron(hotkey, coldkey or hotkey, stake, validator_permit)
        self._fake.amend(self._netuid, lambda subnet: dataclasses.replace(subnet, neurons=(*subnet.neurons, neuron)))
        return len(self.subnet.neurons) - 1

    def replace(self, uid: int, hotkey: str, *, stake: float = 0.0, validator_permit: bool = False) -> None:
        """Give an uid to another hotkey, as the chain does when the subnet is full; commitments stay behind."""
        neuron = self._neuron(hotkey, hotkey, stake, validator_permit)

        def change(subnet: Subnet) -> Subnet:
            neurons = [*subnet.neurons[:uid], neuron, *subnet.neurons[uid + 1 :]]
            weights = {by: row for by, row in subnet.weights.items() if by != uid}
            return dataclasses.replace(subnet, neurons=tuple(neurons), weights=weights)

        self._fake.amend(self._netuid, change)

    def deregister(self, hotkey: str) -> None:
        """Take the uid from a hotkey: a stranger gets it, since the chain leaves none empty.

        Raises:
            ValueError: the hotkey is not registered.
        """
        uid = self.subnet.uid(hotkey)
        if uid is None:
            raise ValueError(f"{hotkey} is not registered on subnet {self._netuid}")
        self.replace(uid, Keypair.create_from_uri(f"//stranger/{self._fake.head.number}/{uid}").ss58_address)

    def change_neuron(self, hotkey: str, **changes: Any) -> None:
        """Change fields of a `Neuron`, such as `stake_rao` and `validator_permit`."""
        self._fake.amend(self._netuid, lambda subnet: subnet.with_neuron(subnet.uid(hotkey) or 0, **changes))

    def change_rules(self, **changes: Any) -> None:
        """Change `Rules` of the subnet."""
        self._fake.amend(
            self._netuid,
            lambda subnet: dataclasses.replace(subnet, rules=dataclasses.replace(subnet.rules, **changes)),
        )

    def _neuron(self, hotkey: str, coldkey: str, stake: float, validator_permit: bool) -> Neuron:
        number = self._fake.head.number
        return Neuron(hotkey, coldkey, round(stake * RAO), validator_permit, number, last_update=number)
