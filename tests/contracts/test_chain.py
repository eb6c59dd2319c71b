"""What every chain must do, whichever it is."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from templar_pl.chain.chain import Chain, LeasedAgreement, find_peer
from templar_pl.chain.hotkeys import verify
from templar_pl.errors import ChainError
from templar_pl.units import Block, Hotkey, Uid, Window
from tests.chain.nodes import num_open_files, sha
from tests.contracts.worlds import BLOCKS_PER_WINDOW, BittensorWorld, LockstepWorld, WallWorld, World


@pytest.fixture(params=[LockstepWorld, WallWorld, BittensorWorld])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world = request.param(tmp_path)
    yield world
    world.close()


def agreement_of(chain: Chain) -> LeasedAgreement:
    """Return the record of the chain, or skip the test for a chain that keeps none."""
    if chain.agreement is None:
        pytest.skip("this chain keeps no record of windows")
    return chain.agreement


def test_the_open_window_is_the_one_the_newest_block_lies_in(world: World) -> None:
    chain = world.node("a")

    for _ in range(5):
        assert chain.window() == chain.block() // BLOCKS_PER_WINDOW
        before = chain.window()
        world.end_window()
        assert chain.window() == before + 1


def test_all_nodes_see_the_same_window(world: World) -> None:
    first, second = world.node("a"), world.node("b")

    world.end_window()

    assert first.window() == second.window()


def test_time_is_left_in_the_open_window_and_none_in_those_before(world: World) -> None:
    chain = world.node("a")
    world.end_window()
    window = chain.window()

    assert chain.seconds_left(window) > 0
    assert chain.seconds_left(Window(window - 1)) <= 0


def test_upload_intervals_follow_one_another(world: World) -> None:
    chain = world.node("a")
    for _ in range(3):
        world.end_window()
    intervals = [chain.upload_interval(Window(window)) for window in range(chain.window() + 1)]

    assert all(first <= last for first, last in intervals)
    assert all(earlier[0] < later[0] for earlier, later in itertools.pairwise(intervals))
    assert all(math.isfinite(first) for first, _ in intervals)


def test_blocks_have_rising_times_and_future_ones_have_none(world: World) -> None:
    chain = world.node("a")
    world.end_window()
    newest = chain.block()
    times = [chain.timestamp(Block(block)) for block in range(newest + 1)]

    assert times == sorted(times)
    assert times[0] < times[-1]
    with pytest.raises(ChainError):
        chain.timestamp(Block(newest + 1))


def test_a_hotkey_keeps_its_uid_and_others_get_others(world: World) -> None:
    first, second = world.node("a"), world.node("b")
    uid = first.register()

    assert second.register() != uid
    assert first.register() == uid
    assert world.node("a").register() == uid


def test_an_address_committed_by_one_is_read_by_all(world: World) -> None:
    first, second = world.node("a"), world.node("b")
    uid, other = first.register(), second.register()
    first.commit("account, key id, secret ü")
    assert first.peers()[uid].address == "account, key id, secret ü"
    world.spread()

    for chain in (first, second):
        assert chain.peers().keys() >= {uid, other}
        assert chain.peers()[uid].address == "account, key id, secret ü"
        assert chain.peers()[other].address == ""


def test_a_peer_is_listed_with_the_key_its_signatures_are_checked_with(world: World) -> None:
    chain = world.node("a")
    uid = chain.register()

    peer = chain.peers()[uid]

    assert peer.uid == uid
    assert len(peer.public_key) == 32
    assert peer.hotkey.startswith("5")
    assert verify(peer.public_key, b"", b"") is False


def test_who_registers_is_a_candidate_from_a_later_window_on_the_same_ones_on_all_nodes(world: World) -> None:
    first, second = world.node("a"), world.node("b")
    uid, other = first.register(), second.register()
    before = first.window()
    assert first.candidates(before) == second.candidates(before) == {}

    world.spread()
    after = first.window()
    late = world.node("late")
    newcomer = late.register()

    assert first.candidates(after).keys() >= {uid, other}
    assert newcomer not in first.candidates(after)
    assert first.candidates(after) == second.candidates(after) == late.candidates(after)
    assert late.candidates(before) == {}


def test_a_peer_is_found_by_its_hotkey_where_its_bucket_is_now(world: World) -> None:
    chain = world.node("a")
    uid = chain.register()
    chain.commit("former")
    hotkey = chain.peers()[uid].hotkey
    world.spread()
    chain.commit("latter")
    world.spread()

    found = find_peer(chain, hotkey)

    assert found is not None
    assert (found.uid, found.hotkey, found.address) == (uid, hotkey, "latter")
    assert find_peer(chain, Hotkey("nobody")) is None


def test_peers_are_listed_in_uid_order(world: World) -> None:
    uids = [world.node(name).register() for name in "abcdef"]

    assert list(world.node("a").peers()) == sorted(uids)


def test_an_address_committed_again_replaces_the_former(world: World) -> None:
    chain = world.node("a")
    uid = chain.register()
    chain.commit("former")

    chain.commit("latter")

    assert chain.peers()[uid].address == "latter"


def test_a_hotkey_that_is_not_registered_can_neither_commit_nor_set_weights(world: World) -> None:
    uid, stranger = world.node("a").register(), world.node("stranger", is_registered=False)

    with pytest.raises(ChainError, match="not registered"):
        stranger.commit("address")
    with pytest.raises(ChainError, match="not registered"):
        stranger.set_weights({uid: 1.0})


def test_weights_are_read_back_as_shares(world: World) -> None:
    first, second = world.node("a"), world.node("b")
    one, two = first.register(), second.register()

    first.set_weights({two: 6.0, one: 2.0})
    second.set_weights({one: 0.5, two: 0.0})

    weights = world.node("c").weights()
    assert weights.keys() == {one, two}
    assert weights[one] == pytest.approx({one: 0.25, two: 0.75}, abs=1e-4)
    assert weights[two].get(one) == pytest.approx(1.0, abs=1e-4)


def test_weights_set_again_replace_the_former(world: World) -> None:
    chain, other = world.node("a"), world.node("b")
    uid, second = chain.register(), other.register()
    chain.set_weights({uid: 1.0})

    chain.set_weights({second: 1.0})

    assert {miner for miner, share in chain.weights()[uid].items() if share > 0} == {second}


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 0.0])
def test_weights_out_of_range_are_refused(world: World, weight: float) -> None:
    chain = world.node("a")
    uid = chain.register()

    with pytest.raises(ValueError, match="weight"):
        chain.set_weights({uid: weight})
    assert chain.weights() == {}


def test_weights_of_uids_that_do_not_exist_are_refused(world: World) -> None:
    chain = world.node("a")
    chain.register()

    with pytest.raises(ChainError, match="77"):
        chain.set_weights({Uid(77): 1.0})


def test_a_closed_chain_answers_nothing_and_can_be_opened_again(world: World) -> None:
    chain = world.node("a")
    uid = chain.register()
    chain.close()
    chain.close()

    for ask in (chain.window, chain.block, chain.register, chain.peers, chain.weights):
        with pytest.raises(ChainError, match="open"):
            ask()

    chain.open()
    chain.open()
    assert chain.register() == uid


def test_closing_leaves_no_thread_no_socket_and_no_file_open(world: World) -> None:
    world.node("before").close()
    threads, files = threading.active_count(), num_open_files()
    chain = world.node("a")
    chain.register()
    assert num_open_files() > files

    chain.close()

    assert threading.active_count() == threads
    assert num_open_files() == files


def test_what_needs_an_answer_may_be_asked_for_by_uid(world: World) -> None:
    first = world.node("a")
    first.register()
    other = world.node("b")
    uid = other.register()
    other.commit("where it is")

    assert first.peers([uid])[uid].address == "where it is"


def test_many_threads_may_use_one_chain(world: World) -> None:
    chain = world.node("a")
    uid = chain.register()

    def use(count: int) -> None:
        for turn in range(7):  # a public chain takes some 30 commitments in an epoch
            chain.commit(f"address {count} {turn}")
            assert chain.peers()[uid].address.startswith("address")
            assert chain.window() <= chain.block() // BLOCKS_PER_WINDOW <= chain.window()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(use, count) for count in range(4)]:
            done.result(30)

    assert chain.peers()[uid].address.endswith(" 6")


def test_all_nodes_settle_on_the_same_list(world: World) -> None:
    chains = [world.node(name) for name in "abc"]
    agreements = [agreement_of(chain) for chain in chains]
    expected = {}
    for chain, agreement in zip(chains, agreements, strict=True):
        expected[chain.register()] = sha(f"payload {chain.register()}")
        assert agreement.join(chain.window()) == chain.window()
    window = world.open_uploads()
    for chain, agreement in reversed(list(zip(chains, agreements, strict=True))):
        agreement.announce(window, expected[chain.register()])
    world.end_uploads()

    settlements = [agreement.settle(window, 1.0) for agreement in agreements]

    assert all(settlement == settlements[0] for settlement in settlements)
    assert settlements[0].window == window
    assert list(settlements[0].payloads.items()) == sorted(expected.items())
    assert settlements[0].opened_at <= settlements[0].closed_at
    assert (settlements[0].opened_at, settlements[0].closed_at) == chains[0].upload_interval(window)


def test_a_window_that_cannot_close_yet_is_waited_for_no_longer_than_asked(world: World) -> None:
    chain = world.node("a")
    agreement = agreement_of(chain)
    chain.register()
    agreement.join(chain.window())

    with pytest.raises(ChainError, match=f"window {chain.window()} did not close within 0.05 s"):
        agreement.settle(chain.window(), 0.05)


def test_an_announcement_after_the_list_is_made_is_refused(world: World) -> None:
    chain = world.node("a")
    agreement = agreement_of(chain)
    chain.register()
    agreement.join(chain.window())
    window = world.open_uploads()
    agreement.announce(window, sha("in time"))
    world.end_uploads()
    settlement = agreement.settle(window, 1.0)

    with pytest.raises(ChainError, match=f"window {window} is closed"):
        agreement.announce(window, sha("late"))
    assert agreement.settle(window, 1.0) == settlement


def test_a_hotkey_that_is_not_registered_cannot_join(world: World) -> None:
    chain = world.node("a")
    agreement = agreement_of(chain)

    with pytest.raises(ChainError, match="not registered"):
        agreement.join(chain.window())
