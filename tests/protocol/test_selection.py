"""Choosing peers: bounded, deterministic, fair."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.protocol.selection import select_peers
from templar_pl.units import Uid, Window

uid_sets = st.sets(st.integers(0, 10_000).map(Uid), max_size=40)


@given(uid_sets, st.integers(1, 50), st.integers(0, 10**9))
def test_the_choice_is_bounded_sorted_and_ignores_the_order_of_arrival(
    uids: set[Uid], max_peers: int, window: int
) -> None:
    chosen = select_peers(sorted(uids), max_peers, Window(window))

    assert chosen == sorted(set(chosen))
    assert set(chosen) <= uids
    assert len(chosen) == min(max_peers, len(uids))
    assert chosen == select_peers(sorted(uids, reverse=True), max_peers, Window(window))


def test_over_many_windows_everybody_is_chosen_about_equally_often() -> None:
    uids = [Uid(u) for u in range(10)]

    taken = Counter(uid for window in range(2000) for uid in select_peers(uids, 5, Window(window)))

    assert all(900 < taken[uid] < 1100 for uid in uids)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        select_peers([Uid(1)], 0, Window(0))
