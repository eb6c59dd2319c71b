"""A node through outages of its chain: windows go on, nothing waits, and nothing is lost."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.block_clock import BlockClock
from templar_pl.errors import ChainError
from templar_pl.units import Block, Uid, Window
from tests.chain.nodes import ManualTime, wait_until
from tests.chain.subnets import Subnet, lines_of, mining_irregularly
from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_link import Link

BLOCK_S = 0.4
BLOCKS_PER_WINDOW = 2
NUM_WINDOWS = 5
JITTER = 0.15
SCHEDULING_S = 0.1
"""What threads of a busy computer may be late."""

FAULTS: dict[str, Callable[[Link], None]] = {
    "cut": lambda link: link.cut(),
    "retry": lambda link: link.cut(retry_forever=True),
    "hang": lambda link: link.hang(),
}


@dataclass
class Training:
    """What a thread that never may wait notices of the chain."""

    chain: BittensorChain
    seen: dict[Block, float] = field(default_factory=dict)
    """When each block, and so each window, was there first."""

    took_s: list[float] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def run(self, is_over: threading.Event) -> None:
        while not is_over.wait(0.01):
            try:
                self._look()
            except ChainError as error:
                self.errors.append(error)

    def _look(self) -> None:
        for ask in (self._window, self.chain.peers, lambda: self.chain.candidates(self.chain.window())):
            began = time.monotonic()
            ask()
            self.took_s.append(time.monotonic() - began)

    def _window(self) -> None:
        window = self.chain.window()
        self.windows.append(window)
        assert self.chain.seconds_left(Window(window + 1)) > 0
        block = self.chain.block()
        for passed in range(max(self.seen, default=block - 1) + 1, block + 1):
            self.seen[Block(passed)] = time.monotonic()


@contextmanager
def training_on(chain: BittensorChain) -> Iterator[Training]:
    """Let a thread train until the block ends; what it raises is raised then."""
    training, over = Training(chain), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(training.run, over)
        try:
            yield training
        finally:
            over.set()
        running.result(10)


@dataclass
class Outage:
    """One outage, from before to after."""

    made: dict[Block, float]
    training: Training
    lines: list[str]
    first: Block
    """The last block before the outage, and the last in it."""

    last: Block
    commit_error: ChainError
    commit_s: float
    weights_s: float
    reckoned: dict[Window, float]
    """When windows that ended in the outage did, by the node's word in the outage."""

    told: dict[Window, float]
    """The same by the chain's word, afterwards."""

    weights: dict[Uid, float]
    address: str
    apart: list[int]
    """Blocks between the node and the chain, at the end."""


def node_on(subnet: Subnet, network: str) -> BittensorChain:
    """Return a node that gives up soon, not open."""
    return subnet.node(
        "own",
        network=network,
        blocks_per_window=BLOCKS_PER_WINDOW,
        request_timeout_s=1.0,
        submit_timeout_s=4.0,
        delta_s=0.1,
    )


def speak_to_nobody(node: BittensorChain, weights: dict[Uid, float]) -> tuple[ChainError, float, float]:
    """Commit, and set weights, in an outage; return how the first fails, and the seconds that each takes."""
    began = time.monotonic()
    with pytest.raises(ChainError) as commit_error:
        node.commit("too early")
    commit_s, began = time.monotonic() - began, time.monotonic()
    node.set_weights(weights)
    return commit_error.value, commit_s, time.monotonic() - began


def ends_of(node: BittensorChain, windows: Iterable[Window]) -> dict[Window, float]:
    return {window: node.upload_interval(window)[0] for window in windows}


def blocks_apart(node: BittensorChain, fake: FakeSubtensor) -> list[int]:
    """Return by how many blocks a node differs from its chain, a moment after each of the next three."""
    apart = []
    for _ in range(3):
        head = fake.head.number
        wait_until(lambda head=head: fake.head.number > head)
        time.sleep(SCHEDULING_S)
        apart.append(node.block() - fake.head.number)
    return apart


