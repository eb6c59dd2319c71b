"""How payloads meet in their parameters: in integers, so that neither their order nor the device matters.

Shapes: N = chunks of one form, P = payloads, K = coefficients per chunk, T = sent per chunk at most, L = T, or 1 where
all values of a chunk have one magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from templar_pl.compression.exact import ROOM, ExactUpdate, inverse_dct_, unit_of
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.sparse import EMPTY_CODE, SparseChunks, StackedChunks, join, stack
from templar_pl.compression.tables import eighth_mantissas, scale_table
from templar_pl.compression.weights import Equalise, Weights, weigh
from templar_pl.config import MAX_PEERS

Rule = Literal["mean", "sum"]

_NO_SENDER = 2.0**-30
"""Number of senders of what nobody sent: 0 divided by it is 0, and it vanishes in fp32 when one is added."""

_FAR_BELOW = -(2**20)  # log scale of a chunk that sends nothing; real ones are in -2174..2302


@dataclass(frozen=True, slots=True)
class SharedScales:
    """Integer magnitudes of what payloads send, all of a chunk on one log scale."""

    integers: Tensor
    """(N, P, L) fp32 integers in 0..2**15."""

    eighths: Tensor
    """(N,) int32; a magnitude is integers * 2**(eighths / 8)."""


def shared_scales(said: StackedChunks, weights: Weights, owners: Tensor) -> SharedScales:
    """Bring the scales of payloads onto one integer scale per chunk.

    Args:
        said: what P payloads, at least one, say.
        weights: of the payloads.
        owners: (N,) int64 number of the parameter that each chunk belongs to.
    """
    codes = said.codes[..., None]  # (N, P, 1)
    scales = codes + weights.bases.T[owners][..., None]
    if said.below is not None:
        scales = scales - said.below  # (N, P, T)
    is_sent = codes != EMPTY_CODE
    if weights.factors is None:
        return _plain_scales(scales, is_sent)
    return _weighted_scales(scales, is_sent, weights.factors.transpose(1, 2)[:, owners, :, None], weights.unit_eighths)


def _plain_scales(scales: Tensor, is_sent: Tensor) -> SharedScales:
    """Bring log scales, (N, P, L) int32, as they are onto one integer scale per chunk."""
    scales = torch.where(is_sent, scales, _FAR_BELOW)
    loudest = scales.flatten(1).amax(1)  # (N,)
    table = torch.tensor(scale_table(), dtype=torch.float32, device=scales.device)
    integers = table[(loudest[:, None, None] - scales).clamp_(max=len(table) - 1)] * is_sent
    return SharedScales(integers, torch.where(loudest > _FAR_BELOW, loudest - 8 * 15, 0))


def _weighted_scales(scales: Tensor, is_sent: Tensor, factors: Tensor, unit_eighths: int) -> SharedScales:
    """Multiply log scales by the weights of payloads, and bring them onto one integer scale per chunk.

    A scale 2**(e / 8) times a weight m * 2**-x is m * M8[e % 8] * 2**(e // 8 - x - 14), rounded to a multiple of 2**g
    with g the largest e // 8 - x of the chunk.

    Args:
        scales: (N, P, L) int32 log scales e, not negative where something is sent.
        is_sent: (N, P, 1) bool; whether a payload sends anything in a chunk.
        factors: (2, N, P, 1) int32 m below 2**14 and x.
        unit_eighths: log scale of what is 1 in these units.
    """
    mantissas, exponents = factors
    octaves = torch.where(is_sent, (scales >> 3) - exponents, _FAR_BELOW)  # (N, P, L)
    largest = octaves.flatten(1).amax(1)  # (N,)
    # Below 2**14 * 2**14.88, so a quotient by 2**14 or more is below 2**15, and one by 2**30 rounds to 0.
    eighths = torch.tensor(eighth_mantissas(), dtype=torch.int32, device=scales.device)
    products = mantissas * eighths[scales & 7]
    shifts = (14 + largest[:, None, None] - octaves).clamp_(max=30)
    integers = (_shift_to_nearest(products, shifts) * is_sent).to(torch.float32)
    return SharedScales(integers, torch.where(largest > _FAR_BELOW, 8 * largest + unit_eighths, 0))


def _shift_to_nearest(integers: Tensor, shifts: Tensor) -> Tensor:
    """Divide int32 integers, 0..2**29, by 2**shifts (1..30); halves go to the even integer."""
    # Half of the divisor goes up; one less does, and so only more than half, where the quotient is even.
    is_odd = (integers >> shifts) & 1
    return (integers + ((1 << (shifts - 1)) - 1 + is_odd)) >> shifts


@dataclass(frozen=True, slots=True)
class Summands:
    """What P payloads send of N chunks, as integers."""

    places: Tensor
    """(N, P * T) int64."""

    values: Tensor
    """(N, P * T) fp32 integers, at most 2**15 in magnitude; 0 for fillers."""

    slots: Tensor | None
    """(N, P * T) fp32: 1 for a coefficient, 0 for a filler; None if nothing is to be divided by their number."""

    def part(self, chunks: slice) -> Summands:
        """Return those of some of the chunks; nothing is copied."""
        return Summands(self.places[chunks], self.values[chunks], None if self.slots is None else self.slots[chunks])


def summands(said: StackedChunks, scales: SharedScales, rule: Rule) -> Summands:
    """Return what payloads send.

    Args:
        said: what P payloads, 1..MAX_PEERS, say.
        scales: of these payloads.
        rule: as in `add_payloads_`.
    """
    places = said.indices.to(torch.int64).flatten(1)
    values, slots = _signed(scales.integers, said.negative), _slots(said.counts, said.indices.shape[-1])
    if slots is None:
        slots = torch.ones(1, 1, device=values.device).expand_as(places)
    else:
        values, slots = values.mul_(slots), slots.flatten(1)
    is_mean = rule == "mean" and said.codes.shape[1] > 1
    return Summands(places, values.flatten(1), slots if is_mean else None)


def _signed(magnitudes: Tensor, negative: Tensor) -> Tensor:
    """Return (N, P, T) fp32 magnitudes, (N, P, L), with their signs; several times faster than a product with them."""
    bits = negative.view(torch.uint8).to(torch.int32).bitwise_left_shift_(31)  # where fp32 has the sign
    return bits.bitwise_or_(magnitudes.view(torch.int32)).view(torch.float32)


def _slots(counts: Tensor, topk: int) -> Tensor | None:
    """Return (N, P, T) fp32: 1 for a coefficient, 0 for a filler; None, as nearly always, if there are no fillers."""
    if (counts == topk).all():
        return None
    return (torch.arange(topk, dtype=torch.int16, device=counts.device) < counts[..., None]).to(torch.float32)


def add_payloads_(room: Tensor, sent: Summands) -> None:
    """Set room[0] to what payloads send, added coefficient by coefficient: integers of at most 2**24 in magnitude.

    With rule `mean` a sum is divided by the number of payloads that sent the coefficient, halves to the even integer.

    Args:
        room: (2, N, K) fp32; room[1] is used.
        sent: by P payloads, 1..MAX_PEERS.
    """
    sums, senders = room
    sums.zero_().scatter_add_(-1, sent.places, sent.values)
    if sent.slots is not None:
        senders.fill_(_NO_SENDER).scatter_add_(-1, sent.places, sent.slots)
        # One rounding in the division and one to the integer make the rounding of the exact quotient: a quotient
        # that is no half-integer is at least 1 / (2 * senders) away from one, and at most 2**15 large, where
        # fp32 errs by at most 2**-10; for 512 senders the division is exact.
        sums.div_(senders).round_()


def combine(
    payloads: Sequence[SparseChunks],
    grid: ChunkGrid,
    *,
    rule: Rule,
    equalise: Equalise,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> ExactUpdate:
    """Compute what payloads add up to in one parameter, the same bits in any order and on any device.

    Args:
        payloads: what each peer sent for this parameter; 0..MAX_PEERS of them, on any device.
        grid: how the parameter is cut.
        rule: `mean` over the payloads that sent a coefficient, or `sum`.
        equalise: `norm` divides each payload by its L2 norm in this parameter first; `clip` brings those that are
            louder than the median payload down to it; `none` takes them as they are.
        device: where to compute.
        dtype: float32 or float64, of the matrix products; the result is the same.

    Raises:
        ValueError: there are more payloads than MAX_PEERS.
    """
    if len(payloads) > MAX_PEERS:
        raise ValueError(f"an update is made of 0..{MAX_PEERS} payloads, got {len(payloads)}")
    room = torch.zeros(ROOM, grid.num_chunks, grid.chunk_numel, device=device)
    eighths = torch.zeros(grid.num_chunks, dtype=torch.int32, device=device)
    if payloads:
        joined = [join([sparse]) for sparse in payloads]
        weights = weigh(joined, equalise=equalise, device=device)
        said = stack(joined, slice(None), device)
        scales = shared_scales(said, weights, torch.zeros(grid.num_chunks, dtype=torch.int64, device=device))
        add_payloads_(room[:2], summands(said, scales, rule))
        eighths = scales.eighths
    shifts = inverse_dct_(room, grid, dtype=dtype)
    return ExactUpdate(room[0].view(-1, grid.height, grid.width), eighths + 8 * shifts, unit_of(grid))
