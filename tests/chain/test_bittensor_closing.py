"""Opening and closing a chain of Bittensor in every state: in bounded time, and nothing is left open."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.bittensor_config import BittensorConfig
from templar_pl.chain.block_clock import BlockClock
from templar_pl.errors import ChainError, ConfigError
from templar_pl.units import Uid, Window
from tests.chain.nodes import num_open_files, wait_until
from tests.chain.subnets import CountingSubstrate, Subnet

CLOSED_S = 3.0
"""Closing takes no longer, whatever happens."""


@pytest.fixture
def subnet(tmp_path: Path) -> Subnet:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.3)
    subnet.join("own")
    node = subnet.opened("own")
    node.close()
    return subnet


@contextmanager
def nothing_left(subnet: Subnet, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that no thread, no file and no connection is left behind, and asyncio complains of nothing."""
    gc.collect()  # what earlier tests left to it must not end in between
    threads, files = threading.active_count(), num_open_files()
    yield
    wait_until(lambda: threading.active_count() <= threads, CLOSED_S)
    wait_until(lambda: num_open_files() <= files, CLOSED_S)
    assert subnet.fake.link.num_open == 0
    assert subnet.fake.link.num_subscribed == 0
    gc.collect()
    assert [
        record.message for record in caplog.records if record.name == "asyncio" and record.levelno > logging.INFO
    ] == []


def close(node: BittensorChain) -> None:
    began = time.monotonic()
    node.close()
    assert time.monotonic() - began < CLOSED_S
    assert not node.is_open


