"""Weights of a validator: what the chain refuses for now is set later, and nothing stops the validator."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.block_clock import BlockClock
from templar_pl.errors import ChainError
from templar_pl.units import Uid
from tests.chain.nodes import wait_until
from tests.chain.subnets import CountingSubstrate, Subnet
from tests.servers.subtensor_substrate import ComposedCall

ONE, TWO = Uid(0), Uid(1)


@pytest.fixture
def subnet(tmp_path: Path) -> Iterator[Subnet]:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.1)
    subnet.join("one")
    subnet.join("two")
    yield subnet
    subnet.fake.link.mend()
    subnet.close()


def weights_of(node: BittensorChain) -> dict[Uid, float]:
    return node.weights().get(ONE, {})


def test_weights_that_come_too_early_are_set_later_and_the_newest_win(
    subnet: Subnet, caplog: pytest.LogCaptureFixture
) -> None:
    subnet.register.change_rules(weights_rate_limit=30)
    node = subnet.opened("one")
    node.set_weights({ONE: 1.0})
    node.set_weights({TWO: 1.0})
    assert weights_of(node) == {}
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert all("weights were not set" in line and "they are tried again" in line for line in warnings)

    subnet.fake.mine(40)
    wait_until(lambda: weights_of(node) != {})

    assert weights_of(node) == {TWO: 1.0}
    assert subnet.asked.count("submit") == 1


def test_weights_are_tried_again_in_growing_pauses_with_one_warning(
    subnet: Subnet, caplog: pytest.LogCaptureFixture
) -> None:
    subnet.fake.refuse("NotEnoughStakeToSetWeights", times=3)
    node = subnet.opened("one")
    began = time.monotonic()
    node.set_weights({TWO: 1.0})
    assert time.monotonic() - began < 1.0
    with subnet.fake.mining(0.1):
        wait_until(lambda: weights_of(node) == {TWO: 1.0})

    # Pauses of 2, 4 and 8 blocks.
    assert time.monotonic() - began >= 14 * 0.1
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 1


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_first_refusal_after_an_outage_is_a_warning_and_further_ones_are_not(
    subnet: Subnet, caplog: pytest.LogCaptureFixture
) -> None:
    subnet.fake.refuse("NotEnoughStakeToSetWeights", times=2)
    clock = BlockClock()
    node = subnet.opened("one", clock=clock)
    subnet.fake.link.cut()
    wait_until(lambda: clock.is_lost)
    node.set_weights({TWO: 1.0})
    subnet.fake.mine(10)
    subnet.fake.link.mend()
    wait_until(lambda: not clock.is_lost)
    with subnet.fake.mining(0.1):
        wait_until(lambda: weights_of(node) == {TWO: 1.0})

    assert sum("weights were not set" in line for line in warnings_of(caplog)) == 1


def test_an_outage_does_not_lengthen_the_pause_after_a_refusal(subnet: Subnet) -> None:
    subnet.fake.refuse("NotEnoughStakeToSetWeights", times=1)
    clock = BlockClock()
    node = subnet.opened("one", clock=clock)
    subnet.fake.link.cut()
    wait_until(lambda: clock.is_lost)
    node.set_weights({TWO: 1.0})
    time.sleep(1.5)  # a dozen blocks, each of which the weights wait for the chain
    subnet.fake.mine(10)
    subnet.fake.link.mend()
    with subnet.fake.mining(0.1):
        wait_until(lambda: weights_of(node) == {TWO: 1.0}, 4.0)


class Finicky(CountingSubstrate):
    """A connection that finds fault with what an intent asks for, or does not know it."""

    def __init__(self, subnet: Subnet, words: str) -> None:
        super().__init__(subnet.fake, subnet.asked)
        self._words, self._is_first = words, True

    async def compose(self, call: tuple[str, str, dict[str, Any]]) -> ComposedCall:
        if self._is_first:
            self._is_first = False
            raise ValueError(self._words)
        return await super().compose(call)


@pytest.mark.parametrize(
    ("words", "num_refused"),
    [
        ("call SubtensorModule.set_mechanism_weights not found in this runtime", 0),
        ("storage function SubtensorModule.CommitRevealWeightsEnabled not found", 0),
        ("Runtime API Call 'SubnetInfoRuntimeApi.get_mechagraph' not found in registry", 0),
        ("weights must be above 0; key not found", 1),
    ],
)
def test_only_what_a_runtime_does_not_know_is_put_as_a_plain_call(
    subnet: Subnet, caplog: pytest.LogCaptureFixture, words: str, num_refused: int
) -> None:
    node = subnet.opened("one", open_substrate=lambda: Finicky(subnet, words))
    node.set_weights({TWO: 1.0})
    wait_until(lambda: weights_of(node) == {TWO: 1.0})

    assert sum(words in line for line in warnings_of(caplog)) == num_refused


def test_sealed_weights_are_committed(subnet: Subnet) -> None:
    subnet.register.change_rules(commit_reveal=True)
    node = subnet.opened("one")

    node.set_weights({TWO: 1.0})

    (sealed,) = subnet.register.subnet.sealed
    assert sealed.hotkey == subnet.signer("one").hotkey
    assert weights_of(node) == {}


def test_an_older_runtime_gets_the_plain_call(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, runtime="old")
    try:
        subnet.join("one")
        subnet.join("two")
        node = subnet.opened("one")
        node.set_weights({ONE: 1e-9, TWO: 3.0})
        assert weights_of(node) == {TWO: 1.0}
    finally:
        subnet.close()


@pytest.mark.parametrize(("own", "asked", "is_set"), [(None, 7, True), (7, 7, True), (9, 7, True), (6, 7, False)])
def test_weights_bear_the_version_that_is_set_or_the_one_the_subnet_asks_for(
    subnet: Subnet, own: int | None, asked: int, is_set: bool
) -> None:
    subnet.register.change_rules(weights_version_key=asked)
    node = subnet.opened("one", version_key=own)

    node.set_weights({TWO: 1.0})

    assert (weights_of(node) == {TWO: 1.0}) == is_set


def test_weights_without_a_permit_wait_until_there_is_one(subnet: Subnet, caplog: pytest.LogCaptureFixture) -> None:
    hotkey = subnet.signer("one").hotkey
    subnet.register.change_neuron(hotkey, validator_permit=False)
    node = subnet.opened("one")
    node.set_weights({TWO: 1.0})
    assert weights_of(node) == {}
    assert "weights were not set" in caplog.text

    subnet.register.change_neuron(hotkey, validator_permit=True)

    with subnet.fake.mining(0.1):
        wait_until(lambda: weights_of(node) == {TWO: 1.0})


def test_a_hotkey_without_uid_and_uids_without_hotkey_have_no_weights(subnet: Subnet) -> None:
    with pytest.raises(ChainError, match=r"uids \[55\].*not registered"):
        subnet.opened("one").set_weights({ONE: 1.0, Uid(55): 1.0})
    with pytest.raises(ChainError, match="is not registered on subnet 3 of local"):
        subnet.opened("stranger").set_weights({ONE: 1.0})


def test_a_validator_that_registered_a_moment_ago_may_set_weights(subnet: Subnet) -> None:
    node = subnet.opened("late")
    subnet.join("late")
    subnet.fake.mine()
    wait_until(lambda: node.block() == 101)

    node.set_weights({TWO: 1.0})

    assert node.weights()[Uid(2)] == {TWO: 1.0}


def test_threads_that_set_weights_at_once_lose_none_but_the_older(subnet: Subnet) -> None:
    node = subnet.opened("one")
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(node.set_weights, {ONE: 1.0, TWO: 1.0 + count}) for count in range(8)]:
            done.result(10)
    node.set_weights({TWO: 1.0})

    assert weights_of(node) == {TWO: 1.0}


def test_whoever_brings_newer_weights_does_not_wait_for_the_older_to_time_out(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=12.0, mines_on_submission=False)
    subnet.join("one")
    subnet.join("two")
    try:
        node = subnet.opened("one", submit_timeout_s=1.0)
        with ThreadPoolExecutor(2) as pool:
            older = pool.submit(node.set_weights, {ONE: 1.0})  # no block ever comes
            wait_until(lambda: "submit" in subnet.asked)
            newer = pool.submit(node.set_weights, {TWO: 1.0})
            for done in (older, newer):
                done.result(3)
            # The chain is still silent about both. The newer ones are there when it makes blocks again.
            with subnet.fake.mining(0.05):
                wait_until(lambda: weights_of(node) == {TWO: 1.0})
    finally:
        subnet.close()


def test_weights_that_were_never_taken_stop_nobody_from_closing_and_are_named(
    subnet: Subnet, caplog: pytest.LogCaptureFixture
) -> None:
    subnet.fake.refuse("NotEnoughStakeToSetWeights", times=10**6)
    node = subnet.opened("one")
    node.set_weights({TWO: 1.0})
    began = time.monotonic()
    node.close()

    assert time.monotonic() - began < 1.0
    assert [line for line in warnings_of(caplog) if "closing" in line] == [
        "closing although weights of 1 uid(s) are not known to be set"
    ]
