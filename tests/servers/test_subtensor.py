"""What is written to the fake chain through the bittensor SDK is read back through it, here and from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import bittensor as bt
import pytest
from bittensor.error_map import ErrorCode
from bittensor.result import ConnectionNotReady

from tests.servers.subtensor import GENESIS_MS, FakeSubtensor
from tests.servers.subtensor_clients import client_of, commit_call, connected, keys
from tests.servers.subtensor_register import Register
from tests.servers.subtensor_remote import RemoteSubstrate
from tests.servers.subtensor_server import serving
from tests.servers.subtensor_substrate import FakeSubstrate, WireSubstrate

T = TypeVar("T")

TIMEOUT_S = 20.0

ALICE, BOB = keys("Alice"), keys("Bob")


class Chain:
    """A fake, the hand on its subnet, and connections to it."""

    def __init__(self, fake: FakeSubtensor, substrate: Callable[[], WireSubstrate]) -> None:
        self.fake, self.substrate, self.register = fake, substrate, Register(fake)

    def run(self, work: Callable[[bt.Client], Awaitable[T]]) -> T:
        """Run something with a connected client."""

        async def with_client() -> T:
            async with connected(self.substrate()) as client:
                return await work(client)

        return asyncio.run(asyncio.wait_for(with_client(), TIMEOUT_S))

    def commit(self, wallet: Any, data: bytes) -> Any:
        return self.run(lambda client: client.submit_call(commit_call(data), wallet, signer="hotkey"))

    def set_weights(self, weights: dict[int, float], version_key: int = 0) -> Any:
        intent = bt.SetWeights(netuid=3, weights=weights, version_key=version_key)
        return self.run(lambda client: client.execute(intent, ALICE))


@pytest.fixture(params=["in process", "remote"])
def chain(request: pytest.FixtureRequest) -> Iterator[Chain]:
    fake = FakeSubtensor()
    if request.param == "in process":
        yield Chain(fake, lambda: FakeSubstrate(fake))
    else:
        with serving(fake) as address:
            yield Chain(fake, lambda: RemoteSubstrate(address))
    assert fake.link.num_open == 0


@pytest.fixture
def voting(chain: Chain) -> Chain:
    """Return a chain on which Alice may weigh two others at once."""
    chain.register.register_hotkey(ALICE.address, stake=1000.0, validator_permit=True)
    for name in ("Bob", "Charlie"):
        chain.register.register_hotkey(keys(name).address)
    chain.fake.mine(100)
    return chain


def test_timestamps_follow_the_blocks(chain: Chain) -> None:
    chain.fake.mine(1, seconds=30.5)

    async def read(client: bt.Client) -> tuple[float, float, int, float]:
        before, now = await client.timestamp(100), await client.timestamp()
        return before.timestamp(), now.timestamp(), await client.block(), await client.block_time()

    assert chain.run(read) == (GENESIS_MS / 1000 + 1200, GENESIS_MS / 1000 + 1230.5, 101, 12.0)


def test_a_block_that_is_not_there_yet_has_no_timestamp(chain: Chain) -> None:
    with pytest.raises(bt.ChainError, match="no block at height 101"):
        chain.run(lambda client: client.timestamp(101))


def test_the_metagraph_shows_who_is_registered(chain: Chain) -> None:
    uid = chain.register.register_hotkey(ALICE.address, coldkey=BOB.address, stake=1234.5, validator_permit=True)

    metagraph = chain.run(lambda client: client.subnets.metagraph(3))

    assert metagraph is not None
    neuron = metagraph.neurons[uid]
    assert (neuron.hotkey, neuron.coldkey, neuron.validator_permit) == (ALICE.address, BOB.address, True)
    assert (neuron.total_stake.rao / 1e9, neuron.block_at_registration, metagraph.block) == (1234.5, 100, 100)


def test_an_unknown_subnet_has_no_metagraph(chain: Chain) -> None:
    assert chain.run(lambda client: client.subnets.metagraph(4)) is None


def test_an_older_block_shows_the_neurons_of_then(chain: Chain) -> None:
    chain.register.register_hotkey(ALICE.address)
    chain.fake.mine()
    chain.register.replace(0, BOB.address)

    async def read(client: bt.Client) -> list[list[str]]:
        snapshots = [await client.at(block) for block in (99, 100, 101)]
        graphs = [await snapshot.subnets.metagraph(3) for snapshot in snapshots]
        return [graph.hotkeys for graph in graphs if graph is not None]

    assert chain.run(read) == [[], [ALICE.address], [BOB.address]]


def test_a_commitment_is_read_back_with_its_block(chain: Chain) -> None:
    chain.register.register_hotkey(BOB.address)
    chain.register.register_hotkey(ALICE.address)
    data = bytes(range(128, 256))

    result = chain.commit(ALICE, data)
    one = chain.run(lambda client: client.read("commitment", netuid=3, hotkey_ss58=ALICE.address))
    everyone = chain.run(lambda client: client.subnets.commitments(3))

    assert result.success
    assert (one.data, one.block) == ("0x" + data.hex(), 101)
    assert [(hotkey, each.uid, each.block) for hotkey, each in everyone.items()] == [(ALICE.address, 1, 101)]


def test_an_older_block_shows_the_commitments_of_then(chain: Chain) -> None:
    chain.register.register_hotkey(ALICE.address)
    for data in (b"first", b"second"):
        chain.commit(ALICE, data)

    async def read(client: bt.Client) -> list[str | None]:
        snapshots = [await client.at(block) for block in (100, 101, 102)]
        found = [(await snapshot.subnets.commitments(3))[ALICE.address] for snapshot in snapshots]
        return [commitment.data if commitment else None for commitment in found]

    assert chain.run(read) == [None, "first", "second"]


def test_a_hotkey_that_is_not_registered_may_not_commit(chain: Chain) -> None:
    error = chain.commit(ALICE, b"here I am").error

    assert (error.name, error.code) == ("AccountNotAllowedCommit", ErrorCode.NOT_AUTHORIZED)


def test_a_hotkey_may_commit_3100_bytes_an_epoch_and_at_least_100_count(chain: Chain) -> None:
    chain.register.register_hotkey(ALICE.address)

    small = [chain.commit(ALICE, b"x").success for _ in range(31)]
    refused = chain.commit(ALICE, b"x")
    chain.fake.mine(360)
    again = chain.commit(ALICE, b"x")

    assert all(small)
    assert (refused.error.name, refused.error.code) == ("SpaceLimitExceeded", ErrorCode.LIMIT_EXCEEDED)
    assert again.success


def test_a_field_holds_at_most_128_bytes(chain: Chain) -> None:
    chain.register.register_hotkey(ALICE.address)

    with pytest.raises(ValueError, match="Raw129"):
        chain.commit(ALICE, bytes(129))


def test_the_uid_of_a_hotkey_is_found(chain: Chain) -> None:
    chain.register.register_hotkey(BOB.address)
    chain.register.register_hotkey(ALICE.address)

    async def read(client: bt.Client) -> list[int | None]:
        return [await client.read("uid", hotkey_ss58=who.address, netuid=3) for who in (ALICE, BOB, keys("nobody"))]

    assert chain.run(read) == [1, 0, None]


def test_a_hotkey_that_lost_its_uid_leaves_its_commitment(chain: Chain) -> None:
    chain.register.register_hotkey(ALICE.address)
    chain.commit(ALICE, b"still here")
    chain.register.deregister(ALICE.address)

    metagraph = chain.run(lambda client: client.subnets.metagraph(3))

    assert metagraph is not None
    assert ALICE.address not in metagraph.hotkeys
    left_behind = metagraph.unregistered_commitments[ALICE.address]
    assert left_behind is not None
    assert left_behind.data == "still here"


def test_weights_are_read_back(voting: Chain) -> None:
    assert voting.set_weights({1: 3.0, 2: 1.0}).success

    weights = voting.run(lambda client: client.weights.weights(3))

    assert {uid: {to: round(part, 4) for to, part in row.items()} for uid, row in weights.items()} == {
        0: {1: 0.75, 2: 0.25}
    }
    assert voting.register.subnet.neurons[0].last_update == 201


def test_weights_are_clipped_and_counted_by_the_subnets_rules(voting: Chain) -> None:
    voting.register.change_rules(max_weight_limit=65535 * 6 // 10, min_allowed_weights=2)

    assert voting.set_weights({1: 9.0, 2: 1.0}).success
    weights = voting.run(lambda client: client.weights.weights(3))
    voting.fake.mine(100)
    with pytest.raises(bt.ChainError, match="at least 2"):
        voting.set_weights({1: 1.0})

    assert weights[0][1] == pytest.approx(0.6, abs=1e-4)


def test_weights_too_soon_are_stopped_before_they_are_signed(voting: Chain) -> None:
    voting.set_weights({1: 1.0})
    voting.fake.mine(99)

    with pytest.raises(bt.ChainError, match="Retry in ~1 blocks") as raised:
        voting.set_weights({1: 1.0})
    voting.fake.mine()

    assert raised.value.code is ErrorCode.RATE_LIMITED
    assert voting.set_weights({1: 1.0}).success


def test_weights_too_soon_get_into_no_block_whoever_sends_them(voting: Chain) -> None:
    call = bt.calls.SubtensorModule.set_weights(netuid=3, dests=[1], weights=[1], version_key=0)
    for_alice = [voting.run(lambda client: client.submit_call(call, ALICE, signer="hotkey")) for _ in range(2)]

    assert [result.success for result in for_alice] == [True, False]
    error = for_alice[1].error
    assert error is not None
    assert (error.name, error.code, for_alice[1].extrinsic_id) == ("RateLimitExceeded", ErrorCode.RATE_LIMITED, None)


def test_weights_of_an_old_version_are_refused(voting: Chain) -> None:
    voting.register.change_rules(weights_version_key=7)

    result = voting.set_weights({1: 1.0}, version_key=6)

    assert (result.error.name, result.error.code) == ("IncorrectWeightVersionKey", ErrorCode.INVALID_ARGUMENT)
    assert voting.set_weights({1: 1.0}, version_key=7).success


def test_weights_need_registration_stake_and_a_permit(voting: Chain) -> None:
    voting.register.change_neuron(ALICE.address, validator_permit=False)
    without_permit = voting.set_weights({1: 1.0})
    voting.register.change_rules(min_stake_rao=10**13)
    without_stake = voting.set_weights({1: 1.0})
    voting.register.deregister(ALICE.address)
    with pytest.raises(bt.ChainError, match="not registered") as raised:
        voting.set_weights({1: 1.0})

    assert without_permit.error.name == "NeuronNoValidatorPermit"
    assert (without_stake.error.name, without_stake.extrinsic_id) == ("StakeAmountTooLow", None)
    assert raised.value.code is ErrorCode.NOT_REGISTERED


def test_sealed_weights_are_kept_apart(voting: Chain) -> None:
    voting.register.change_rules(commit_reveal=True)

    result = voting.set_weights({1: 1.0})
    sealed = voting.run(lambda client: client.weights.timelocked_weight_commits(3))

    assert result.success
    ((entry,),) = sealed.values()
    assert (entry["hotkey"], entry["commit_block"]) == (ALICE.address, 201)
    assert entry["reveal_round"] == result.data["reveal_round"]
    assert voting.run(lambda client: client.weights.weights(3)) == {}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SettingWeightsTooFast", ErrorCode.RATE_LIMITED),
        ("NotEnoughStakeToSetWeights", ErrorCode.INSUFFICIENT_BALANCE),
        ("SpaceLimitExceeded", ErrorCode.LIMIT_EXCEEDED),
    ],
)
def test_submissions_are_refused_by_order_as_often_as_ordered(voting: Chain, name: str, code: ErrorCode) -> None:
    voting.fake.refuse(name, call="set_commitment", times=2)

    results = [voting.commit(ALICE, b"again") for _ in range(3)]

    assert [result.success for result in results] == [False, False, True]
    assert [(result.error.name, result.error.code) for result in results[:2]] == [(name, code)] * 2
    assert voting.set_weights({1: 1.0}).success


def test_a_call_signed_by_another_key_is_refused(voting: Chain) -> None:
    class Impostor:
        """Bob's key under Alice's address."""

        ss58_address, public_key, crypto_type = ALICE.address, ALICE.hotkey.public_key, 1

        def sign(self, payload: bytes) -> bytes:
            return BOB.hotkey.sign(payload)

    assert voting.commit(Impostor(), b"mine").error.name == "BadProof"


def test_a_client_that_is_not_connected_cannot_read(chain: Chain) -> None:
    with pytest.raises(ConnectionNotReady):
        asyncio.run(client_of(chain.substrate()).block())


def test_an_old_runtime_takes_only_plain_weights() -> None:
    fake = FakeSubtensor(runtime="old")
    chain = Chain(fake, lambda: FakeSubstrate(fake))
    chain.register.register_hotkey(ALICE.address, stake=1.0, validator_permit=True)
    fake.mine(100)

    with pytest.raises(ValueError, match="SubnetEpochConsensus not found"):
        chain.set_weights({0: 1.0})
    call = bt.calls.SubtensorModule.set_weights(netuid=3, dests=[0], weights=[1], version_key=0)
    result, again = (chain.run(lambda client: client.submit_call(call, ALICE, signer="hotkey")) for _ in range(2))

    assert result.success
    assert again.error is not None
    assert again.error.name == "SettingWeightsTooFast"
    assert chain.run(lambda client: client.weights.weights(3)) == {0: {0: 1.0}}
