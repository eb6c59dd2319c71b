"""Windows that end when every live miner has announced."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.errors import ChainError
from templar_pl.protocol.agreement import Settlement
from templar_pl.units import Block, Uid, Window
from tests.chain.nodes import PATIENCE_S, START, ManualTime, joined, local_chain, sha

LEASE_S = 20.0
Node = Callable[..., LocalChain]


@pytest.fixture
def clock() -> ManualTime:
    return ManualTime()


@pytest.fixture
def node(tmp_path: Path, clock: ManualTime) -> Iterator[Node]:
    """Make nodes of one chain: `node("a", min_miners=2)`, opened and registered."""
    made: list[LocalChain] = []

    def make(name: str, min_miners: int = 1, blocks_per_window: int = 7) -> LocalChain:
        config = LocalChainConfig(lease_s=LEASE_S, min_miners=min_miners, blocks_per_window=blocks_per_window)
        chain = local_chain(tmp_path, name, config, clock)
        chain.open()
        chain.register()
        made.append(chain)
        return chain

    yield make
    for chain in made:
        chain.close()


def pass_window(*chains: LocalChain) -> Settlement:
    """Let all given nodes announce for the open window and settle it; return the one list."""
    window = chains[0].window()
    for chain in chains:
        chain.agreement.announce(window, sha(f"{chain.register()} {window}"))
    settlements = [chain.agreement.settle(window, 0.0) for chain in chains]
    assert all(settlement == settlements[0] for settlement in settlements)
    return settlements[0]


def test_the_window_moves_on_when_every_live_miner_has_announced(node: Node) -> None:
    a, b = joined(node("a")), joined(node("b"))

    a.agreement.announce(Window(0), sha("a"))
    with pytest.raises(ChainError, match=r"uids \[1\] have not announced"):
        a.agreement.settle(Window(0), 0.0)
    b.agreement.announce(Window(0), sha("b"))

    assert a.agreement.settle(Window(0), 0.0).payloads == {0: sha("a"), 1: sha("b")}
    assert b.window() == 1


def test_a_wait_ends_as_soon_as_the_last_miner_announces(node: Node) -> None:
    a, b = joined(node("a")), joined(node("b"))
    a.agreement.announce(Window(0), sha("a"))
    found: list[Settlement] = []
    waiter = threading.Thread(target=lambda: found.append(a.agreement.settle(Window(0), PATIENCE_S)))
    waiter.start()

    b.agreement.announce(Window(0), sha("b"))
    waiter.join(PATIENCE_S)

    assert found == [b.agreement.settle(Window(0), 0.0)]


def test_payloads_are_listed_in_uid_order_whoever_came_first(node: Node) -> None:
    chains = [joined(node(name)) for name in "abc"]

    assert list(pass_window(*reversed(chains)).payloads) == [0, 1, 2]


def test_announcing_again_while_the_window_is_open_replaces_the_hash(node: Node) -> None:
    a = joined(node("a"))
    a.agreement.announce(Window(0), sha("first"))

    a.agreement.announce(Window(0), sha("second"))

    assert a.agreement.settle(Window(0), 0.0).payloads == {Uid(0): sha("second")}


def test_announcing_for_a_closed_window_is_refused_and_changes_nothing(node: Node) -> None:
    a = joined(node("a"))
    settlement = pass_window(a)

    with pytest.raises(ChainError, match="window 0 is closed"):
        a.agreement.announce(Window(0), sha("late"))

    assert a.agreement.settle(Window(0), 0.0) == settlement


def test_announcing_for_a_window_to_come_is_refused(node: Node) -> None:
    a = joined(node("a"))

    with pytest.raises(ChainError, match="window 1 is not open yet"):
        a.agreement.announce(Window(1), sha("early"))


def test_announcing_without_having_joined_is_refused(node: Node) -> None:
    a = node("a")

    with pytest.raises(ChainError, match="does not take part"):
        a.agreement.announce(Window(0), sha("a"))


def test_a_hash_of_another_length_is_a_bug_of_the_caller(node: Node) -> None:
    a = joined(node("a"))

    with pytest.raises(ValueError, match="32 bytes, got 3"):
        a.agreement.announce(Window(0), b"abc")


@pytest.mark.parametrize("asked", [0, 2, 10])
def test_joining_at_any_other_window_than_the_open_one_joins_nothing(node: Node, asked: int) -> None:
    a, b = joined(node("a")), node("b")
    pass_window(a)

    assert b.agreement.join(Window(asked)) == 1
    with pytest.raises(ChainError, match="does not take part"):
        b.agreement.announce(Window(1), sha("b"))
    assert pass_window(a).payloads.keys() == {0}


def test_a_miner_that_joins_is_waited_for_in_that_very_window(node: Node) -> None:
    a, b = joined(node("a")), node("b")
    a.agreement.announce(Window(0), sha("a"))

    assert b.agreement.join(Window(0)) == 0

    with pytest.raises(ChainError, match=r"uids \[1\]"):
        a.agreement.settle(Window(0), 0.0)


def test_the_first_window_stays_open_until_enough_miners_have_joined(node: Node) -> None:
    a, b = joined(node("a", min_miners=2)), node("b", min_miners=2)
    a.agreement.announce(Window(0), sha("a"))
    with pytest.raises(ChainError, match=r"1 of 2 miners have joined \(min_miners\)"):
        a.agreement.settle(Window(0), 0.0)

    joined(b)
    b.agreement.announce(Window(0), sha("b"))

    assert len(a.agreement.settle(Window(0), 0.0).payloads) == 2


def test_later_windows_do_not_wait_for_min_miners(node: Node) -> None:
    a, b = joined(node("a", min_miners=2)), joined(node("b", min_miners=2))
    pass_window(a, b)

    b.agreement.leave()

    assert pass_window(a).payloads.keys() == {0}


def test_a_window_nobody_announced_for_stays_open(node: Node, clock: ManualTime) -> None:
    a = joined(node("a"))
    pass_window(a)

    clock.utc += 100 * LEASE_S

    with pytest.raises(ChainError, match="nobody has announced"):
        node("observer").agreement.settle(Window(1), 0.0)
    assert a.window() == 1


def test_a_silent_miner_loses_its_lease_and_the_others_go_on(node: Node, clock: ManualTime) -> None:
    a, silent = joined(node("a")), joined(node("silent"))
    a.agreement.announce(Window(0), sha("a"))
    clock.utc += LEASE_S - 0.001
    with pytest.raises(ChainError, match=r"uids \[1\]"):
        a.agreement.settle(Window(0), 0.0)

    clock.utc += 0.001

    assert a.agreement.settle(Window(0), 0.0).payloads == {0: sha("a")}
    with pytest.raises(ChainError, match="silent for 20 s"):
        silent.agreement.announce(Window(1), sha("silent"))
    assert silent.agreement.join(Window(1)) == 1
    assert pass_window(a, silent).payloads.keys() == {0, 1}


def test_a_miner_that_announced_and_died_is_in_the_list_but_not_waited_for_next(node: Node, clock: ManualTime) -> None:
    a, dead = joined(node("a")), joined(node("dead"))
    assert pass_window(a, dead).payloads.keys() == {0, 1}
    a.agreement.announce(Window(1), sha("a"))

    clock.utc += LEASE_S

    assert a.agreement.settle(Window(1), 0.0).payloads.keys() == {0}


def test_a_touch_each_batch_keeps_the_lease(node: Node, clock: ManualTime) -> None:
    a, slow = joined(node("a")), joined(node("slow"))
    a.agreement.announce(Window(0), sha("a"))

    for _ in range(100):
        clock.utc += LEASE_S / 5
        slow.agreement.touch()
        with pytest.raises(ChainError, match=r"uids \[1\]"):
            a.agreement.settle(Window(0), 0.0)
    slow.agreement.announce(Window(0), sha("slow"))

    assert len(a.agreement.settle(Window(0), 0.0).payloads) == 2


def test_waiting_keeps_the_lease_of_the_one_that_waits(node: Node, clock: ManualTime) -> None:
    early, slow = joined(node("early")), joined(node("slow"))
    early.agreement.announce(Window(0), sha("early"))
    for _ in range(10):
        clock.utc += LEASE_S / 2
        slow.agreement.touch()
        with pytest.raises(ChainError):
            early.agreement.settle(Window(0), 0.0)
    slow.agreement.announce(Window(0), sha("slow"))
    slow.agreement.settle(Window(0), 0.0)

    slow.agreement.announce(Window(1), sha("slow"))

    with pytest.raises(ChainError, match=r"uids \[0\]"):
        slow.agreement.settle(Window(1), 0.0)


def test_nobody_waits_for_a_miner_that_left(node: Node) -> None:
    a, b = joined(node("a")), joined(node("b"))
    a.agreement.announce(Window(0), sha("a"))

    b.agreement.leave()

    assert a.agreement.settle(Window(0), 0.0).payloads == {0: sha("a")}


def test_a_node_that_never_joined_can_settle_and_close(node: Node) -> None:
    a, observer = joined(node("a")), node("observer")
    a.agreement.announce(Window(0), sha("a"))

    assert observer.agreement.settle(Window(0), 0.0).payloads == {0: sha("a")}


def test_a_second_process_with_the_same_hotkey_takes_the_place_of_the_first(node: Node) -> None:
    first, second = joined(node("same")), joined(node("same"))

    with pytest.raises(ChainError, match="another one with the same hotkey"):
        first.agreement.announce(Window(0), sha("first"))

    assert pass_window(second).payloads == {Uid(0): sha("0 0")}


def test_closing_the_chain_ends_a_wait_in_another_thread(node: Node) -> None:
    a, _ = joined(node("a")), joined(node("b"))
    ended: list[str] = []

    def wait() -> None:
        try:
            a.agreement.settle(Window(0), PATIENCE_S)
        except ChainError as error:
            ended.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    a.close()
    waiter.join(PATIENCE_S)

    assert len(ended) == 1


def test_uploads_of_the_open_window_have_no_last_moment(node: Node, clock: ManualTime) -> None:
    a = joined(node("a"))
    assert a.upload_interval(Window(0)) == (START, math.inf)

    clock.utc += 5
    pass_window(a)

    assert a.upload_interval(Window(0)) == (START, START + 5)
    assert a.upload_interval(Window(1)) == (START + 5, math.inf)
    assert (a.seconds_left(Window(0)), a.seconds_left(Window(1)), a.seconds_left(Window(2))) == (0, math.inf, math.inf)


def test_the_blocks_of_a_window_are_spread_evenly_over_it(node: Node, clock: ManualTime) -> None:
    a = joined(node("a", blocks_per_window=4))

    clock.utc += 8
    pass_window(a)

    assert [a.timestamp(Block(block)) - START for block in range(5)] == [0, 2, 4, 6, 8]
    with pytest.raises(ChainError, match="block 5 is not made yet; the newest is 4"):
        a.timestamp(Block(5))


def act(chain: LocalChain, what: str, window: Window, text: str) -> Settlement | None:
    """Let a node do one thing; return the list if one was made. A refusal counts as nothing done."""
    try:
        if what == "join":
            assert chain.agreement.join(window) == window
        elif what == "announce":
            chain.agreement.announce(window, sha(text))
        elif what == "settle":
            return chain.agreement.settle(window, 0.0)
        else:
            chain.agreement.leave()
    except ChainError:
        return None
    return None


FEWER = settings(max_examples=settings().max_examples // 4)  # each example writes files


@FEWER
@given(
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["join", "announce", "settle", "leave", "wait"]))),
    blocks_per_window=st.integers(1, 9),
)
def test_whatever_miners_do_the_window_rises_and_closed_lists_stand(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]], blocks_per_window: int
) -> None:
    folder, clock = tmp_path_factory.mktemp("chain"), ManualTime()
    config = LocalChainConfig(lease_s=LEASE_S, blocks_per_window=blocks_per_window)
    chains = {name: local_chain(folder, name, config, clock) for name in "ab"}
    for chain in chains.values():
        chain.open()
        chain.register()
    lists: list[Settlement] = []

    for place, (name, what) in enumerate(steps):
        if what == "wait":
            clock.utc += LEASE_S / 2
        elif settlement := act(chains[name], what, Window(len(lists)), f"{name} {place}"):
            assert settlement.payloads
            lists.append(settlement)
        assert chains["a"].window() == len(lists) == chains["a"].block() // blocks_per_window

    for chain in chains.values():
        assert [chain.agreement.settle(settlement.window, 0.0) for settlement in lists] == lists
        chain.close()
