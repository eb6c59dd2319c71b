"""Which pages a uid trains on."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.protocol import next_pages, pages_digest

SET_DIGEST = hashlib.sha256(b"page set").digest()
seeds = st.integers(0, 2**64 - 1)


@given(seeds, st.integers(1, 12), st.integers(0, 4000), st.integers(24_000, 10**12))
def test_windows_of_one_uid_share_no_page(seed: int, per_window: int, first_window: int, num_pages: int) -> None:
    num_windows = 100
    cycle_start = (first_window * per_window // num_pages) * num_pages
    windows = range(first_window, first_window + num_windows)

    pages = [page for w in windows for page in next_pages(cycle_start + w * per_window, per_window, seed, num_pages)]

    assert len(set(pages)) == num_windows * per_window
    assert all(0 <= page < num_pages for page in pages)


def test_three_thousand_windows_of_one_uid_share_no_page() -> None:
    pages = [page for window in range(3000) for page in next_pages(window * 6, 6, seed=3, num_pages=18_000)]

    assert sorted(pages) == list(range(18_000))


@given(seeds, st.integers(1, 300), st.integers(0, 10**6))
def test_a_cycle_gives_out_every_page_once(seed: int, num_pages: int, cycle: int) -> None:
    assert sorted(next_pages(cycle * num_pages, num_pages, seed, num_pages)) == list(range(num_pages))


@given(seeds, st.integers(1, 20), st.integers(0, 50), st.lists(st.integers(0, 30), max_size=6))
def test_pages_do_not_depend_on_how_they_are_asked_for(seed: int, num_pages: int, offset: int, cuts: list[int]) -> None:
    whole = next_pages(offset, sum(cuts), seed, num_pages)

    pieces = []
    for n in cuts:
        pieces += next_pages(offset + len(pieces), n, seed, num_pages)

    assert pieces == whole


@given(st.lists(seeds, min_size=2, max_size=2, unique=True))
def test_two_uids_get_different_pages(pair: list[int]) -> None:
    assert next_pages(0, 40, pair[0], 1000) != next_pages(0, 40, pair[1], 1000)


def test_the_next_cycle_has_another_order() -> None:
    assert next_pages(0, 1000, 5, 1000) != next_pages(1000, 1000, 5, 1000)


def test_every_page_comes_equally_often_at_every_place() -> None:
    # Chi-squared over 7 places x 7 pages, 36 degrees of freedom: above 77 in one of 10 000 fair draws.
    num_pages, num_seeds = 7, 2000
    seen = [[0] * num_pages for _ in range(num_pages)]
    for seed in range(num_seeds):
        for place, page in enumerate(next_pages(0, num_pages, seed, num_pages)):
            seen[place][page] += 1

    fair = num_seeds / num_pages
    assert sum((count - fair) ** 2 / fair for row in seen for count in row) < 77


def test_pages_are_the_same_on_every_platform() -> None:
    assert next_pages(0, 6, 0, 10) == [7, 8, 9, 5, 2, 0]
    assert next_pages(123 * 6, 6, 17, 10**12) == [
        768_314_226_116,
        651_251_560_816,
        874_842_095_921,
        488_627_273_680,
        810_695_384_103,
        7_039_536_862,
    ]
    assert next_pages(8, 4, 2**64 - 1, 10) == [8, 6, 9, 1]


@pytest.mark.parametrize(
    ("offset", "n", "seed", "num_pages"),
    [(-1, 1, 0, 1), (0, -1, 0, 1), (2**64 - 1, 1, 0, 1), (0, 1, -1, 1), (0, 1, 2**64, 1), (0, 1, 0, 0),
     (0, 1, 0, 2**62 + 1)],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(offset: int, n: int, seed: int, num_pages: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        next_pages(offset, n, seed, num_pages)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_page_lists_have_the_same_digest_only_if_equal(left: list[int], right: list[int]) -> None:
    assert (pages_digest(left, SET_DIGEST) == pages_digest(right, SET_DIGEST)) == (left == right)


def test_a_page_digest_depends_on_the_page_set() -> None:
    assert pages_digest([1, 2], SET_DIGEST) != pages_digest([1, 2], hashlib.sha256(b"another").digest())


def test_a_page_digest_is_the_hash_of_what_is_documented() -> None:
    content = b"templar_pl/pages/digest/1\0" + SET_DIGEST + (5).to_bytes(8, "little") + (2**40).to_bytes(8, "little")

    assert pages_digest([5, 2**40], SET_DIGEST) == hashlib.sha256(content).digest()


@pytest.mark.parametrize(("pages", "digest"), [([1], b"short"), ([-1], SET_DIGEST), ([2**64], SET_DIGEST)])
def test_a_digest_of_what_is_no_page_is_refused(pages: list[int], digest: bytes) -> None:
    with pytest.raises(ValueError, match="must"):
        pages_digest(pages, digest)
