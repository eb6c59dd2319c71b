"""Keys and pauses."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.exchange.store import check_key, check_prefix, retry_delay_s

SEGMENT = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}", fullmatch=True)
KEY = st.lists(SEGMENT, min_size=1, max_size=6).map("/".join)


@given(KEY)
def test_ordinary_keys_are_accepted_as_keys_and_prefixes(key: str) -> None:
    check_key(key)
    check_prefix(key)
    check_prefix(key + "/")


@given(st.one_of(st.text(max_size=40), st.text(alphabet="a./\\-~\n\0", max_size=12)))
def test_an_accepted_key_stays_below_the_folder_it_is_joined_to(key: str) -> None:
    try:
        check_key(key)
    except ValueError:
        return
    base = Path("/base/bucket")
    joined = Path(os.path.normpath(base / key))
    assert joined.relative_to(base).as_posix() == key
    assert not any(part.startswith(".") for part in Path(key).parts)


@given(KEY, st.sampled_from(["../", "/", "./", ".", "a//", "a/../", "a b/", "ü/", "\\", "\0"]))
def test_a_key_with_an_unsafe_start_is_refused(key: str, start: str) -> None:
    with pytest.raises(ValueError, match="a key must"):
        check_key(start + key)


def test_lengths_are_limited_by_key_and_by_segment() -> None:
    check_key("a" * 200)
    check_key("/".join(["a" * 127] * 4) + "b")
    for key in ("a" * 201, "/".join(["a" * 127] * 4) + "bc"):
        with pytest.raises(ValueError, match="a key must"):
            check_key(key)


@given(st.integers(1, 10**6), st.floats(0.001, 100))
def test_pauses_are_never_shorter_than_the_shortest_nor_longer_than_five_times_that(
    tries: int, shortest: float
) -> None:
    assert shortest <= retry_delay_s(tries, shortest) <= 5 * shortest


def test_pauses_grow_and_differ_by_chance() -> None:
    lowest = [min(retry_delay_s(tries, 1.0) for _ in range(200)) for tries in range(1, 5)]

    assert all(later > earlier for earlier, later in pairwise(lowest))
    assert len({retry_delay_s(1, 1.0) for _ in range(50)}) > 1
