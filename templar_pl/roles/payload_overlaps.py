"""How far the payloads of a window chose the same coefficients, by some of their chunks.

Shapes: N = chunks of one form, T = coefficients sent per chunk at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from templar_pl.compression import ChunkGrid, SparseChunks
from templar_pl.roles.sightings import Sighting
from templar_pl.scoring import Overlap, Places, Upload, compare_payloads
from templar_pl.units import Uid

DECODED_CHUNKS = 2**15
"""Chunks of a payload that are looked at: parameters are drawn until they have as many."""

COMPARISONS = 5_000_000
"""Chunks that are compared in a window, some 1 µs each; the more pairs of payloads, the fewer chunks of each."""

FEWEST_CHUNKS = 64
"""That are compared of a pair, if there are so many: 2048 places at 32 a chunk, so a copy is told with certainty."""

Grids = Mapping[str, ChunkGrid]
"""The chunks of each parameter."""

Form = tuple[int, int]
"""T and coefficients of a chunk: what must be equal for chunks to be compared together."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Chunks of a model."""

    chunks: Mapping[str, NDArray[np.int64]]
    """Name of a parameter -> numbers of its chunks, ascending."""


def draw_sample(grids: Grids, num_pairs: int, seed: int) -> Sample:
    """Choose chunks of a model: all of a small one, some of some parameters of a large one.

    Args:
        grids: the chunks of each parameter.
        num_pairs: payloads that are compared in pairs, at least 1.
        seed: of the choice, which nobody may know while payloads can still be changed; at least 0.
    """
    generator = np.random.default_rng(seed)
    taken: list[tuple[str, int]] = []
    total = 0
    for name in generator.permutation(sorted(grids)):
        if total >= DECODED_CHUNKS:
            break
        taken += [(str(name), number) for number in range(grids[name].num_chunks)]
        total += grids[name].num_chunks
    wanted = min(total, max(FEWEST_CHUNKS, COMPARISONS // num_pairs))
    chosen = np.sort(generator.choice(total, wanted, replace=False))
    by_name: dict[str, list[int]] = {}
    for place in chosen:
        name, number = taken[place]
        by_name.setdefault(name, []).append(number)
    return Sample({name: np.array(numbers, dtype=np.int64) for name, numbers in by_name.items()})


def find_overlaps(now: Sighting, before: Sighting | None, grids: Grids, seed: int) -> tuple[Overlap, ...]:
    """Compare the payloads of a window with one another, and with those of other miners of the window before.

    Args:
        now: the window.
        before: the window before it; None if that is not known.
        grids: the chunks of each parameter.
        seed: as of `draw_sample`.
    """
    uploads = [_Sent(now, uid) for uid in now.uploads]
    earlier = [] if before is None else [_Sent(before, uid) for uid in before.uploads]
    pairs = [*combinations(uploads, 2)]
    pairs += [(old, new) for new in uploads for old in earlier if old.upload.uid != new.upload.uid]
    if not pairs:
        return ()
    sample = draw_sample(grids, len(pairs), seed)
    places = {sent: places_of(sent.chunks, sample, grids) for sent in {sent for pair in pairs for sent in pair}}
    return tuple(
        compare_payloads(first.upload, places[first], second.upload, places[second]) for first, second in pairs
    )


def places_of(payload: Mapping[str, SparseChunks], sample: Sample, grids: Grids) -> dict[Form, Places]:
    """Return what a payload sends of a sample, all chunks of one form together."""
    parts: dict[Form, list[tuple[NDArray[np.int16], NDArray[np.int16]]]] = {}
    for name, numbers in sample.chunks.items():
        said, grid = payload[name], grids[name]
        part = said.indices.numpy()[numbers], said.counts.numpy()[numbers]  # (N, T), (N,)
        parts.setdefault((grid.topk, grid.chunk_numel), []).append(part)
    return {
        form: Places(
            np.concatenate([indices for indices, _ in found]), np.concatenate([counts for _, counts in found]), form[1]
        )
        for form, found in parts.items()
    }


class _Sent:
    """One payload of a sighting."""

    def __init__(self, sighting: Sighting, uid: Uid) -> None:
        self.upload: Upload = sighting.uploads[uid]
        self.chunks: Mapping[str, SparseChunks] = sighting.payloads[uid].payload.chunks