def come_back(node: BittensorChain, link: Link, lines: list[str]) -> None:
    """End an outage; return when the chain has the weights of the outage, and an address."""
    link.mend()
    wait_until(lambda: any("is back at block" in line for line in lines))
    wait_until(lambda: bool(node.weights()))
    node.commit("where it is")


def live_through(folder: Path, fault: str) -> Outage:
    subnet = Subnet(folder, head=110, seconds_per_block=BLOCK_S, mines_on_submission=False)
    own, other = Uid(subnet.join("own")), Uid(subnet.join("other"))
    network = f"ws://{fault}.test:9944"
    node, fake = node_on(subnet, network), subnet.fake
    with lines_of(network) as lines, mining_irregularly(fake, JITTER) as made:
        try:
            node.open()
            with training_on(node) as training:
                wait_until(lambda: len(made) >= 3)
                FAULTS[fault](fake.link)
                first = Block(fake.head.number)
                wait_until(lambda: fake.head.number >= first + 2 * BLOCKS_PER_WINDOW)
                commit_error, commit_s, weights_s = speak_to_nobody(node, {other: 3.0, own: 1.0})
                wait_until(lambda: fake.head.number >= first + NUM_WINDOWS * BLOCKS_PER_WINDOW)
                reckoned = ends_of(node, [Window(node.window() - ago) for ago in (1, 2)])
                last = Block(fake.head.number)
                come_back(node, fake.link, lines)
                told = ends_of(node, reckoned)
                apart = blocks_apart(node, fake)
            return Outage(
                dict(made),
                training,
                list(lines),
                first,
                last,
                commit_error,
                commit_s,
                weights_s,
                reckoned,
                told,
                node.weights()[own],
                node.peers()[own].address,
                apart,
            )
        finally:
            fake.link.mend()
            subnet.close()


@pytest.fixture(scope="module")
def outages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outage]]:
    """Return an outage of each kind; they are lived through at the same time, since they mostly wait."""
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        futures = {fault: pool.submit(live_through, tmp_path_factory.mktemp(fault), fault) for fault in FAULTS}
        yield {fault: future.result(120) for fault, future in futures.items()}


@pytest.fixture(params=list(FAULTS))
def outage(request: pytest.FixtureRequest, outages: dict[str, Outage]) -> Outage:
    return outages[request.param]


def test_windows_go_on_within_a_block_of_the_right_time(outage: Outage) -> None:
    late_s = [
        outage.training.seen[block] - outage.made[block]
        for block in map(Block, range(outage.first + 1, outage.last + 1))
    ]

    assert len(late_s) >= NUM_WINDOWS * BLOCKS_PER_WINDOW
    assert max(map(abs, late_s)) < BLOCK_S + SCHEDULING_S


def test_nobody_waits_and_nothing_is_raised_in_an_outage(outage: Outage) -> None:
    assert outage.training.errors == []
    assert len(outage.training.took_s) > 500
    assert statistics.quantiles(outage.training.took_s, n=100)[98] < 0.02
    assert max(outage.training.took_s) < 0.5  # nothing asks a chain that is silent: that takes 1 s


def test_windows_never_run_backwards_in_an_outage(outage: Outage) -> None:
    assert outage.training.windows == sorted(outage.training.windows)


def test_one_line_says_that_the_chain_is_lost_and_one_that_it_is_back(outage: Outage) -> None:
    changes = [line for line in outage.lines if "weights" not in line and "is reckoned" not in line]

    assert [("no connection to" in line, "is back at block" in line) for line in changes] == [
        (True, False),
        (False, True),
    ]


def test_one_line_says_that_times_are_reckoned(outage: Outage) -> None:
    assert sum("is reckoned" in line for line in outage.lines) == 1


def test_weights_that_are_set_in_an_outage_are_set_after_it(outage: Outage) -> None:
    assert outage.weights_s < 0.5
    assert outage.weights == pytest.approx({0: 0.25, 1: 0.75}, abs=1e-3)


