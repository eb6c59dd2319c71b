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
    members = set(current.uids) & set(active)
    is_short = len(members) < min(peers.minimum_peers, len(active))
    if current.uids and not is_short and window % peers.peer_replacement_frequency:
        return current
    uids = _moved(current, _ranked(members, active, weights), weights, peers)
    if uids == current.uids:
        return current
    return PeerList(Window(window + peers.peer_list_window_margin), uids)


def _ranked(members: set[Uid], active: Collection[Uid], weights: Mapping[Uid, float]) -> list[Uid]:
    """Return the active miners, best first."""
    return sorted(active, key=lambda uid: (-weights.get(uid, 0.0), uid not in members, ticket(Window(0), uid), uid))


def _moved(current: PeerList, ranked: list[Uid], weights: Mapping[Uid, float], peers: PeersConfig) -> tuple[Uid, ...]:
    """Return the members after one replacement."""
    with_weight = sum(weights.get(uid, 0.0) > 0 for uid in ranked)
    size = min(peers.max_topk_peers, max(peers.minimum_peers, with_weight) if with_weight else peers.max_topk_peers)
    wanted = ranked[:size]
    members = [uid for uid in ranked if uid in current.uids]
    unwanted = [uid for uid in reversed(members) if uid not in wanted]
    missing = [uid for uid in wanted if uid not in members]
    kept = set(members) - set(unwanted[: peers.peers_to_replace])
    # Places of members that went silent are free, and so are those below the minimum; a first list has only such.
    free = len(current.uids) - len(members) if current.uids else math.inf
    most = max(peers.peers_to_replace + free, peers.minimum_peers - len(kept))
    room = min(most, peers.max_topk_peers - len(kept), len(missing))
    return tuple(sorted(kept | set(missing[: int(room)])))
