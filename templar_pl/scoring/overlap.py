"""How far two payloads chose the same coefficients.

Shapes: N = chunks of one parameter, T = coefficients sent per chunk at most, K = coefficients per chunk.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from templar_pl.scoring.records import Overlap, Upload

Part = TypeVar("Part", bound=Hashable)

_BLOCK_CHUNKS = 512  # 2 MiB of marks at K = 4096 stay in a second-level cache


@dataclass(frozen=True, slots=True)
class Places:
    """Which coefficients of one parameter a payload sends; what `SparseChunks` says, without signs and scales."""

    indices: NDArray[Any]
    """(N, T) integers; places in 0..K - 1, each once in a row up to its count; the rest is filled up."""

    counts: NDArray[Any]
    """(N,) integers; 0..T coefficients really sent."""

    chunk_numel: int
    """K, 1 or more."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What two payloads have in common in one parameter."""

    places: int
    """Coefficients that both send."""

    by_chance: float
    """As many are expected if each drew its places at random."""

    at_most: int
    """As many are possible: the smaller count of every chunk."""


def count_shared(first: Places, second: Places) -> Shared:
    """Count what two payloads have in common in one parameter, in some 10 ns a coefficient.

    Raises:
        ValueError: they are not of the same parameter.
    """
    if first.indices.shape != second.indices.shape or first.chunk_numel != second.chunk_numel:
        raise ValueError(
            f"places must be of one parameter, got {first.indices.shape} of {first.chunk_numel} and "
            f"{second.indices.shape} of {second.chunk_numel}"
        )
    shared = 0
    for start in range(0, len(first.counts), _BLOCK_CHUNKS):
        block = slice(start, start + _BLOCK_CHUNKS)
        shared += _count_block(first, second, block)
    counts = first.counts.astype(np.int64), second.counts.astype(np.int64)
    return Shared(
        places=shared,
        by_chance=int((counts[0] * counts[1]).sum()) / first.chunk_numel,
        at_most=int(np.minimum(*counts).sum()),
    )


def _count_block(first: Places, second: Places, block: slice) -> int:
    marks = np.zeros((len(first.counts[block]), first.chunk_numel), dtype=bool)  # (B, K)
    marks[_sent(first, block)] = True
    return int(np.count_nonzero(marks[_sent(second, block)]))


def _sent(places: Places, block: slice) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return row and place of everything that some chunks send."""
    indices = places.indices[block]
    is_sent = np.arange(indices.shape[1]) < places.counts[block, None]  # (B, T)
    return np.nonzero(is_sent)[0], indices[is_sent]


def agreement_of(parts: Iterable[Shared]) -> float:
    """Return how much of what chance leaves open was chosen alike: 0 as by chance, 1 if all places are the same.

    Where everything is sent, or nothing, there is no choice: such parameters have no part in it. It is slightly
    negative where less is shared than by chance, and 0 if there is no choice at all.

    Source: Cohen, A coefficient of agreement for nominal scales, 1960, with places for raters' categories.
    """
    parts = list(parts)
    by_chance = math.fsum(part.by_chance for part in parts)
    open_to_choice = sum(part.at_most for part in parts) - by_chance
    if open_to_choice <= 0:
        return 0.0
    return (sum(part.places for part in parts) - by_chance) / open_to_choice


def compare_payloads(
    first: Upload, first_places: Mapping[Part, Places], second: Upload, second_places: Mapping[Part, Places]
) -> Overlap:
    """Return the overlap of two payloads of one model.

    Args:
        first: one upload.
        first_places: what it sends of each part: of a parameter, or of chunks of one form of several; some are enough.
        second: the other one.
        second_places: the same parts of it.

    Raises:
        ValueError: the parts differ.
    """
    if first_places.keys() != second_places.keys():
        raise ValueError(
            f"payloads must have the same parameters, differ: {first_places.keys() ^ second_places.keys()}"
        )
    shared = [count_shared(places, second_places[part]) for part, places in first_places.items()]
    return Overlap(first=first, second=second, agreement=agreement_of(shared))
