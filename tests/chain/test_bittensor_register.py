"""Who takes part in a subnet: the same on all nodes, in as few questions as that takes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.block_times import FINAL_BLOCKS
from templar_pl.chain.metagraph_register import (
    REGISTER_BLOCKS,
    next_counting_block,
    next_register_block,
    register_block,
)
from templar_pl.errors import ConfigError
from templar_pl.units import Block, Uid, Window
from tests.chain.nodes import wait_until
from tests.chain.subnets import CountingSubstrate, Subnet, lines_of
from tests.servers.subtensor import FakeSubtensor

METAGRAPH = "get_metagraph"


def mine(subnet: Subnet, count: int, *nodes: Any) -> None:
    head = subnet.fake.mine(count).number
    for node in nodes:
        wait_until(lambda node=node: node.block() >= head)


@given(st.integers(0, 10**9))
def test_the_register_of_a_window_is_final_when_it_opens_and_the_newest_of_those(opens: int) -> None:
    at = register_block(Block(opens))

    assert at % REGISTER_BLOCKS == 0
    assert at == 0 or at + FINAL_BLOCKS <= opens
    assert opens < at + REGISTER_BLOCKS + FINAL_BLOCKS


@given(st.integers(0, 10**9))
def test_registers_follow_one_another(opens: int) -> None:
    following = next_counting_block(Block(opens))

    assert following > opens
    assert register_block(following) == register_block(Block(opens)) + REGISTER_BLOCKS
    assert register_block(Block(following - 1)) == register_block(Block(opens))
    assert next_register_block(Block(opens)) % REGISTER_BLOCKS == 0
    assert 0 < next_register_block(Block(opens)) - opens <= REGISTER_BLOCKS


def test_nodes_that_read_at_different_times_have_the_same_candidates(subnet: Subnet) -> None:
    first, second = Uid(subnet.join("first")), Uid(subnet.join("second"))
    early = subnet.opened("first")
    early.commit("former")
    mine(subnet, 60, early)
    window = early.window()
    seen_early = early.candidates(window)
    subnet.register.replace(second, subnet.signer("third").hotkey)
    early.commit("latter")
    mine(subnet, 60, early)
    late = subnet.opened("third")

    assert late.candidates(window) == seen_early == early.candidates(window)
    assert (seen_early[first].address, seen_early[second].hotkey) == ("former", subnet.signer("second").hotkey)
    now = late.candidates(late.window())
    assert (now[first].address, now[second].hotkey) == ("latter", subnet.signer("third").hotkey)


def test_a_block_that_is_replaced_before_the_window_opens_changes_nothing(subnet: Subnet) -> None:
    subnet.join("own")
    node = subnet.opened("own")
    mine(subnet, REGISTER_BLOCKS, node)
    subnet.fake.reorganise(1)
    for window in range(node.window() + 1):
        assert register_block(Block(window * 5)) <= max(0, node.block() - FINAL_BLOCKS)


def test_a_register_whose_block_is_replaced_after_it_was_read_is_read_again(subnet: Subnet) -> None:
    subnet.join("own")
    node = subnet.opened("own")
    mine(subnet, REGISTER_BLOCKS, node)
    window = Window((node.block() + 2 * FINAL_BLOCKS) // 5)
    assert register_block(Block(window * 5)) == node.block()
    before = node.candidates(window)
    newcomer = Uid(subnet.join("newcomer"))  # the head is another now
    mine(subnet, FINAL_BLOCKS, node)

    assert newcomer not in before
    assert newcomer in node.candidates(window)


def test_a_register_that_is_not_final_is_read_once_a_head_and_counts_in_an_outage(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=150, seconds_per_block=12.0)
    subnet.join("own")
    try:
        clock = BlockClock()
        node = subnet.opened("own", clock=clock)
        wait_until(lambda: subnet.asked.count(METAGRAPH) == 2)
        with lines_of("local") as lines:
            for _ in range(3):
                mine(subnet, 1, node)
                before = subnet.asked.count(METAGRAPH)
                for _ in range(5):
                    node.candidates(Window(160 // 5))
                assert subnet.asked.count(METAGRAPH) == before + 1
            clock.lose()
            assert node.candidates(Window(160 // 5)).keys() == {0}
    finally:
        subnet.close()

    assert lines == []


def test_the_register_is_read_once_in_the_background_for_each_ten_minutes(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=2 * REGISTER_BLOCKS, seconds_per_block=0.02)
    subnet.join("own")
    try:
        with subnet.fake.mining(0.02):
            node = subnet.opened("own")
            wait_until(lambda: node.block() >= 5 * REGISTER_BLOCKS + FINAL_BLOCKS + 30)
            num_read = subnet.asked.count(METAGRAPH)
            for window in range(node.window() - 5, node.window() + 1):
                node.candidates(Window(window))
                node.peers()
            assert subnet.asked.count(METAGRAPH) == num_read  # they had been read before anybody asked
    finally:
        subnet.close()

    # The newest when it was opened, what counted then, and for each of the four registers since: itself, perhaps once
    # more because its block was one short of final, and the newest if blocks came later than this node expected.
    assert 2 + 4 <= num_read <= 2 + 3 * 4


def test_a_uid_nobody_knows_is_asked_for_once_a_block(subnet: Subnet) -> None:
    subnet.join("own")
    node = subnet.opened("own")
    wait_until(lambda: subnet.asked.count(METAGRAPH) == 2)
    for _ in range(3):
        mine(subnet, 1, node)
        before = subnet.asked.count(METAGRAPH)
        for _ in range(5):
            assert Uid(77) not in node.peers([Uid(77)])
        assert subnet.asked.count(METAGRAPH) == before + 1

    assert node.peers().keys() == {0}


def test_a_newcomer_is_known_as_soon_as_it_is_asked_for(subnet: Subnet) -> None:
    subnet.join("own")
    node = subnet.opened("own")
    newcomer = Uid(subnet.join("newcomer"))
    mine(subnet, 1, node)
    assert newcomer not in node.peers()

    assert node.peers([newcomer])[newcomer].hotkey == subnet.signer("newcomer").hotkey


def test_threads_that_ask_a_silent_chain_wait_for_one_question_together(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=12.0)
    subnet.join("own")
    try:
        node = subnet.opened("own", request_timeout_s=0.5)
        mine(subnet, 1, node)
        subnet.fake.link.hang()
        began = time.monotonic()
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(node.peers, [Uid(77)]) for _ in range(6)]
            assert all(answer.result(5).keys() == {0} for answer in answers)
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
        node.peers([Uid(77)])
        assert time.monotonic() - began < 0.2
    finally:
        subnet.fake.link.mend()
        subnet.close()


class Forgetful(CountingSubstrate):
    """A node that has thrown away the states of old blocks, until told otherwise."""

    def __init__(self, fake: FakeSubtensor, asked: list[str], forgets: threading.Event) -> None:
        super().__init__(fake, asked)
        self._forgets = forgets

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        if self._forgets.is_set() and block_hash == await self.block_hash(100):
            self.asked.append("forgotten")
            raise ValueError("State already discarded for 0x00")
        return await super().runtime_call(api, method, params, block_hash)


def test_where_the_chain_has_forgotten_a_register_the_newest_counts_with_one_warning(subnet: Subnet) -> None:
    subnet.join("own")
    subnet.fake.mine(20)
    forgets = threading.Event()
    forgets.set()
    with lines_of("local") as lines:
        node = subnet.opened("own", open_substrate=lambda: Forgetful(subnet.fake, subnet.asked, forgets))
        newcomer = Uid(subnet.join("newcomer"))
        mine(subnet, 1, node)
        node.peers([newcomer])
        assert all(newcomer in node.candidates(node.window()) for _ in range(5))
        assert subnet.asked.count("forgotten") <= 3
        forgets.clear()
        mine(subnet, 1, node)
        assert newcomer not in node.candidates(node.window())

    assert ["the register of block 100 cannot be read" in line for line in lines] == [True]
    assert "State already discarded" in lines[0]


def test_a_register_that_is_still_to_be_made_is_taken_for_the_newest(subnet: Subnet) -> None:
    subnet.join("own")
    with lines_of("local") as lines:
        node = subnet.opened("own")
        assert node.candidates(Window(10**6)) == node.peers()
    assert lines == []


def test_an_unknown_subnet_is_a_wrong_setting(subnet: Subnet) -> None:
    with pytest.raises(ConfigError, match="local has no subnet 9: give --netuid"):
        subnet.opened("own", netuid=9)


def test_a_hotkey_without_uid_is_told_how_to_register(subnet: Subnet) -> None:
    with pytest.raises(ConfigError, match=r"is not registered on subnet 3 of local(.|\n)*btcli subnets register"):
        subnet.opened("own").register()


def test_seconds_are_counted_to_when_a_newcomer_counts(subnet: Subnet) -> None:
    subnet.join("own")
    node = subnet.opened("own")

    # Block 101 or so: 150 is the next register, and it counts from 158 on.
    left_s = node.seconds_to_next_register()

    assert left_s == pytest.approx((150 + FINAL_BLOCKS - node.block()) * 12.0, abs=2.0)
