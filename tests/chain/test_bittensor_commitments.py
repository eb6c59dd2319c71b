"""Addresses that nodes commit to on a chain: checked before, read back as they are, whatever a stranger commits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain.commitments import MAX_ADDRESS_BYTES, address_of, check_address
from templar_pl.errors import ChainError, ConfigError, StoreError
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.r2_store import R2Buckets
from templar_pl.units import Uid
from tests.chain.subnets import NETUID, CountingSubstrate, Subnet
from tests.servers.subtensor_state import Commitment


def raw(data: bytes) -> dict[str, str]:
    return {f"Raw{len(data)}": "0x" + data.hex()}


def commit_fields(subnet: Subnet, name: str, *fields: Any) -> None:
    """Commit to anything, as whoever is hostile may."""
    hotkey, made = subnet.signer(name).hotkey, Commitment(subnet.fake.head.number, fields)

    def change(before: Any) -> Any:
        commitments = {**before.commitments, hotkey: made}
        return type(before)(**{**vars(before), "commitments": commitments})

    subnet.fake.amend(NETUID, change)


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
