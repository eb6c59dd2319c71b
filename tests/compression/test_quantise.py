from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from templar_pl.compression.grid import ValueBits, chunk_grid
from templar_pl.compression.quantise import dequantise, quantise
from templar_pl.compression.section import encode_section
from templar_pl.compression.sparse import SparseChunks
from templar_pl.compression.topk import keep_largest
from tests.compression import reference
from tests.compression.payloads import to_slow

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


LEVEL_BITS: tuple[ValueBits, ...] = (2, 3, 8)


def sent_of(coefficients: Tensor, topk: int, value_bits: ValueBits = 1) -> SparseChunks:
    kept = keep_largest(coefficients, topk)
    return quantise(coefficients.gather(-1, kept.indices.long()), kept, value_bits=value_bits)


def one_chunk(code: int, base: int) -> SparseChunks:
    """A payload of one chunk that sends -magnitude and has one filler."""
    zero = torch.zeros(1, 2, dtype=torch.int16)
    return SparseChunks(
        zero,
        torch.tensor([[True, False]]),
        torch.ones(1, dtype=torch.int16),
        torch.tensor([code], dtype=torch.uint8),
        base,
    )


@given(st.lists(st.lists(FINITE, min_size=6, max_size=6), min_size=0, max_size=4), st.integers(1, 6))
def test_what_is_sent_is_that_of_the_reference(rows: list[list[float]], topk: int) -> None:
    coefficients = torch.tensor(rows, dtype=torch.float32).view(len(rows), 6)

    slow, _ = reference.compress([row.double().numpy() for row in coefficients], topk)

    assert to_slow(sent_of(coefficients, topk)) == slow


@given(st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=4))
def test_all_that_is_sent_is_finite_and_has_the_sign_of_its_coefficient(rows: list[list[float]]) -> None:
    coefficients = torch.tensor(rows, dtype=torch.float32)
    sparse = sent_of(coefficients, 2)

    values = dequantise(sparse)

    assert values.isfinite().all()
    assert (values * coefficients.gather(-1, sparse.indices.long()).sign() >= 0).all()
    assert ((values != 0).sum(-1) == sparse.counts).all()


# Magnitudes far from both ends of fp32, and so near to each other that no chunk is silent.
NEAR = st.tuples(st.floats(2.0**-6, 64, width=32), st.sampled_from([-1, 1])).map(math.prod)


@given(st.lists(st.lists(NEAR, min_size=6, max_size=6), min_size=1, max_size=3), st.integers(1, 6))
def test_values_of_8_bits_are_those_of_the_reference(rows: list[list[float]], topk: int) -> None:
    coefficients = torch.tensor(rows, dtype=torch.float32)

    slow, _ = reference.compress_levels([row.double().numpy() for row in coefficients], topk, 8)

    assert to_slow(sent_of(coefficients, topk, 8)) == slow


@pytest.mark.parametrize("value_bits", [2, 3])
@given(st.lists(NEAR, min_size=1, max_size=12))
def test_values_of_2_and_3_bits_have_the_least_squared_error_of_all_scales_and_levels(
    value_bits: ValueBits, row: list[float]
) -> None:
    coefficients = torch.tensor([row], dtype=torch.float32)

    sparse = sent_of(coefficients, len(row), value_bits)

    error = (coefficients - dequantise(sparse)).double().square().sum().item()
    magnitudes = coefficients.abs()[0].tolist()
    least = min(reference.squared_error(magnitudes, scale, value_bits) for scale in range(-64, 64))
    # A magnitude is rounded to fp32, by up to 2**-24 of it.
    assert error <= least * (1 + 1e-5) + 2**-22 * max(magnitudes) * least**0.5 * len(row) + 1e-12


@pytest.mark.parametrize("value_bits", LEVEL_BITS)
@given(st.lists(st.lists(FINITE, min_size=5, max_size=5), min_size=1, max_size=3), st.integers(1, 5))
def test_levels_of_any_finite_numbers_can_be_sent_and_have_their_signs(
    value_bits: ValueBits, rows: list[list[float]], topk: int
) -> None:
    coefficients = torch.tensor(rows, dtype=torch.float32)
    sparse = sent_of(coefficients, topk, value_bits)
    grid = chunk_grid((len(rows) * 5,), chunk_size=5, topk=topk, value_bits=value_bits)

    values = dequantise(sparse)

    assert encode_section(sparse, grid)  # refuses what breaks a promise
    assert values.isfinite().all()
    assert (values * coefficients.gather(-1, sparse.indices.long()).sign() >= 0).all()


