"""Who takes part in a subnet: the same on all nodes, in as few questions as that takes, whatever a stranger commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.block_times import FINAL_BLOCKS
from templar_pl.chain.commitments import MAX_ADDRESS_BYTES, address_of, check_address
from templar_pl.chain.metagraph_register import (
    REGISTER_BLOCKS,
    next_counting_block,
    next_register_block,
    register_block,
)
from templar_pl.errors import ChainError, ConfigError, StoreError
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.r2_store import R2Buckets
from templar_pl.units import Block, Uid, Window
from tests.chain.nodes import wait_until
from tests.chain.subnets import NETUID, CountingSubstrate, Subnet, lines_of
from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_state import Commitment

METAGRAPH = "get_metagraph"


@pytest.fixture
def subnet(tmp_path: Path) -> Iterator[Subnet]:
    subnet = Subnet(tmp_path, head=100)
    yield subnet
    subnet.fake.link.mend()
    subnet.close()


def mine(subnet: Subnet, count: int, *nodes: Any) -> None:
    head = subnet.fake.mine(count).number
    for node in nodes:
        wait_until(lambda node=node: node.block() >= head)


def raw(data: bytes) -> dict[str, str]:
    return {f"Raw{len(data)}": "0x" + data.hex()}


def commit_fields(subnet: Subnet, name: str, *fields: Any) -> None:
    """Commit to anything, as whoever is hostile may."""
    hotkey, made = subnet.signer(name).hotkey, Commitment(subnet.fake.head.number, fields)

    def change(before: Any) -> Any:
        commitments = {**before.commitments, hotkey: made}
        return type(before)(**{**vars(before), "commitments": commitments})

    subnet.fake.amend(NETUID, change)


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


HOSTILE = {
    "no UTF-8": [raw(b"\xff\xfe\x00")],
    "empty": [raw(b"")],
    "a line break": [raw(b"own\nother")],
    "a zero": [raw(b"own\x00")],
    "an escape": [raw(b"\x1b[2Jown")],
    "a direction": [raw("own\u202e".encode())],
    "two fields": [raw(b"ow"), raw(b"n")],
    "a hash": [{"Sha256": "0x" + "00" * 32}],
    "nothing": [],
    "sealed": [{"TimelockEncrypted": {"encrypted": "0x00", "reveal_round": 1}}],
    "no number": [{"TimelockEncrypted": {"encrypted": "0x00", "reveal_round": 1}}, raw(b"own")],
    "no hexadecimal digits": [{"Raw3": "0x!!"}],
    "another type": [{"Raw3": [1, 2, 3]}],
    "too much": [{"Raw128": "0x" + "61" * 10_000}],
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE.keys())
def test_whoever_commits_to_nonsense_hides_nobody_else(subnet: Subnet, fields: list[Any]) -> None:
    own, hostile = Uid(subnet.join("own")), Uid(subnet.join("hostile"))
    commit_fields(subnet, "own", raw(b"where it is"))
    commit_fields(subnet, "hostile", *fields)
    subnet.fake.mine()

    peers = subnet.opened("own").peers()

    assert (peers[own].address, peers[hostile].address) == ("where it is", "")


@pytest.mark.parametrize("address", ["../../etc", "/etc/passwd", "a/b", ".", "-", "x" * 128, "ü", "a b", "http://x/"])
def test_an_address_that_is_no_bucket_makes_only_that_peer_unreachable(tmp_path: Path, address: str) -> None:
    assert address_of({"info": {"fields": [raw(address.encode())]}}) == address
    buckets = LocalBuckets(tmp_path, "own")
    if address in {"-", "x" * 128}:
        assert buckets.of(address)
    else:
        with pytest.raises(StoreError, match="a peer cannot be reached"):
            buckets.of(address)

    def credentials() -> Any:
        raise AssertionError("nothing is read for an address like that")

    with pytest.raises(StoreError, match="a peer cannot be reached"):
        R2Buckets(credentials).of(address)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8) | st.binary(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["info", "fields", "Raw3", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_record_is_read_as_a_printable_address(record: Any) -> None:
    for each in (record, {"info": record}, {"info": {"fields": record}}, {"info": {"fields": [record]}}):
        address = address_of(each)
        assert address.isprintable()
        assert len(address) <= MAX_ADDRESS_BYTES


@given(st.text(max_size=140))
def test_an_address_that_may_be_committed_is_read_by_others_as_it_is(address: str) -> None:
    try:
        data = check_address(address)
    except ConfigError:
        return

    assert 1 <= len(data) <= MAX_ADDRESS_BYTES
    assert address_of({"info": {"fields": [raw(data)]}}) == address


class Revealing(CountingSubstrate):
    """A chain on which a stranger's sealed commitment was revealed as a text that the package stumbles over."""

    async def query_map(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> list[tuple[Any, Any]]:
        if storage_function == "RevealedCommitments":
            return [("5F...", [("0x!!!!!!!!!!!!", 90)])]
        return await super().query_map(module, storage_function, params, block_hash)


def test_whoever_reveals_nonsense_hides_nobody_else(subnet: Subnet) -> None:
    own = Uid(subnet.join("own"))
    commit_fields(subnet, "own", raw(b"where it is"))
    subnet.fake.mine()

    node = subnet.opened("own", open_substrate=lambda: Revealing(subnet.fake, subnet.asked))

    assert node.peers()[own].address == "where it is"


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


def test_an_address_that_the_chain_knows_is_not_committed_again(subnet: Subnet) -> None:
    subnet.join("own")
    node = subnet.opened("own")
    for _ in range(3):
        node.commit("where it is")
    assert subnet.asked.count("submit") == 1

    node.commit("elsewhere")
    assert subnet.asked.count("submit") == 2
    assert subnet.opened("own").peers()[Uid(0)].address == "elsewhere"


def test_an_address_in_two_pieces_is_committed_again_as_one(subnet: Subnet) -> None:
    own = Uid(subnet.join("own"))
    commit_fields(subnet, "own", raw(b"where "), raw(b"it is"))
    node = subnet.opened("own")
    node.commit("where it is")

    assert node.peers()[own].address == "where it is"


def test_a_quota_that_is_used_up_says_how_long_to_wait(subnet: Subnet) -> None:
    subnet.join("own")
    node = subnet.opened("own")
    subnet.fake.refuse("SpaceLimitExceeded", call="set_commitment")

    # The refusal gets into block 101 of an epoch of 360 blocks.
    with pytest.raises(ChainError, match=r"the address was not committed: .*try again in 259 blocks"):
        node.commit("where it is")
    node.commit("where it is")


def test_another_refusal_of_a_commitment_is_told_as_it_is(subnet: Subnet) -> None:
    subnet.join("own")
    subnet.fake.refuse("AccountNotAllowedCommit", call="set_commitment")

    with pytest.raises(ChainError, match="the address was not committed: ") as error:
        subnet.opened("own").commit("where it is")
    assert "blocks" not in str(error.value)


@pytest.mark.parametrize("address", ["", "x" * 129, "ü" * 65, "a\nb", "\ud800"])
def test_an_address_that_others_could_not_read_is_refused(subnet: Subnet, address: str) -> None:
    subnet.join("own")

    with pytest.raises(ConfigError, match="an address must have"):
        subnet.opened("own").commit(address)
    assert "submit" not in subnet.asked
