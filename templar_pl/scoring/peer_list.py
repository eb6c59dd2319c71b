"""Whose payloads are gathered: the list of peers, and how it changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from templar_pl.config import PeersConfig
from templar_pl.scoring.choice import ticket
from templar_pl.units import Uid, Window


@dataclass(frozen=True, slots=True)
class PeerList:
    """Whom all nodes gather from."""

    effective_from: Window
    """First window it holds for."""

    uids: tuple[Uid, ...]
    """In ascending order."""


NO_PEERS = PeerList(Window(0), ())
"""What there is before the first list."""


def next_peer_list(
    current: PeerList, window: Window, active: Collection[Uid], weights: Mapping[Uid, float], peers: PeersConfig
) -> PeerList:
    """Return the list that follows from a window, or the current one itself if nothing is to change.

    Wanted are the active miners with the highest weights, up to `max_topk_peers`. If fewer than `minimum_peers` have
    any weight, active miners without fill the list up to that number; if nobody has, up to `max_topk_peers`, since
    nobody is known to be better. Among equals members stay, then SHA-256 of the uid decides.

    The list moves towards what is wanted in windows that are multiples of `peer_replacement_frequency`: the
    `peers_to_replace` worst members that are not wanted make room for as many of the best that are. Members that are
    not active leave besides, and their places are filled. In between it changes only if fewer active members are left
    than `minimum_peers` and others are active.

    Args:
        current: the list now published; `NO_PEERS` if there is none.
        window: whose records gave the weights.
        active: those who sent a payload lately.
        weights: positive weights; all others have 0.
        peers: sizes and periods.

    Returns:
        Only active miners, as many as are active up to `minimum_peers`, at most `max_topk_peers`; effective
        `peer_list_window_margin` windows after `window`.
    """
    ranked = _ranked(current, active, weights)
    return _moved(current, window, ranked, _size(ranked, weights, peers), peers)


def rotated_peer_list(
    current: PeerList,
    window: Window,
    active: Collection[Uid],
    weights: Mapping[Uid, float],
    waiting: Mapping[Uid, Window],
    peers: PeersConfig,
) -> PeerList:
    """Return the list that follows from a window, on which everybody stands from time to time.

    What is sent by those who are not listed counts for nothing and stays in their momentum, so they can hardly show
    what it is worth. So every second replacement, in odd multiples of `peer_replacement_frequency`, is for guests: the
    `peers_to_replace` who have waited longest take places that are free, or those of as many members of the least
    weight. All others are as `next_peer_list` says: by it a guest without weight leaves again.

    Args:
        current: as there.
        window: as there.
        active: as there.
        weights: as there.
        waiting: of active miners who may be guests, the window since which they are not listed; members may be among
            them.
        peers: as there. With `peers_to_replace` 0 there are no guests.

    Returns:
        As there. Whoever waits behind k others is listed after at most k // `peers_to_replace` + 1 replacements for
        guests, however many come after it.
    """
    guests: list[Uid] = []
    if window % (2 * peers.peer_replacement_frequency) == peers.peer_replacement_frequency and current.uids:
        strangers = sorted(waiting.keys() - set(current.uids), key=lambda uid: (waiting[uid], ticket(Window(0), uid)))
        guests = strangers[: peers.peers_to_replace]
    if not guests:
        return next_peer_list(current, window, active, weights, peers)
    ranked = _ranked(current, active, weights)
    size = min(peers.max_topk_peers, _size(ranked, weights, peers) + len(guests))
    return _moved(current, window, guests + [uid for uid in ranked if uid not in guests], size, peers)


def _ranked(current: PeerList, active: Collection[Uid], weights: Mapping[Uid, float]) -> list[Uid]:
    """Return the active miners, best first."""
    members = set(current.uids)
    return sorted(active, key=lambda uid: (-weights.get(uid, 0.0), uid not in members, ticket(Window(0), uid), uid))


def _size(active: Collection[Uid], weights: Mapping[Uid, float], peers: PeersConfig) -> int:
    """Return how many are wanted."""
    with_weight = sum(weights.get(uid, 0.0) > 0 for uid in active)
    return min(peers.max_topk_peers, max(peers.minimum_peers, with_weight) if with_weight else peers.max_topk_peers)


def _moved(current: PeerList, window: Window, ranked: list[Uid], size: int, peers: PeersConfig) -> PeerList:
    """Return the list after a window, moved towards the first `size` of the active miners if it is time for it."""
    members = [uid for uid in ranked if uid in current.uids]
    is_short = len(members) < min(peers.minimum_peers, len(ranked))
    if current.uids and not is_short and window % peers.peer_replacement_frequency:
        return current
    wanted = ranked[:size]
    unwanted = [uid for uid in reversed(members) if uid not in wanted]
    missing = [uid for uid in wanted if uid not in members]
    kept = set(members) - set(unwanted[: peers.peers_to_replace])
    # Places of members that went silent are free, and so are those below the minimum; a first list has only such.
    free = len(current.uids) - len(members) if current.uids else math.inf
    most = max(peers.peers_to_replace + free, peers.minimum_peers - len(kept))
    room = min(most, peers.max_topk_peers - len(kept), len(missing))
    uids = tuple(sorted(kept | set(missing[: int(room)])))
    return current if uids == current.uids else PeerList(Window(window + peers.peer_list_window_margin), uids)