@pytest.mark.parametrize("value_bits", LEVEL_BITS)
def test_the_least_numbers_there_are_have_a_loudest_level(value_bits: ValueBits) -> None:
    coefficients = (torch.arange(1, 200.0) * 2.0**-149)[:, None]

    sparse = torch.cat([sent_of(row[None], 1, value_bits).below for row in coefficients])  # pyright: ignore

    assert not sparse.any()


@pytest.mark.parametrize("value_bits", LEVEL_BITS)
def test_what_is_far_below_the_loudest_value_is_sent_at_the_lowest_level(value_bits: ValueBits) -> None:
    sparse = sent_of(torch.tensor([[-1e-6, 1.0, 1.0, 1.0]]), 4, value_bits)

    lowest = reference.STEPS[value_bits] * (2 ** (value_bits - 1) - 1)
    assert sparse.below is not None
    assert sparse.below.tolist() == [[lowest, 0, 0, 0]]
    said = dequantise(sparse)[0].tolist()
    assert -said[0] / said[1] == pytest.approx(2.0 ** (-lowest / 8))


def test_the_more_bits_a_value_has_the_less_energy_is_lost() -> None:
    coefficients = torch.randn(40, 4096, generator=torch.Generator().manual_seed(0))

    lost = []
    for value_bits in (1, *LEVEL_BITS):
        sparse = sent_of(coefficients, 32, value_bits)
        sent = coefficients.gather(-1, sparse.indices.long())
        lost.append(float((sent - dequantise(sparse)).square().sum() / sent.square().sum()))

    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 0.0015  # an eighth of an octave is wrong by 2**(1 / 16) - 1 at most, half of that on average


@given(st.integers(-1192, 1023))
def test_a_value_that_can_be_said_is_said_within_one_rounding(scale: int) -> None:
    exact = torch.tensor(2.0 ** (scale % 8 / 8), dtype=torch.float32).item() * 2.0 ** (scale // 8)

    values = dequantise(one_chunk(255, scale - 255))

    assert values[0, 0].item() == -np.float32(exact)
    assert values[0, 1].item() == 0


@pytest.mark.parametrize("base", [-2048, 2047])
@pytest.mark.parametrize("code", [1, 255])
def test_magnitudes_beyond_fp32_stay_finite(code: int, base: int) -> None:
    value = dequantise(one_chunk(code, base))[0, 0].item()

    assert math.isfinite(value)
    assert (value == 0) == (base < 0)


def test_the_mean_magnitude_has_the_least_squared_error_of_all_scales() -> None:
    values = torch.tensor([[3.0, -4.0, 5.5, 9.0]])
    sparse = sent_of(values, 4)

    errors = {s: ((values.abs() - 2 ** (s / 8)) ** 2).sum().item() for s in range(-40, 60)}

    assert int(sparse.codes[0]) + sparse.base == min(errors, key=lambda s: errors[s])


def test_a_chunk_far_below_the_loudest_sends_nothing() -> None:
    coefficients = torch.tensor([[1.0], [2.0 ** (-254 / 8)], [2.0 ** (-255 / 8)], [0.0]])

    sparse = sent_of(coefficients, 1)

    assert sparse.codes.tolist() == [255, 1, 0, 0]
    assert sparse.counts.tolist() == [1, 1, 0, 0]


def test_a_chunk_that_sends_nothing_has_index_zero_and_no_sign() -> None:
    coefficients = torch.tensor([[1.0, 2.0], [0.0, -1e-12]])

    sparse = sent_of(coefficients, 2)

    assert sparse.indices[1].tolist() == [0, 0]
    assert sparse.negative[1].tolist() == [False, False]


def test_a_parameter_that_sends_nothing_has_base_zero() -> None:
    assert sent_of(torch.zeros(2, 3), 2).base == 0
    assert sent_of(torch.zeros(0, 3), 2).base == 0


@pytest.mark.parametrize(("magnitude", "scale"), [(3.4028234663852886e38, 1023), (1.401298464324817e-45, -1192)])
def test_the_ends_of_fp32_are_sent_as_finite_numbers_that_shrink_the_rest(magnitude: float, scale: int) -> None:
    coefficients = torch.full((1, 4096), magnitude)
    sparse = sent_of(coefficients, 4096)

    left = coefficients - dequantise(sparse)

    assert int(sparse.codes[0]) + sparse.base == scale
    assert left.isfinite().all()
    assert (left.abs() < coefficients).all()
