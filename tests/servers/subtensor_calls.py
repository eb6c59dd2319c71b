"""What the fake chain does with a call: checks it as the pallets do, and returns the state after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.servers.subtensor_state import (
    BYTES_AN_EPOCH,
    MIN_BYTES_A_COMMITMENT,
    ChainRefusal,
    Commitment,
    NotInRuntime,
    SealedWeights,
    State,
    Subnet,
)

U16_MAX = 65535

MAX_RAW_BYTES = 128  # the longest Raw variant of a commitment's field


@dataclass(frozen=True)
class Call:
    """One call, where it lands and who signed it."""

    name: str
    params: Mapping[str, Any]
    signer: str
    block: int


class PoolRefusal(ChainRefusal):
    """The transaction pool turns a call away: it gets into no block."""


def check_call(name: str, params: Mapping[str, Any], *, is_old: bool) -> None:
    """Check that a runtime has a call and can encode its parameters.

    Raises:
        NotInRuntime: it has not, or cannot.
    """
    if name not in _CALLS or (is_old and name in _NEW_CALLS):
        raise NotInRuntime(f"call {name} not found in this runtime")
    if name == "Commitments.set_commitment":
        for field in _fields(params):
            for variant, value in field.items():
                num_bytes = len(_raw(value))
                if variant != f"Raw{num_bytes}" or num_bytes > MAX_RAW_BYTES:
                    raise NotInRuntime(f"no variant named {variant} for {num_bytes} bytes")


def check_in_pool(call: Call, state: State, *, is_old: bool) -> None:
    """Check what is checked before a call gets into a block.

    Raises:
        PoolRefusal: too little stake for weights, or (newer runtimes) too early.
    """
    if call.name == "Commitments.set_commitment":
        return
    subnet = _subnet(call, state)
    uid = subnet.uid(call.signer)
    stake = 0 if uid is None else subnet.neurons[uid].stake_rao
    if stake < subnet.rules.min_stake_rao:
        raise PoolRefusal("Custom error: 1", "StakeAmountTooLow")
    if not is_old and uid is not None and _is_too_early(subnet, uid, call.block):
        raise PoolRefusal("Custom error: 6", "RateLimitExceeded")


def apply_call(call: Call, state: State) -> State:
    """Return the state after a call.

    Raises:
        ChainRefusal: the pallet refuses it; its `name` is the pallet's.
    """
    return state.with_subnet(_CALLS[call.name](call, _subnet(call, state)))


def _subnet(call: Call, state: State) -> Subnet:
    subnet = state.subnets.get(call.params["netuid"])
    if subnet is None:
        raise ChainRefusal("the subnet does not exist", "SubnetNotExists")
    return subnet


def _commit(call: Call, subnet: Subnet) -> Subnet:
    if subnet.uid(call.signer) is None:
        raise ChainRefusal("the account may not commit", "AccountNotAllowedCommit")
    fields = _fields(call.params)
    num_bytes = max(MIN_BYTES_A_COMMITMENT, sum(len(_raw(value)) for field in fields for value in field.values()))
    epoch, used = subnet.used_bytes.get(call.signer, (-1, 0))
    used = num_bytes + (used if epoch == subnet.epoch(call.block) else 0)
    if used > BYTES_AN_EPOCH:
        raise ChainRefusal("space limit exceeded", "SpaceLimitExceeded")
    return dataclasses.replace(
        subnet,
        commitments={**subnet.commitments, call.signer: Commitment(call.block, tuple(fields))},
        used_bytes={**subnet.used_bytes, call.signer: (subnet.epoch(call.block), used)},
    )


def _set_weights(call: Call, subnet: Subnet) -> Subnet:
    uid = _check_weigher(call, subnet)
    if subnet.rules.commit_reveal:
        raise ChainRefusal("this subnet takes only sealed weights", "CommitRevealEnabled")
    if call.params["version_key"] < subnet.rules.weights_version_key:
        raise ChainRefusal("the version key is too old", "IncorrectWeightVersionKey")
    pairs = list(zip(call.params["dests"], call.params["weights"], strict=True))
    _check_pairs(subnet, uid, pairs)
    top = max(weight for _, weight in pairs)
    row = tuple((to, weight * U16_MAX // top) for to, weight in pairs)  # the pallet stores them upscaled
    return dataclasses.replace(subnet, weights={**subnet.weights, uid: row}).with_neuron(uid, last_update=call.block)


def _seal_weights(call: Call, subnet: Subnet) -> Subnet:
    uid = _check_weigher(call, subnet)
    if not subnet.rules.commit_reveal:
        raise ChainRefusal("this subnet takes only plain weights", "CommitRevealDisabled")
    sealed = SealedWeights(
        epoch=subnet.epoch(call.block),
        hotkey=call.signer,
        block=call.block,
        ciphertext="0x" + bytes(call.params["commit"]).hex(),
        reveal_round=call.params["reveal_round"],
    )
    return dataclasses.replace(subnet, sealed=(*subnet.sealed, sealed)).with_neuron(uid, last_update=call.block)


def _check_weigher(call: Call, subnet: Subnet) -> int:
    uid = subnet.uid(call.signer)
    if uid is None:
        raise ChainRefusal("not registered", "HotKeyNotRegisteredInSubNet")
    if subnet.neurons[uid].stake_rao < subnet.rules.min_stake_rao:
        raise ChainRefusal("too little stake", "NotEnoughStakeToSetWeights")
    if _is_too_early(subnet, uid, call.block):
        raise ChainRefusal("too early", "SettingWeightsTooFast")
    if not subnet.neurons[uid].validator_permit and call.params.get("dests") != [uid]:
        raise ChainRefusal("no permit", "NeuronNoValidatorPermit")
    return uid


def _check_pairs(subnet: Subnet, uid: int, pairs: list[tuple[int, int]]) -> None:
    if any(to >= len(subnet.neurons) for to, _ in pairs):
        raise ChainRefusal("an uid is not registered", "UidVecContainInvalidOne")
    if [to for to, _ in pairs] == [uid]:
        return
    if len(pairs) < subnet.rules.min_allowed_weights:
        raise ChainRefusal("too few weights", "WeightVecLengthIsLow")
    if max(value for _, value in pairs) * U16_MAX > subnet.rules.max_weight_limit * sum(value for _, value in pairs):
        raise ChainRefusal("a weight is too large", "MaxWeightExceeded")


def _is_too_early(subnet: Subnet, uid: int, block: int) -> bool:
    last = subnet.neurons[uid].last_update
    return last > 0 and block - last < subnet.rules.weights_rate_limit


def _fields(params: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the fields of a commitment, which a call holds in a list of one list."""
    (fields,) = params["info"]["fields"]
    return fields


def _raw(value: str) -> bytes:
    return bytes.fromhex(value.removeprefix("0x"))


_CALLS: Mapping[str, Callable[[Call, Subnet], Subnet]] = {
    "Commitments.set_commitment": _commit,
    "SubtensorModule.set_weights": _set_weights,
    "SubtensorModule.set_mechanism_weights": _set_weights,
    "SubtensorModule.commit_timelocked_mechanism_weights": _seal_weights,
}

_NEW_CALLS = frozenset({"SubtensorModule.set_mechanism_weights", "SubtensorModule.commit_timelocked_mechanism_weights"})
