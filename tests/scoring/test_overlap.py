"""How far payloads agree, and whose copy is found."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig
from templar_pl.scoring import Overlap, Places, agreement_of, compare_payloads, count_shared, find_copies
from templar_pl.units import Uid
from tests.scoring.simulation import upload_of

NUM_CHUNKS, NUMEL = 3, 12

chunk = st.sets(st.integers(0, NUMEL - 1), max_size=6)
sent = st.lists(chunk, min_size=NUM_CHUNKS, max_size=NUM_CHUNKS)


def places_of(chunks: list[set[int]], width: int = 6) -> Places:
    """Fill rows up with the last index, as payloads do."""
    rows = [(sorted(places) + [max(places, default=0)] * width)[:width] for places in chunks]
    counts = [len(places) for places in chunks]
    return Places(np.array(rows, dtype=np.int16), np.array(counts, dtype=np.int16), NUMEL)


@given(sent, sent)
def test_what_is_shared_is_counted_as_with_sets(first: list[set[int]], second: list[set[int]]) -> None:
    shared = count_shared(places_of(first), places_of(second))

    pairs = list(zip(first, second, strict=True))
    assert shared.places == sum(len(one & other) for one, other in pairs)
    assert shared.by_chance == pytest.approx(sum(len(one) * len(other) for one, other in pairs) / NUMEL)
    assert shared.at_most == sum(min(len(one), len(other)) for one, other in pairs)


@given(sent, sent)
def test_agreement_is_symmetric_and_at_most_one(first: list[set[int]], second: list[set[int]]) -> None:
    there = agreement_of([count_shared(places_of(first), places_of(second))])
    back = agreement_of([count_shared(places_of(second), places_of(first))])

    assert there == back <= 1


@given(sent)
def test_equal_payloads_agree_to_exactly_one(chunks: list[set[int]]) -> None:
    assert agreement_of([count_shared(places_of(chunks), places_of(chunks))]) == (1 if any(chunks) else 0)


def test_agreement_by_hand() -> None:
    shared = count_shared(places_of([{0, 1, 2}, set(), {5}]), places_of([{1, 2, 3, 4}, {7}, {5}]))

    assert (shared.places, shared.by_chance, shared.at_most) == (3, 13 / 12, 4)
    assert agreement_of([shared]) == pytest.approx((3 - 13 / 12) / (4 - 13 / 12))


def test_where_everything_is_sent_nothing_is_chosen() -> None:
    everything = Places(np.tile(np.arange(4, dtype=np.int16), (5, 1)), np.full(5, 4, dtype=np.int16), 4)

    assert agreement_of([count_shared(everything, everything)]) == 0
    assert agreement_of([]) == 0


def test_many_chunks_are_counted_over_all_blocks() -> None:
    generator = np.random.default_rng(1)
    rows = np.sort(np.stack([generator.permutation(64)[:8] for _ in range(1300)]), axis=1)
    first = Places(rows, np.full(1300, 8), 64)
    second = Places(np.roll(rows, 1, axis=0), np.full(1300, 8), 64)

    assert count_shared(first, first).places == 1300 * 8
    assert abs(agreement_of([count_shared(first, second)])) < 0.03


def test_places_of_different_parameters_are_not_compared() -> None:
    places = places_of([{1}, {2}, {3}])
    with pytest.raises(ValueError, match="must be of one parameter"):
        count_shared(places, Places(places.indices, places.counts, 64))
    with pytest.raises(ValueError, match=r"must have the same parameters, differ: \{'b'\}"):
        compare_payloads(upload_of(1, 5, 1.0), {"a": places}, upload_of(2, 5, 1.0), {"a": places, "b": places})


def test_payloads_of_the_codec_are_compared_parameter_by_parameter() -> None:
    shapes = {"a": (128, 64), "b": (32,)}
    payloads = []
    for seed in (1, 1, 2):
        codec = MomentumCodec(shapes, CompressionConfig(), torch.device("cpu"))
        torch.manual_seed(seed)
        chunks = codec.send_({name: torch.randn(shape) for name, shape in shapes.items()}, dict.fromkeys(shapes, 0.1))
        payloads.append(
            {
                name: Places(part.indices.numpy(), part.counts.numpy(), codec.grids[name].chunk_numel)
                for name, part in chunks.items()
            }
        )

    same = compare_payloads(upload_of(1, 5, 1.0), payloads[0], upload_of(2, 5, 2.0), payloads[1])
    other = compare_payloads(upload_of(1, 5, 1.0), payloads[0], upload_of(3, 5, 2.0), payloads[2])

    assert same.agreement == 1
    alone = [compare_payloads(same.first, {k: payloads[0][k]}, same.second, {k: payloads[1][k]}) for k in shapes]
    assert [overlap.agreement for overlap in alone] == [1, 0]  # of 32 elements all 32 are sent
    assert abs(other.agreement) < 0.1


def pairs_of(agreements: dict[tuple[int, int], float], *, at: dict[int, float] | None = None) -> list[Overlap]:
    """Overlaps of one window; uids upload in their order unless told otherwise."""
    times = {uid: float(uid) for pair in agreements for uid in pair} | (at or {})
    return [
        Overlap(
            first=upload_of(first, 5, times[first]), second=upload_of(second, 5, times[second]), agreement=agreement
        )
        for (first, second), agreement in agreements.items()
    ]


def among(uids: range, usual: float) -> dict[tuple[int, int], float]:
    return {(first, second): usual for first in uids for second in uids if first < second}


@given(usual=st.floats(-0.01, 0.95), spread=st.floats(0, 0.32), chance=st.randoms(use_true_random=False))
def test_the_honest_are_not_accused_however_much_they_agree(usual: float, spread: float, chance: random.Random) -> None:
    """Between none and 0.32 of what is left: as far apart as payloads of the toy model were."""
    pairs = {pair: usual + (1 - usual) * spread * chance.random() for pair in among(range(6), usual)}

    assert find_copies(pairs_of(pairs)) == {}


@given(usual=st.floats(0, 0.95), copied=st.floats(0.8, 1))
def test_the_later_of_two_payloads_that_are_one_is_the_copy(usual: float, copied: float) -> None:
    pairs = among(range(6), usual) | {(1, 4): usual + (1 - usual) * copied}

    assert find_copies(pairs_of(pairs)).keys() == {4}
    assert find_copies(pairs_of(pairs, at={4: 0.5})).keys() == {1}


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_does_not_matter(chance: random.Random) -> None:
    pairs = pairs_of(among(range(6), 0.2) | {(0, 4): 1.0, (0, 5): 1.0, (4, 5): 1.0})
    shuffled = pairs.copy()
    chance.shuffle(shuffled)

    assert find_copies(shuffled) == find_copies(pairs)


def test_nobody_is_accused_by_a_store_that_tells_both_the_same_time() -> None:
    assert find_copies(pairs_of(among(range(6), 0.1) | {(1, 4): 1.0}, at={1: 4.0})) == {}


def test_every_copy_of_one_original_is_found_with_the_original_as_evidence() -> None:
    found = find_copies(pairs_of(among(range(8), 0.1) | {(0, 5): 1.0, (0, 6): 1.0, (5, 6): 1.0}))

    assert {uid: {copy.first.uid, copy.second.uid} for uid, copy in found.items()} == {5: {0, 5}, 6: {0, 6}}


def test_noise_cannot_make_the_honest_look_like_copies() -> None:
    """Not as long as at least every second miner is honest."""
    honest = among(range(5), 0.88)
    noise = {pair: 0.0 for pair in among(range(10), 0.0) if max(pair) >= 5}

    assert find_copies(pairs_of(honest | noise)) == {}


def test_with_two_miners_only_identical_payloads_are_copies() -> None:
    assert find_copies(pairs_of({(0, 1): 0.99})) == {}
    assert find_copies(pairs_of({(0, 1): 1.0})).keys() == {1}
    assert find_copies([]) == {}


def test_a_payload_of_an_earlier_window_is_the_original_whenever_it_was_uploaded() -> None:
    overlap = Overlap(first=upload_of(1, 4, 9.0), second=upload_of(2, 5, 1.0), agreement=1.0)

    assert find_copies([overlap]) == {Uid(2): overlap}


def test_the_evidence_names_the_original_first() -> None:
    overlap = Overlap(first=upload_of(2, 5, 3.5), second=upload_of(1, 5, 2.0), agreement=0.75)

    assert overlap.to_json() == {
        "agreement": "0x1.8000000000000p-1",
        "first": {"sha256": f"{1:064x}", "uid": 1, "uploaded_at": "0x1.0000000000000p+1", "window": 5},
        "second": {"sha256": f"{2:064x}", "uid": 2, "uploaded_at": "0x1.c000000000000p+1", "window": 5},
    }
