"""What the fake chain answers to reads: storage items, maps, runtime calls and constants, as plain decoded values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.servers.subtensor_state import Block, Commitment, NotInRuntime, Subnet

NEW_RUNTIME_ONLY = frozenset(
    {
        "SubtensorModule.SubnetEpochConsensus",
        "SubtensorModule.LastEpochBlock",
        "SubtensorModule.PendingEpochAt",
        "SubtensorModule.SubnetEpochIndex",
    }
)
"""What intents ask for and older runtimes do not have."""


def read_item(block: Block, name: str, params: list[Any], *, is_old: bool) -> Any:
    """Return one storage item, `name` being "Pallet.Item".

    Raises:
        NotInRuntime: the runtime has no such item.
    """
    _check_item(name, is_old)
    if name in _PLAIN:
        return _PLAIN[name](block)
    if name == "System.Account":
        return {"nonce": block.state.nonces.get(params[0], 0), "data": {"free": 10**12, "reserved": 0, "frozen": 0}}
    subnet = block.state.subnets.get(params[0])
    if name in _BY_SUBNET:
        return None if subnet is None else _BY_SUBNET[name](block, subnet)
    entries = dict(_MAPS[name](block, subnet)) if subnet is not None else {}
    return entries.get(params[1])


def read_map(block: Block, name: str, params: list[Any], *, is_old: bool) -> list[list[Any]]:
    """Return a storage map as [key, value] pairs.

    Raises:
        NotInRuntime: the runtime has no such map.
    """
    _check_item(name, is_old)
    if name == "SubtensorModule.TokenSymbol":
        return []  # a subnet without one: amounts are printed with its number
    if name in _BY_SUBNET:
        return [[netuid, _BY_SUBNET[name](block, subnet)] for netuid, subnet in sorted(block.state.subnets.items())]
    if name not in _MAPS:
        raise NotInRuntime(f"{name} is not a map")
    subnet = block.state.subnets.get(params[0])
    return [] if subnet is None else [[key, value] for key, value in _MAPS[name](block, subnet)]


def runtime_call(block: Block, name: str, params: list[Any]) -> Any:
    """Return the answer of a runtime API.

    Raises:
        NotInRuntime: the fake has no such API.
    """
    if name not in _RUNTIME_APIS:
        raise NotInRuntime(f"Runtime API Call '{name}' not found in registry")
    subnet = block.state.subnets.get(params[0])
    return None if subnet is None else _RUNTIME_APIS[name](block, subnet)


def _check_item(name: str, is_old: bool) -> None:
    known = name in _PLAIN or name in _BY_SUBNET or name in _MAPS or name in _SPECIAL
    if not known or (is_old and name in NEW_RUNTIME_ONLY):
        raise NotInRuntime(f"storage function {name} not found")


def _metagraph(block: Block, subnet: Subnet) -> dict[str, Any]:
    neurons, tempo = subnet.neurons, subnet.rules.tempo
    owner = neurons[0] if neurons else None
    return {
        "netuid": subnet.netuid,
        "name": list(b"fake"),
        "symbol": [],
        "block": block.number,
        "tempo": tempo,
        "last_step": block.number - block.number % tempo,
        "blocks_since_last_step": block.number % tempo,
        "owner_hotkey": owner.hotkey if owner else "",
        "owner_coldkey": owner.coldkey if owner else "",
        "network_registered_at": 0,
        "num_uids": len(neurons),
        "max_uids": 256,
        "hotkeys": [neuron.hotkey for neuron in neurons],
        "coldkeys": [neuron.coldkey for neuron in neurons],
        "active": [True] * len(neurons),
        "validator_permit": [neuron.validator_permit for neuron in neurons],
        "last_update": [neuron.last_update for neuron in neurons],
        "block_at_registration": [neuron.block_at_registration for neuron in neurons],
        "incentives": [neuron.incentive for neuron in neurons],
        "alpha_stake": [neuron.stake_rao for neuron in neurons],
        "tao_stake": [0] * len(neurons),
        "total_stake": [neuron.stake_rao for neuron in neurons],
    }


def _neurons_lite(block: Block, subnet: Subnet) -> list[dict[str, Any]]:
    return [
        {
            "uid": uid,
            "hotkey": neuron.hotkey,
            "coldkey": neuron.coldkey,
            "active": True,
            "validator_permit": neuron.validator_permit,
            "last_update": neuron.last_update,
            "stake": [[neuron.coldkey, neuron.stake_rao]],
        }
        for uid, neuron in enumerate(subnet.neurons)
    ]


def _committed(commitment: Commitment) -> dict[str, Any]:
    return {"block": commitment.block, "deposit": 0, "info": {"fields": [dict(each) for each in commitment.fields]}}


def _sealed(block: Block, subnet: Subnet) -> list[tuple[int, Any]]:
    epochs = sorted({each.epoch for each in subnet.sealed})
    return [
        (epoch, [[s.hotkey, s.block, s.ciphertext, s.reveal_round] for s in subnet.sealed if s.epoch == epoch])
        for epoch in epochs
    ]


_SPECIAL = frozenset({"SubtensorModule.TokenSymbol", "System.Account"})

_PLAIN: Mapping[str, Callable[[Block], Any]] = {
    "Timestamp.Now": lambda block: block.timestamp_ms,
    "System.Number": lambda block: block.number,
    "MevShield.NextKey": lambda block: None,
}

_BY_SUBNET: Mapping[str, Callable[[Block, Subnet], Any]] = {
    "SubtensorModule.NetworksAdded": lambda block, subnet: True,
    "SubtensorModule.SubnetworkN": lambda block, subnet: len(subnet.neurons),
    "SubtensorModule.Tempo": lambda block, subnet: subnet.rules.tempo,
    "SubtensorModule.WeightsSetRateLimit": lambda block, subnet: subnet.rules.weights_rate_limit,
    "SubtensorModule.WeightsVersionKey": lambda block, subnet: subnet.rules.weights_version_key,
    "SubtensorModule.MinAllowedWeights": lambda block, subnet: subnet.rules.min_allowed_weights,
    "SubtensorModule.MaxWeightsLimit": lambda block, subnet: subnet.rules.max_weight_limit,
    "SubtensorModule.CommitRevealWeightsEnabled": lambda block, subnet: subnet.rules.commit_reveal,
    "SubtensorModule.RevealPeriodEpochs": lambda block, subnet: subnet.rules.reveal_period_epochs,
    "SubtensorModule.LastUpdate": lambda block, subnet: [neuron.last_update for neuron in subnet.neurons],
    "SubtensorModule.ValidatorPermit": lambda block, subnet: [neuron.validator_permit for neuron in subnet.neurons],
    "SubtensorModule.SubnetEpochConsensus": lambda block, subnet: "Yuma",
    "SubtensorModule.LastEpochBlock": lambda block, subnet: block.number - block.number % subnet.rules.tempo,
    "SubtensorModule.BlocksSinceLastStep": lambda block, subnet: block.number % subnet.rules.tempo,
    "SubtensorModule.SubnetEpochIndex": lambda block, subnet: subnet.epoch(block.number),
    "SubtensorModule.PendingEpochAt": lambda block, subnet: 0,
}

_MAPS: Mapping[str, Callable[[Block, Subnet], list[tuple[Any, Any]]]] = {
    "SubtensorModule.Uids": lambda block, subnet: [(neuron.hotkey, uid) for uid, neuron in enumerate(subnet.neurons)],
    "SubtensorModule.Keys": lambda block, subnet: [(uid, neuron.hotkey) for uid, neuron in enumerate(subnet.neurons)],
    "SubtensorModule.Weights": lambda block, subnet: [
        (uid, [list(pair) for pair in row]) for uid, row in sorted(subnet.weights.items())
    ],
    "SubtensorModule.TimelockedWeightCommits": _sealed,
    "Commitments.CommitmentOf": lambda block, subnet: [
        (hotkey, _committed(commitment)) for hotkey, commitment in subnet.commitments.items()
    ],
    "Commitments.RevealedCommitments": lambda block, subnet: [],
}

_RUNTIME_APIS: Mapping[str, Callable[[Block, Subnet], Any]] = {
    "SubnetInfoRuntimeApi.get_metagraph": _metagraph,
    "NeuronInfoRuntimeApi.get_neurons_lite": _neurons_lite,
    "SubnetInfoRuntimeApi.get_next_epoch_start_block": lambda block, subnet: (
        block.number - block.number % subnet.rules.tempo + subnet.rules.tempo
    ),
}