def test_a_commitment_in_an_outage_fails_in_time_and_works_after_it(outage: Outage) -> None:
    assert outage.commit_s < 1.5
    assert "cannot read the uid" in str(outage.commit_error)
    assert outage.address == "where it is"


def test_ends_of_windows_in_an_outage_are_reckoned_within_a_block(outage: Outage) -> None:
    for window, utc in outage.reckoned.items():
        assert abs(utc - outage.told[window]) < BLOCK_S + SCHEDULING_S


def test_blocks_agree_with_the_chain_after_an_outage(outage: Outage) -> None:
    assert outage.apart[-1] == 0


def held_back(subnet: Subnet) -> tuple[BittensorChain, BlockClock]:
    """Return a node that has counted to block 105 without heads."""
    subnet.join("own")
    hand = ManualTime(0.0)
    clock = BlockClock(hand)
    node = subnet.opened("own", clock=clock)
    subnet.fake.link.cut()
    wait_until(lambda: clock.is_lost)
    hand.utc = 5 * subnet.fake.seconds_per_block
    assert node.block() == 105
    return node, clock


def test_what_was_counted_too_far_is_held_until_the_chain_is_there(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.5)
    try:
        node, _ = held_back(subnet)
        with lines_of("local") as lines:
            subnet.fake.mine(3)
            subnet.fake.link.mend()
            wait_until(
                lambda: any("is back at block 103; this node had counted to block 105" in line for line in lines)
            )
        blocks = []
        for _ in range(4):
            blocks.append(node.block())
            head = subnet.fake.mine().number
            wait_until(lambda head=head: node.block() >= head)
        blocks.append(node.block())
    finally:
        subnet.close()

    assert blocks == [105, 105, 105, 106, 107]


def test_a_block_that_was_counted_too_far_is_dated_when_it_is_made(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.5)
    try:
        node, clock = held_back(subnet)
        subnet.fake.mine(3)
        subnet.fake.link.mend()
        wait_until(lambda: not clock.is_lost)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(node.upload_interval, Window(20))  # ends with block 105
            time.sleep(0.2)
            assert not asked.done()
            subnet.fake.mine(2, seconds=0.7)
            first, _ = asked.result(10)
        assert first == pytest.approx(subnet.fake.block(105).timestamp_ms / 1000, abs=0.01)
    finally:
        subnet.close()


def test_where_a_register_is_due_in_an_outage_the_newest_counts_and_one_line_says_so(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.5)
    late = Window(160 // 5)  # goes by the register of block 150
    try:
        node, clock = held_back(subnet)
        with lines_of("local") as lines:
            assert [node.candidates(late) for _ in range(3)] == [node.peers()] * 3
            subnet.fake.mine(49)
            newcomer = subnet.join("newcomer")
            subnet.fake.mine(11)
            subnet.fake.link.mend()
            wait_until(lambda: not clock.is_lost and node.block() == 160)
            # Read at last, as it was at block 150, though the newest was used in its place before.
            assert newcomer in node.candidates(late)
    finally:
        subnet.close()

    assert ["register of block 150" in line for line in lines] == [True, False]


def test_of_several_outages_in_a_row_each_is_told_once(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=110, seconds_per_block=0.2)
    subnet.join("own")
    link = subnet.fake.link
    try:
        with lines_of("local") as lines:
            node = subnet.opened("own")
            node.candidates(node.window())  # reads the register of block 100; none is due before block 158
            for count, fault in enumerate(FAULTS.values(), 1):
                wait_until(lambda: link.num_subscribed > 0)
                fault(link)
                wait_until(lambda count=count: sum("no connection" in line for line in lines) == count)
                subnet.fake.mine(2)
                link.mend()
                wait_until(lambda count=count: sum("is back at block" in line for line in lines) == count)
            head = subnet.fake.mine(3).number
            wait_until(lambda: node.block() == head)
    finally:
        subnet.close()

    assert ["is back at block" in line for line in lines] == [False, True] * len(FAULTS)