STATES: dict[str, Callable[[Any, BlockClock], object]] = {
    "connected": lambda link, clock: wait_until(lambda: link.num_subscribed == 1),
    "cut a moment ago": lambda link, clock: link.cut(),
    "silent a moment ago": lambda link, clock: link.hang(),
    "cut": lambda link, clock: (link.cut(), wait_until(lambda: clock.is_lost)),
    "cut and tried again": lambda link, clock: (link.cut(retry_forever=True), wait_until(lambda: clock.is_lost)),
    "silent": lambda link, clock: (link.hang(), wait_until(lambda: clock.is_lost)),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_a_chain_closes_in_every_state(
    subnet: Subnet, caplog: pytest.LogCaptureFixture, state: Callable[[Any, BlockClock], object]
) -> None:
    with nothing_left(subnet, caplog):
        clock = BlockClock()
        node = subnet.opened("own", clock=clock)
        assert subnet.fake.link.num_open == 1
        state(subnet.fake.link, clock)

        close(node)


WAITS: dict[str, Callable[[BittensorChain], Any]] = {
    "register": lambda node: node.register(),
    "upload_interval": lambda node: node.upload_interval(node.window()),
    "commit": lambda node: node.commit("where it is"),
    "weights": lambda node: node.weights(),
    "peers": lambda node: node.peers([Uid(77)]),
    "candidates": lambda node: node.candidates(Window(0)),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_whoever_waits_for_a_silent_chain_is_told_that_it_is_closed(
    subnet: Subnet, caplog: pytest.LogCaptureFixture, wait: Callable[[BittensorChain], Any]
) -> None:
    with nothing_left(subnet, caplog), ThreadPoolExecutor(1) as pool:
        node = subnet.opened("own", blocks_per_window=50)
        subnet.fake.mine(49)  # the window ends with the next block
        wait_until(lambda: node.block() == 149)
        subnet.fake.link.hang()
        waiting = pool.submit(wait, node)
        time.sleep(0.1)
        assert not waiting.done()
        close(node)

        with pytest.raises(ChainError, match="was closed while a thread waited"):
            waiting.result(CLOSED_S)


def test_an_open_that_gets_no_answer_ends_in_time_and_leaves_nothing(
    subnet: Subnet, caplog: pytest.LogCaptureFixture
) -> None:
    subnet.fake.link.hang()
    with nothing_left(subnet, caplog):
        node, began = subnet.node("own", open_timeout_s=0.3), time.monotonic()
        with pytest.raises(ChainError, match=r"cannot connect to local; look at .*: no answer within 0\.3 s"):
            node.open()
        assert time.monotonic() - began < 0.3 + CLOSED_S
        assert not node.is_open


def test_an_open_that_is_refused_leaves_nothing_and_works_later(
    subnet: Subnet, caplog: pytest.LogCaptureFixture
) -> None:
    with nothing_left(subnet, caplog):
        node = subnet.node("own")
        subnet.fake.link.cut()
        with pytest.raises(ChainError, match=r"cannot connect to local; look at --bittensor\.network"):
            node.open()
        subnet.fake.link.mend()
        node.open()
        assert node.block() == 100
        close(node)


class Stopping(CountingSubstrate):
    """A chain that falls silent once it has been asked for something."""

    def __init__(self, subnet: Subnet, after: str) -> None:
        super().__init__(subnet.fake, subnet.asked)
        self._after = after

    async def query(self, *args: Any, **kwargs: Any) -> Any:
        await self._maybe(args[1])
        return await super().query(*args, **kwargs)

    async def runtime_call(self, *args: Any, **kwargs: Any) -> Any:
        await self._maybe(args[1])
        return await super().runtime_call(*args, **kwargs)

    async def _maybe(self, what: str) -> None:
        if what == self._after:
            self.asked.append(what)
            await asyncio.sleep(3600)


@pytest.mark.parametrize("after", ["NetworksAdded", "Now", "get_metagraph"])
def test_an_open_that_is_closed_meanwhile_leaves_nothing(
    subnet: Subnet, caplog: pytest.LogCaptureFixture, after: str
) -> None:
    with nothing_left(subnet, caplog), ThreadPoolExecutor(1) as pool:
        subnet.asked.clear()
        node = subnet.node("own", open_substrate=lambda: Stopping(subnet, after))
        opening = pool.submit(node.open)
        wait_until(lambda: after in subnet.asked)
        close(node)

        with pytest.raises(ChainError, match="closed"):
            opening.result(CLOSED_S)
        assert not node.is_open


@pytest.mark.parametrize("after", ["NetworksAdded", "Now", "get_metagraph"])
def test_an_open_that_gets_stuck_halfway_leaves_nothing(
    subnet: Subnet, caplog: pytest.LogCaptureFixture, after: str
) -> None:
    with nothing_left(subnet, caplog):
        node = subnet.node(
            "own", open_substrate=lambda: Stopping(subnet, after), open_timeout_s=0.2, request_timeout_s=5.0
        )
        with pytest.raises(ChainError, match=r"cannot open local: no answer within 0\.2 s"):
            node.open()


def test_threads_that_open_at_once_share_one_connection(subnet: Subnet, caplog: pytest.LogCaptureFixture) -> None:
    with nothing_left(subnet, caplog):
        node = subnet.node("own")
        with ThreadPoolExecutor(6) as pool:
            for opening in [pool.submit(node.open) for _ in range(6)]:
                opening.result(CLOSED_S)
        assert subnet.fake.link.num_open == 1
        close(node)


def test_threads_that_open_and_close_at_once_leave_nothing(subnet: Subnet, caplog: pytest.LogCaptureFixture) -> None:
    def open_and_close(node: BittensorChain, count: int) -> None:
        try:
            node.open()
            assert node.block() >= 100
        except ChainError:
            pass  # another thread has closed it
        finally:
            if count % 2:
                node.close()

    with nothing_left(subnet, caplog):
        node = subnet.node("own")
        with ThreadPoolExecutor(6) as pool:
            done: list[Future[None]] = [pool.submit(open_and_close, node, count) for count in range(24)]
            for each in done:
                each.result(30)
        close(node)
        node.open()
        assert node.block() == 100
        close(node)


def address_of(port: int) -> str:
    return f"ws://user:secret@127.0.0.1:{port}/path?key=hidden"


@contextmanager
def taking_connections() -> Iterator[int]:
    """Take connections and say nothing, on a port that is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def shaking_hands() -> Iterator[int]:
    """Take connections of the web and answer nothing that is asked, on a port that is yielded."""

    def hear(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            for _ in connection:
                pass

    with serve(hear, "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("silence", [taking_connections, shaking_hands])
def test_the_package_own_connection_to_a_silent_server_is_given_up_in_time(
    subnet: Subnet, caplog: pytest.LogCaptureFixture, silence: Callable[[], AbstractContextManager[int]]
) -> None:
    with silence() as port, caplog.at_level(logging.DEBUG), nothing_left(subnet, caplog):
        config = BittensorConfig(network=address_of(port), open_timeout_s=0.5)
        node = BittensorChain(3, subnet.signer("own"), config, register_command="btcli ...")
        began = time.monotonic()
        with pytest.raises(ChainError, match=r"cannot connect to ws://127\.0\.0\.1:\d+; look at") as error:
            node.open()
        assert time.monotonic() - began < 0.5 + CLOSED_S
        assert "secret" not in node.network
        node.close()
    for secret in ("secret", "hidden", "path"):
        assert secret not in str(error.value)
        assert secret not in " ".join(record.message for record in caplog.records if "server" not in record.name)


def test_the_package_own_connection_to_nobody_is_given_up_in_time(
    subnet: Subnet, caplog: pytest.LogCaptureFixture
) -> None:
    with taking_connections() as port:
        address = address_of(port)
    with caplog.at_level(logging.DEBUG), nothing_left(subnet, caplog):
        config = BittensorConfig(network=address, open_timeout_s=0.5)
        node = BittensorChain(3, subnet.signer("own"), config, register_command="btcli ...")
        with pytest.raises(ChainError, match="cannot connect to ws://127"):
            node.open()
    assert "secret" not in caplog.text


def test_a_network_must_be_named(subnet: Subnet) -> None:
    with pytest.raises(ConfigError, match="must name a network"):
        BittensorChain(3, subnet.signer("own"), BittensorConfig(), register_command="")
