"""How the fake chain fails: as the transport of the bittensor SDK does when its connection dies or says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeVar, cast

import bittensor as bt
import pytest
from bittensor.result import RpcConnectionError

from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_clients import client_of, commit_call, connected, keys
from tests.servers.subtensor_register import Register
from tests.servers.subtensor_remote import RemoteSubstrate, SubtensorControl
from tests.servers.subtensor_server import serving, subtensor_process
from tests.servers.subtensor_substrate import FakeSubstrate, WireSubstrate

T = TypeVar("T")

TIMEOUT_S = 20.0

A_MOMENT_S = 0.2

ALICE = keys("Alice")

Connect = Callable[[], WireSubstrate]


@pytest.fixture
def fake() -> FakeSubtensor:
    fake = FakeSubtensor()
    Register(fake).register_hotkey(ALICE.address)
    return fake


@pytest.fixture(params=["in process", "remote"])
def connect(request: pytest.FixtureRequest, fake: FakeSubtensor) -> Iterator[Connect]:
    if request.param == "in process":
        yield lambda: FakeSubstrate(fake)
    else:
        with serving(fake) as address:
            yield lambda: RemoteSubstrate(address)
    assert (fake.link.num_open, fake.link.num_subscribed) == (0, 0)


def run(work: Awaitable[T]) -> T:
    return asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


Heads = AsyncGenerator[bt.BlockHeader, None]


def subscription(client: bt.Client) -> contextlib.aclosing[Heads]:
    return contextlib.aclosing(cast(Heads, client.blocks()))


@contextlib.asynccontextmanager
async def heads_of(client: bt.Client) -> AsyncGenerator[Heads, None]:
    """Give a subscription that has seen the head."""
    async with subscription(client) as heads:
        await anext(heads)
        yield heads


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)  # bounded by `run`


async def take(heads: Heads, count: int) -> list[int]:
    return [(await anext(heads)).number for _ in range(count)]


def test_a_subscription_gets_the_head_and_all_to_come(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> tuple[list[int], list[str | None]]:
        async with connected(connect()) as client, subscription(client) as heads:
            first = await anext(heads)
            fake.mine(2)
            rest = [await anext(heads) for _ in range(2)]
            return [each.number for each in (first, *rest)], [each.parent_hash for each in rest]

    numbers, parents = run(work())

    assert numbers == [100, 101, 102]
    assert parents == [fake.block(100).hash, fake.block(101).hash]


def test_heads_are_skipped_and_repeated_on_demand(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> list[int]:
        async with connected(connect()) as client, heads_of(client) as heads:
            fake.link.skip_heads(2)
            fake.link.repeat_heads(1)
            fake.mine(4)
            return await take(heads, 3)

    assert run(work()) == [103, 103, 104]


def test_reorganised_blocks_come_again_with_other_hashes_and_times(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> tuple[list[int], float, float, int]:
        async with connected(connect()) as client, heads_of(client) as heads:
            fake.mine(3)
            await take(heads, 3)
            before = await client.timestamp(102)
            fake.reorganise(2, later_ms=700)
            again = await take(heads, 2)
            fake.mine()
            return again, before.timestamp(), (await client.timestamp(102)).timestamp(), (await take(heads, 1))[0]

    again, before, after, following = run(work())

    assert (again, following) == ([102, 103], 104)
    assert after - before == pytest.approx(0.7)
    assert fake.head.parent_hash == fake.block(103).hash
    assert fake.block(103).parent_hash == fake.block(102).hash


def test_a_cut_ends_subscriptions_and_requests_until_it_is_mended(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> list[int]:
        async with connected(connect()) as client, heads_of(client) as heads:
            fake.link.cut()
            with pytest.raises(bt.ChainError, match="Connection lost"):
                await anext(heads)
            with pytest.raises(RpcConnectionError):
                await client.block()
            with pytest.raises(RpcConnectionError):
                await client.submit_call(commit_call(b"x"), ALICE, signer="hotkey")
            with pytest.raises(RpcConnectionError):
                await client_of(connect()).connect()
            fake.mine(2)
            fake.link.mend()
            async with heads_of(client) as heads_again:
                fake.mine()
                return [await client.block(), *await take(heads_again, 1)]

    assert run(work()) == [103, 103]


@pytest.mark.parametrize("silence", ["hang", "cut of a client that retries for ever"])
def test_requests_wait_through_a_silence(fake: FakeSubtensor, connect: Connect, silence: str) -> None:
    async def work() -> tuple[bool, int]:
        async with connected(connect()) as client:
            if silence == "hang":
                fake.link.hang()
            else:
                fake.link.cut(retry_forever=True)
            asking = asyncio.ensure_future(client.block())
            done, _ = await asyncio.wait({asking}, timeout=A_MOMENT_S)
            fake.mine()
            fake.link.mend()
            return bool(done), await asking

    assert run(work()) == (False, 101)


def test_an_orphaned_subscription_is_silent_while_others_are_not(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> tuple[bool, list[int]]:
        async with connected(connect()) as client, heads_of(client) as orphaned:
            fake.link.orphan()
            waiting = asyncio.ensure_future(take(orphaned, 1))
            async with heads_of(client) as heads:
                fake.mine()
                found = [await client.block(), *await take(heads, 1)]
            done, _ = await asyncio.wait({waiting}, timeout=A_MOMENT_S)
            waiting.cancel()
            await asyncio.wait({waiting})
            return bool(done), found

    assert run(work()) == (False, [101, 101])


def test_a_subscription_is_given_up_only_when_the_silence_is_over(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> list[bool]:
        async with connected(connect()) as client, heads_of(client) as heads:
            fake.link.hang()
            waiting = asyncio.ensure_future(take(heads, 1))
            await asyncio.wait({waiting}, timeout=A_MOMENT_S)
            waiting.cancel()
            await asyncio.wait({waiting}, timeout=A_MOMENT_S)
            done_before = waiting.done()
            fake.link.mend()
            await asyncio.wait({waiting})
            return [done_before, waiting.cancelled()]

    assert run(work()) == [False, True]


def test_heads_come_late_after_a_hang(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> tuple[bool, list[int]]:
        async with connected(connect()) as client, heads_of(client) as heads:
            fake.link.hang()
            fake.mine(2)
            waiting = asyncio.ensure_future(take(heads, 2))
            done, _ = await asyncio.wait({waiting}, timeout=A_MOMENT_S)
            fake.link.mend()
            return bool(done), await waiting

    assert run(work()) == (False, [101, 102])


def test_a_request_that_is_given_up_leaves_nothing_behind(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> int:
        async with connected(connect()) as client:
            fake.link.hang()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.block(), A_MOMENT_S)
            fake.link.mend()
            return await client.block()

    assert run(work()) == 100


def test_closing_ends_subscriptions_and_fails_requests_under_way(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> list[int]:
        client = client_of(connect())
        await client.connect()
        async with heads_of(client) as heads:
            fake.link.hang()
            asking = asyncio.ensure_future(client.block())
            await asyncio.wait({asking}, timeout=A_MOMENT_S)
            await client.close()
            with pytest.raises(bt.ChainError, match="RPC session closed"):
                await asking
            return [header.number async for header in heads]

    assert run(work()) == []


def test_a_submission_gets_into_a_block_although_its_answer_is_lost(connect: Connect, fake: FakeSubtensor) -> None:
    async def work() -> tuple[bool, str, str]:
        async with connected(connect()) as client:
            with fake.mining(3600.0):
                submitting = asyncio.ensure_future(client.submit_call(commit_call(b"x"), ALICE, signer="hotkey"))
                await until(lambda: fake.next_nonce(ALICE.address) == 1)
                fake.link.cut()
                result = await submitting
                fake.link.mend()
                fake.mine()
            commitment = await client.read("commitment", netuid=3, hotkey_ss58=ALICE.address)
            return result.success, result.message, commitment.data

    success, message, data = run(work())

    assert (success, data) == (False, "x")
    assert "may already be on chain" in message


def test_blocks_are_made_by_the_clock(fake: FakeSubtensor, connect: Connect) -> None:
    async def work() -> tuple[list[int], float]:
        async with connected(connect()) as client, heads_of(client) as heads:
            with fake.mining(0.05):
                numbers = await take(heads, 4)
                result = await client.submit_call(commit_call(b"x"), ALICE, signer="hotkey")
                assert result.success
            return numbers, (await client.timestamp()).timestamp()

    numbers, timestamp = run(work())

    assert numbers == [101, 102, 103, 104]
    assert abs(timestamp - time.time()) < 5.0


def test_processes_share_a_chain_and_see_it_die() -> None:
    async def work(address: str) -> tuple[str, int]:
        control = SubtensorControl(address)
        assert control.tell("register_hotkey", hotkey=ALICE.address, stake=5.0) == 0
        async with connected(RemoteSubstrate(address)) as mine, connected(RemoteSubstrate(address)) as yours:
            async with heads_of(yours) as heads:
                await take(heads, 2)
                assert (await mine.submit_call(commit_call(b"hello"), ALICE, signer="hotkey")).success
                found = (await yours.subnets.commitments(3))[ALICE.address]
                assert found is not None
                control.tell("cut")
                with pytest.raises(bt.ChainError, match="Connection lost"):
                    await take(heads, 100)
            control.tell("mend")
            return found.data, control.tell("num_open")

    async def after_death(client: bt.Client) -> None:
        with pytest.raises(RpcConnectionError):
            await client.block()
        await client.close()

    async def all_of_it() -> tuple[str, int]:
        with subtensor_process("--seconds-per-block", "0.1") as address:
            found = await work(address)
            client = client_of(RemoteSubstrate(address))
            await client.connect()
        await after_death(client)
        return found

    assert run(all_of_it()) == ("hello", 2)


def test_a_submission_to_a_chain_that_dies_says_that_it_may_have_landed() -> None:
    async def work() -> tuple[bool, str]:
        with subtensor_process("--seconds-per-block", "3600") as address:
            control = SubtensorControl(address)
            control.tell("register_hotkey", hotkey=ALICE.address)
            client = client_of(RemoteSubstrate(address))
            await client.connect()
            submitting = asyncio.ensure_future(client.submit_call(commit_call(b"x"), ALICE, signer="hotkey"))
            await until(lambda: control.tell("next_nonce", address=ALICE.address) == 1)
        result = await submitting
        await client.close()
        return result.success, result.message

    success, message = run(work())

    assert not success
    assert "may already be on chain" in message
