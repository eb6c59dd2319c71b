"""How alike payloads are, by all chunks of a small model and by some of a large one."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression import MomentumCodec, SparseChunks, chunk_grid
from templar_pl.config import CompressionConfig
from templar_pl.exchange.record import Fetched
from templar_pl.protocol.payload import Payload
from templar_pl.roles.payload_overlaps import COMPARISONS, FEWEST_CHUNKS, draw_sample, find_overlaps
from templar_pl.roles.sightings import Sighting
from templar_pl.scoring import Places, Upload, compare_payloads
from templar_pl.units import Uid, Window
from tests.protocol.samples import header

SHAPES = {"first": (40, 24), "second": (17,), "third": (16, 16, 2), "one": ()}
CODEC = MomentumCodec(SHAPES, CompressionConfig(chunk_size=8, topk=5, momentum_decay=0.0), torch.device("cpu"))


def payload(seed: int) -> dict[str, SparseChunks]:
    generator = torch.Generator().manual_seed(seed)
    gradients = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return dict(CODEC.send_(gradients, dict.fromkeys(SHAPES, 1.0)))


def sighting(window: int, sent: dict[int, dict[str, SparseChunks]]) -> Sighting:
    payloads = {Uid(uid): Fetched(bytes([uid] * 32), Payload(header(), chunks)) for uid, chunks in sent.items()}
    uploads = {uid: upload(uid, window) for uid in payloads}
    return Sighting(Window(window), (), payloads, uploads)


def upload(uid: int, window: int) -> Upload:
    return Upload(uid=Uid(uid), window=Window(window), uploaded_at=1.0 + uid, sha256=bytes([uid] * 32).hex())


def whole(chunks: dict[str, SparseChunks]) -> dict[str, Places]:
    return {
        name: Places(said.indices.numpy(), said.counts.numpy(), CODEC.grids[name].chunk_numel)
        for name, said in chunks.items()
    }


@given(st.integers(0, 2**62))
def test_a_small_model_is_compared_whole(seed: int) -> None:
    sent = {uid: payload(uid) for uid in (1, 2, 3)} | {4: payload(2)}

    found = find_overlaps(sighting(5, sent), None, CODEC.grids, seed)

    assert {(o.first.uid, o.second.uid) for o in found} == set(combinations((1, 2, 3, 4), 2))
    for overlap in found:
        first, second = sent[overlap.first.uid], sent[overlap.second.uid]
        expected = compare_payloads(overlap.first, whole(first), overlap.second, whole(second))
        assert overlap.agreement == pytest.approx(expected.agreement, abs=1e-12)


def test_payloads_of_the_window_before_are_compared_with_those_of_others_only() -> None:
    now, before = (
        sighting(5, {1: payload(1), 2: payload(7)}),
        sighting(4, {1: payload(1), 2: payload(2), 3: payload(7)}),
    )

    found = find_overlaps(now, before, CODEC.grids, 0)

    pairs = {((o.first.uid, o.first.window), (o.second.uid, o.second.window)): o.agreement for o in found}
    assert set(pairs) == {
        ((1, 5), (2, 5)), ((2, 4), (1, 5)), ((3, 4), (1, 5)), ((1, 4), (2, 5)), ((3, 4), (2, 5)),
    }  # fmt: skip
    assert [pair for pair, agreement in pairs.items() if agreement == 1] == [((3, 4), (2, 5))]


def test_a_payload_whose_time_is_not_known_is_compared_with_nobody() -> None:
    now = sighting(5, {1: payload(1), 2: payload(1), 3: payload(1)})
    timeless = Sighting(now.window, (), now.payloads, {uid: now.uploads[uid] for uid in (Uid(1), Uid(3))})

    assert [(o.first.uid, o.second.uid) for o in find_overlaps(timeless, None, CODEC.grids, 0)] == [(1, 3)]


def test_one_payload_has_no_overlap() -> None:
    assert find_overlaps(sighting(5, {1: payload(1)}), None, CODEC.grids, 0) == ()


@given(st.integers(0, 2**62), st.integers(1, 2 * COMPARISONS))
def test_the_more_pairs_there_are_the_fewer_chunks_are_compared(seed: int, num_pairs: int) -> None:
    shapes = {f"layer {number}": (64 * 24, 64 * 24) for number in range(3)} | {"norm": (70,)}
    grids = {name: chunk_grid(shape, chunk_size=64, topk=32) for name, shape in shapes.items()}

    sample = draw_sample(grids, num_pairs, seed)

    for name, numbers in sample.chunks.items():
        assert len(set(numbers.tolist())) == len(numbers)
        assert numbers.min() >= 0
        assert numbers.max() < grids[name].num_chunks
    total = sum(grid.num_chunks for grid in grids.values())
    assert sum(map(len, sample.chunks.values())) == min(total, max(FEWEST_CHUNKS, COMPARISONS // num_pairs))
