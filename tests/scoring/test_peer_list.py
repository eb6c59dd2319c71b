"""Whose payloads are gathered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.config import PeersConfig
from templar_pl.scoring import NO_PEERS, PeerList, next_peer_list, rotated_peer_list
from templar_pl.units import Uid, Window

uid_sets = st.sets(st.integers(0, 15).map(Uid), max_size=12)
weights = st.dictionaries(st.integers(0, 15).map(Uid), st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4]), max_size=12)
windows = st.integers(0, 40).map(Window)


@st.composite
def configs(draw: st.DrawFn) -> PeersConfig:
    most = draw(st.integers(1, 8))
    return PeersConfig(
        max_topk_peers=most,
        minimum_peers=draw(st.integers(1, most)),
        peers_to_replace=draw(st.integers(0, most)),
        peer_replacement_frequency=draw(st.integers(1, 5)),
        peer_list_window_margin=draw(st.integers(0, 3)),
    )


@st.composite
def lists(draw: st.DrawFn, peers: PeersConfig) -> PeerList:
    uids = draw(st.sets(st.integers(0, 15).map(Uid), max_size=peers.max_topk_peers))
    return PeerList(Window(0), tuple(sorted(uids)))


@given(st.data(), configs(), windows, uid_sets, weights)
def test_a_list_that_changes_keeps_to_its_bounds(
    data: st.DataObject, peers: PeersConfig, window: Window, active: set[Uid], found: dict[Uid, float]
) -> None:
    current = data.draw(lists(peers))
    new = next_peer_list(current, window, active, found, peers)

    if new is current:
        return
    joined, left = set(new.uids) - set(current.uids), set(current.uids) - set(new.uids)
    gone = left - active
    assert new.effective_from == window + peers.peer_list_window_margin
    assert set(new.uids) <= active
    assert list(new.uids) == sorted(set(new.uids)) != list(current.uids)
    assert min(peers.minimum_peers, len(active)) <= len(new.uids) <= peers.max_topk_peers
    assert len(left - gone) <= peers.peers_to_replace
    if current.uids and len(joined) > peers.peers_to_replace + len(gone):
        assert len(new.uids) == min(peers.minimum_peers, len(active))  # only what the minimum asks for


@given(st.data(), configs(), uid_sets, weights)
def test_a_list_comes_to_rest_at_the_active_miners_with_the_most_weight(
    data: st.DataObject, peers: PeersConfig, active: set[Uid], found: dict[Uid, float]
) -> None:
    current = data.draw(lists(peers))
    for window in map(Window, range(0, 60 * peers.peer_replacement_frequency)):
        current = next_peer_list(current, window, active, found, peers)

    settled = current
    assert next_peer_list(settled, Window(0), active, found, peers) is settled
    members = [found.get(uid, 0.0) for uid in settled.uids]
    if peers.peers_to_replace and members:
        left_out = [found.get(uid, 0.0) for uid in active - set(settled.uids)]
        assert not left_out or max(left_out) <= min(members) or len(members) < peers.max_topk_peers
        wanted = sum(found.get(uid, 0.0) > 0 for uid in active)
        least = peers.minimum_peers if wanted else peers.max_topk_peers
        assert len(members) == min(peers.max_topk_peers, len(active), max(least, wanted))


@given(st.data(), configs(), windows, uid_sets, weights)
def test_a_list_with_guests_keeps_to_the_same_bounds(
    data: st.DataObject, peers: PeersConfig, window: Window, active: set[Uid], found: dict[Uid, float]
) -> None:
    current = data.draw(lists(peers))
    waiting = {uid: data.draw(windows) for uid in active if data.draw(st.booleans())}
    new = rotated_peer_list(current, window, active, found, waiting, peers)

    left = (set(current.uids) - set(new.uids)) & active
    stayed = set(new.uids) & set(current.uids)
    if new is not current:
        assert set(new.uids) <= active
        assert min(peers.minimum_peers, len(active)) <= len(new.uids) <= peers.max_topk_peers
    assert len(left) <= peers.peers_to_replace
    # Whoever makes room has the least weight of all members.
    assert max((found.get(uid, 0.0) for uid in left), default=0.0) <= min(
        (found.get(uid, 0.0) for uid in stayed), default=1.0
    )
    if window % (2 * peers.peer_replacement_frequency) != peers.peer_replacement_frequency:
        assert new == next_peer_list(current, window, active, found, peers)


@given(st.data(), configs(), uid_sets)
def test_everybody_who_is_active_is_listed_within_so_many_replacements(
    data: st.DataObject, peers: PeersConfig, active: set[Uid]
) -> None:
    """Whatever happens to weights."""
    if not peers.peers_to_replace:
        return
    current, since = data.draw(lists(peers)), {uid: data.draw(windows) for uid in sorted(active)}
    first = Window(41)
    turns = -(-len(active) // peers.peers_to_replace)
    seen: set[Uid] = set()
    for window in map(Window, range(first, first + 2 * peers.peer_replacement_frequency * (turns + 1))):
        found = data.draw(weights) if window % peers.peer_replacement_frequency == 0 else {}
        current = rotated_peer_list(current, window, active, found, since, peers)
        seen |= set(current.uids)
        since |= {uid: window for uid in current.uids if uid in active}

    assert seen >= active


@given(st.data(), configs(), windows, uid_sets, weights)
def test_the_order_of_miners_and_weights_does_not_matter(
    data: st.DataObject, peers: PeersConfig, window: Window, active: set[Uid], found: dict[Uid, float]
) -> None:
    current = data.draw(lists(peers))
    there = next_peer_list(current, window, sorted(active), found, peers)

    assert there == next_peer_list(current, window, sorted(active, reverse=True), dict(reversed(found.items())), peers)


def weigh(*order: int) -> dict[Uid, float]:
    """Weights that fall in this order."""
    return {Uid(uid): 1.0 / (place + 1) for place, uid in enumerate(order)}


SMALL = PeersConfig(max_topk_peers=3, minimum_peers=2, peers_to_replace=1, peer_replacement_frequency=5)
FIVE = [Uid(uid) for uid in range(5)]


def test_the_first_list_holds_the_best_at_once() -> None:
    assert next_peer_list(NO_PEERS, Window(7), FIVE, weigh(4, 2, 0, 1), SMALL) == PeerList(
        Window(9), (Uid(0), Uid(2), Uid(4))
    )


def test_one_member_is_exchanged_every_fifth_window() -> None:
    current = PeerList(Window(9), (Uid(0), Uid(2), Uid(4)))

    assert next_peer_list(current, Window(9), FIVE, weigh(1, 3, 2, 0, 4), SMALL) is current
    assert next_peer_list(current, Window(10), FIVE, weigh(1, 3, 2, 0, 4), SMALL) == PeerList(
        Window(12), (Uid(0), Uid(1), Uid(2))
    )


def test_without_any_weight_the_list_is_as_long_as_it_may_be() -> None:
    assert len(next_peer_list(NO_PEERS, Window(0), FIVE, {}, SMALL).uids) == 3


def test_miners_without_weight_only_fill_up_to_the_minimum() -> None:
    listed = next_peer_list(NO_PEERS, Window(0), FIVE, weigh(3), SMALL)

    assert len(listed.uids) == 2
    assert Uid(3) in listed.uids


def test_a_silent_member_leaves_at_the_next_replacement() -> None:
    current = PeerList(Window(0), (Uid(0), Uid(1), Uid(2)))
    active = [Uid(1), Uid(2), Uid(3), Uid(4)]

    assert next_peer_list(current, Window(4), active, weigh(1, 2, 3), SMALL) is current
    assert next_peer_list(current, Window(5), active, weigh(1, 2, 3), SMALL).uids == (1, 2, 3)


def test_a_list_below_the_minimum_is_filled_at_once() -> None:
    current = PeerList(Window(0), (Uid(0), Uid(1), Uid(2)))

    assert next_peer_list(current, Window(4), [Uid(1), Uid(3), Uid(4)], weigh(4, 1), SMALL).uids == (1, 4)


def test_a_short_list_is_filled_to_the_minimum_whatever_may_be_replaced() -> None:
    peers = PeersConfig(max_topk_peers=5, minimum_peers=4, peers_to_replace=0)

    assert len(next_peer_list(PeerList(Window(0), (Uid(0),)), Window(5), FIVE, weigh(1, 2, 3, 4), peers).uids) == 4


@pytest.mark.parametrize("members", [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)])
def test_members_stay_among_equals(members: tuple[int, int]) -> None:
    current = PeerList(Window(0), (Uid(members[0]), Uid(members[1])))

    peers = PeersConfig(max_topk_peers=2, minimum_peers=2)
    assert next_peer_list(current, Window(5), FIVE, {}, peers) is current


@pytest.mark.parametrize("window", [0, 5])
def test_nobody_active_empties_the_list(window: int) -> None:
    current = PeerList(Window(0), (Uid(0),))

    assert next_peer_list(current, Window(window), [], {}, SMALL).uids == ()


def turn(current: tuple[int, ...], window: int, waiting: dict[int, int], found: dict[Uid, float]) -> tuple[int, ...]:
    listed = PeerList(Window(0), tuple(map(Uid, current)))
    since = {Uid(uid): Window(when) for uid, when in waiting.items()}
    return rotated_peer_list(listed, Window(window), FIVE, found, since, SMALL).uids


def test_every_second_replacement_is_for_who_waited_longest_and_the_least_makes_room() -> None:
    best = weigh(2, 0, 1)

    assert turn((0, 1, 2), 5, {3: 4, 4: 2}, best) == (0, 2, 4)
    assert turn((0, 2, 4), 9, {3: 4, 1: 8}, best) == (0, 2, 4)
    assert turn((0, 2, 4), 10, {3: 4, 1: 8}, best) == (0, 1, 2)
    assert turn((0, 1, 2), 15, {3: 4, 4: 14}, best) == (0, 2, 3)


def test_a_guest_takes_a_free_place_first() -> None:
    assert turn((0, 2), 5, {3: 4, 4: 2}, weigh(2, 0)) == (0, 2, 4)
    assert turn((0, 2, 4), 10, {3: 4}, weigh(2, 0)) == (0, 2)


def test_a_guest_who_earned_weight_stays_at_the_expense_of_who_has_less() -> None:
    assert turn((0, 2, 4), 10, {1: 8}, weigh(2, 4, 0, 1)) == (0, 2, 4)


def test_a_first_list_and_one_that_is_too_short_are_filled_by_weight() -> None:
    assert turn((), 5, {3: 4, 4: 2}, weigh(2, 0, 1)) == (0, 1, 2)
    assert turn((0,), 6, {3: 4, 4: 2}, weigh(2, 0, 1)) == (0, 2)
