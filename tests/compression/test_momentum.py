from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression.grid import ValueBits, chunk_grid
from templar_pl.compression.momentum import accumulate_, compress_, restore_, subtract_
from templar_pl.compression.quantise import dequantise
from tests.compression import reference

SEEDS = st.integers(0, 2**32 - 1)
BITS: st.SearchStrategy[ValueBits] = st.sampled_from([1, 2, 3, 8])


def random_momentum(seed: int, num_chunks: int, chunk_numel: int) -> torch.Tensor:
    """Coefficients of very different size, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    momentum = torch.randn(num_chunks, chunk_numel, generator=generator)
    momentum *= torch.exp2(torch.randint(-40, 40, (num_chunks, 1), generator=generator))
    return momentum * (torch.rand(num_chunks, chunk_numel, generator=generator) < 0.7)


@given(SEEDS, st.integers(1, 70), BITS)
def test_what_is_sent_and_what_is_left_are_the_momentum(seed: int, topk: int, value_bits: ValueBits) -> None:
    grid = chunk_grid((24, 24), chunk_size=8, topk=topk, value_bits=value_bits)
    before = random_momentum(seed, 9, 64)
    momentum = before.clone()

    sparse = compress_(momentum, grid).said.parameter(0)

    said = torch.zeros(9, 64, dtype=torch.float64)
    for chunk, count in enumerate(sparse.counts.tolist()):
        said[chunk, sparse.indices[chunk, :count].long()] = dequantise(sparse)[chunk, :count].double()
    assert torch.equal(momentum, (before.double() - said).float())


@given(SEEDS, BITS, st.integers(1, 20))
def test_sent_and_kept_are_the_momentum_in_the_integers_of_the_payload(
    seed: int, value_bits: ValueBits, topk: int
) -> None:
    grid = chunk_grid((24, 24), chunk_size=8, topk=topk, value_bits=value_bits)
    generator = torch.Generator().manual_seed(seed)
    # Numbers of one octave: whatever is sent of them is at most twice as large or small, so no difference is rounded.
    whole = torch.randint(2**23, 2**24, (9, 64), generator=generator)
    whole *= 2 * torch.randint(2, (9, 64), generator=generator) - 1
    whole *= torch.rand(9, 64, generator=generator) < 0.7
    momentum = whole.float()

    sparse = compress_(momentum, grid).said.parameter(0)

    said = torch.zeros(9, 64, dtype=torch.float64).scatter_add(-1, sparse.indices.long(), dequantise(sparse).double())
    # In units of a quarter, all of them are integers.
    sent, kept, were = ((4 * part.double()).flatten().tolist() for part in (said, momentum, whole))
    assert any(sent)
    assert all(number.is_integer() for number in (*sent, *kept))
    assert all(int(s) + int(k) == int(w) for s, k, w in zip(sent, kept, were, strict=True))


@given(SEEDS)
def test_the_residual_is_that_of_the_reference(seed: int) -> None:
    grid = chunk_grid((16, 16), chunk_size=8, topk=7)
    momentum = random_momentum(seed, 4, 64)

    _, left = reference.compress([row.double().numpy() for row in momentum], 7)
    compress_(momentum, grid)

    scale = momentum.abs().amax(-1, keepdim=True).double().numpy()
    assert (np.abs(momentum.double().numpy() - np.stack(left)) <= 1e-6 * scale).all()


@given(SEEDS, st.integers(1, 70), BITS)
def test_restoring_brings_back_every_bit(seed: int, topk: int, value_bits: ValueBits) -> None:
    grid = chunk_grid((24, 24), chunk_size=8, topk=topk, value_bits=value_bits)
    before = random_momentum(seed, 9, 64)
    momentum = before.clone()

    sent = compress_(momentum, grid)
    assert not torch.equal(momentum, before)
    restore_(momentum, sent)

    assert torch.equal(momentum.view(torch.int32), before.view(torch.int32))


def test_subtracting_an_own_payload_is_what_compressing_did() -> None:
    grid = chunk_grid((24, 24), chunk_size=8, topk=5)
    momentum = random_momentum(3, 9, 64)
    saved = momentum.clone()

    sent = compress_(momentum, grid)
    subtract_(saved, sent.said.parameter(0))

    assert torch.equal(saved, momentum)


def test_without_a_gradient_the_momentum_only_decays() -> None:
    grid = chunk_grid((8,), chunk_size=8, topk=1)
    momentum = torch.arange(8.0).view(1, 8)

    accumulate_(momentum, None, grid, decay=0.5, lr=1.0)

    assert momentum.tolist() == [[k / 2 for k in range(8)]]


def test_200_windows_in_coefficient_space_are_those_in_parameter_space() -> None:
    shape, lr = (97, 70), 4e-4
    decay = float(np.float32(0.999))  # what nodes decay by: fp32 arithmetic rounds it
    grid = chunk_grid(shape, chunk_size=64, topk=32)
    generator, ideal = torch.Generator().manual_seed(0), np.zeros(shape)
    momentum = torch.zeros(grid.num_chunks, grid.chunk_numel)
    for _ in range(200):
        gradient = torch.randn(shape, generator=generator)
        accumulate_(momentum, gradient, grid, decay=decay, lr=lr)
        ideal = decay * ideal + lr * gradient.double().numpy()

    wanted = np.stack([reference.dct(chunk, is_vector=False) for chunk in reference.cut(ideal, 64)])

    error = np.linalg.norm(momentum.double().numpy() - wanted) / math.sqrt((wanted**2).sum())
    assert error <= 1e-6
    got = [set(row) for row in compress_(momentum, grid).said.parameter(0).indices.tolist()]
    assert got == [set(reference.largest_places(row, 32)) for row in wanted]


def test_without_a_transform_the_elements_of_the_gradient_are_the_coefficients() -> None:
    grid = chunk_grid((6, 5), chunk_size=4, topk=2, transform="none")
    gradient, momentum = torch.arange(30.0).view(6, 5), torch.ones(4, 16)

    accumulate_(momentum, gradient, grid, decay=0.5, lr=2.0)

    chunks = reference.cut(gradient.double().numpy(), 4)
    assert momentum.tolist() == [(0.5 + 2 * chunk.reshape(-1)).tolist() for chunk in chunks]
