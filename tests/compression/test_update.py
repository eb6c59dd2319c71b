"""The exact update against Python integers, and against real numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression import ChunkGrid, ExactUpdate, check_exact_arithmetic, chunk_grid, combine, sign_of
from templar_pl.compression.combine import shared_scales
from templar_pl.compression.exact import ROOM, inverse_dct_, rescale_
from templar_pl.compression.grid import Transform, ValueBits
from templar_pl.compression.sparse import join, stack
from templar_pl.compression.weights import clip_weights, weigh
from templar_pl.errors import ConfigError
from tests.compression import reference
from tests.compression.payloads import arbitrary_payload, hostile_payload, to_sparse
from tests.compression.reference import SlowPayload

CPU = torch.device("cpu")
Rule = Literal["mean", "sum"]
Equalise = Literal["norm", "clip", "none"]
RULES: tuple[Rule, ...] = ("mean", "sum")
EQUALISE: tuple[Equalise, ...] = ("norm", "clip", "none")
SEEDS = st.integers(0, 2**32 - 1)
BITS: st.SearchStrategy[ValueBits] = st.sampled_from([1, 2, 3, 8])
SHAPES = st.sampled_from([(), (1,), (7,), (0, 3), (4, 0), (13, 11), (5, 1), (1, 9), (2, 3, 2, 5), (8, 16)])


def exact(
    payloads: list[SlowPayload],
    grid: ChunkGrid,
    rule: Rule,
    equalise: Equalise,
    dtype: torch.dtype = torch.float32,
) -> ExactUpdate:
    sparse = [to_sparse(payload, grid.topk) for payload in payloads]
    return combine(sparse, grid, rule=rule, equalise=equalise, device=CPU, dtype=dtype)


def inverse(coefficients: torch.Tensor, grid: ChunkGrid) -> torch.Tensor:
    room = torch.full((ROOM, *coefficients.shape), math.nan)  # what lies in the rest does not matter
    room[0] = coefficients
    inverse_dct_(room, grid)
    return room[0]


def assert_is_reference(payloads: list[SlowPayload], grid: ChunkGrid, chunk_size: int) -> None:
    for rule in RULES:
        for equalise in EQUALISE:
            wanted = reference.update_integers(payloads, grid.shape, chunk_size, rule, equalise)
            for dtype in (torch.float32, torch.float64):
                got = exact(payloads, grid, rule, equalise, dtype).integers.double().numpy()
                assert len(got) == len(wanted)
                assert all((g == w).all() for g, w in zip(got, wanted, strict=True)), (rule, equalise, dtype)


@given(SEEDS, SHAPES, st.integers(1, 16), st.integers(1, 6), st.sampled_from([1, 2, 5]), BITS)
def test_arbitrary_payloads_give_the_integers_of_the_reference(
    seed: int, shape: tuple[int, ...], chunk_size: int, topk: int, num_payloads: int, value_bits: ValueBits
) -> None:
    rng = np.random.default_rng(seed)
    grid = chunk_grid(shape, chunk_size=chunk_size, topk=topk, value_bits=value_bits)

    assert_is_reference([arbitrary_payload(rng, grid) for _ in range(num_payloads)], grid, chunk_size)


@pytest.mark.parametrize("num_payloads", [1, 2, 16, 512])
@pytest.mark.parametrize("kind", ["arbitrary", "alike", "loud", "mixed"])
@pytest.mark.parametrize("value_bits", [1, 2, 3, 8])
def test_any_number_of_payloads_gives_the_integers_of_the_reference(
    num_payloads: int, kind: str, value_bits: ValueBits
) -> None:
    rng = np.random.default_rng(num_payloads)
    grid = chunk_grid((9, 7), chunk_size=6, topk=5, value_bits=value_bits)
    payloads = [
        {
            "arbitrary": lambda: arbitrary_payload(rng, grid),
            "alike": lambda: arbitrary_payload(rng, grid, spread=3),
            "loud": lambda: hostile_payload(rng, grid, loud=1),
            "mixed": lambda: hostile_payload(rng, grid, loud=int(rng.integers(2))),
        }[kind]()
        for _ in range(num_payloads)
    ]

    assert_is_reference(payloads, grid, 6)


@pytest.mark.parametrize(("num_payloads", "value_bits"), [(2, 1), (16, 1), (16, 2), (16, 3), (16, 8)])
def test_full_size_chunks_give_the_integers_of_the_reference(num_payloads: int, value_bits: ValueBits) -> None:
    rng, grid = np.random.default_rng(0), chunk_grid((67, 64), chunk_size=64, topk=32, value_bits=value_bits)

    assert_is_reference([arbitrary_payload(rng, grid, spread=9) for _ in range(num_payloads)], grid, 64)


@pytest.mark.parametrize(("rule", "num_payloads"), [("sum", 512), ("sum", 511), ("mean", 512)])
@pytest.mark.parametrize("equalise", EQUALISE)
@pytest.mark.parametrize("value_bits", [1, 8])
def test_the_largest_sums_there_are_do_not_round(
    rule: Rule, num_payloads: int, equalise: Equalise, value_bits: ValueBits
) -> None:
    # All coefficients are sent by all, as loud as can be, with the signs that add up at one place of the chunk.
    grid = chunk_grid((64, 64), chunk_size=64, topk=4096, value_bits=value_bits)
    signs = np.sign(np.outer(reference.cosines(64)[:, 3], reference.cosines(64)[:, 5])).reshape(-1)
    sent = {k: int(s) for k, s in enumerate(signs)}
    below = None if value_bits == 1 else [dict.fromkeys(sent, 0)]
    payload = SlowPayload([sent], [255], 0, below)

    got = exact([payload] * num_payloads, grid, rule, equalise).integers

    # Python integers, as the reference would add them, but all alike.
    magnitudes, _ = reference.chunk_scales([payload] * 2, 0, equalise)
    sums = [s * magnitudes[0][k] * (num_payloads if rule == "sum" else 1) for k, s in sent.items()]
    wanted, _ = reference.integer_inverse(sums, (64, 64), is_vector=False)
    assert max(sums) >= (2**22 if rule == "sum" else 2**13)
    assert got[0].long().tolist() == wanted


@given(SEEDS, st.sampled_from(RULES), st.sampled_from(EQUALISE))
def test_the_order_of_payloads_changes_nothing(seed: int, rule: Rule, equalise: Equalise) -> None:
    rng, grid = np.random.default_rng(seed), chunk_grid((20, 9), chunk_size=8, topk=6)
    payloads = [arbitrary_payload(rng, grid, spread=20) for _ in range(5)]

    forward, backward = (exact(p, grid, rule, equalise) for p in (payloads, payloads[::-1]))

    assert torch.equal(forward.integers, backward.integers)
    assert torch.equal(forward.eighths, backward.eighths)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("equalise", EQUALISE)
@pytest.mark.parametrize("value_bits", [1, 2, 3, 8])
def test_integers_and_log_scales_are_close_to_the_update_in_real_numbers(
    rule: Rule, equalise: Equalise, value_bits: ValueBits
) -> None:
    rng, shape = np.random.default_rng(5), (128, 100)
    grid = chunk_grid(shape, chunk_size=64, topk=32, value_bits=value_bits)
    payloads = [arbitrary_payload(rng, grid, spread=12) for _ in range(16)]
    for payload in payloads:
        payload.base = 3

    update = exact(payloads, grid, rule, equalise)

    real = update.integers.double() * torch.exp2(update.eighths.double() / 8)[:, None, None] * update.unit
    ideal = torch.from_numpy(np.stack(reference.ideal_chunks(payloads, shape, 64, rule, equalise)))
    assert (real - ideal).norm() <= 5e-3 * ideal.norm()
    differs = real.sign() != ideal.sign()
    is_tiny = ideal.abs() < 1e-3 * ideal.square().mean((1, 2), keepdim=True).sqrt()
    assert (differs & ~is_tiny).double().mean() < 0.005
    assert is_tiny.double().mean() < 0.01


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("equalise", EQUALISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_transform_the_update_is_what_is_sent(rule: Rule, equalise: Equalise, dtype: torch.dtype) -> None:
    rng, grid = np.random.default_rng(3), chunk_grid((9, 7), chunk_size=6, topk=5, transform="none")
    payloads = [arbitrary_payload(rng, grid, spread=9) for _ in range(5)]

    update = exact(payloads, grid, rule, equalise, dtype)

    wanted = reference.update_integers(payloads, (9, 7), 6, rule, equalise, "none")
    assert (update.integers.double().numpy() == np.stack(wanted)).all()


def test_without_a_transform_one_payload_is_worth_its_values() -> None:
    grid = chunk_grid((4, 4), chunk_size=4, topk=3, transform="none", value_bits=2)
    payload = SlowPayload([{0: 1, 5: -1, 15: 1}], [255], -255, [{0: 0, 5: 4, 15: 4}])

    update = exact([payload], grid, "sum", "clip")

    worth = update.integers[0].double() * 2.0 ** (int(update.eighths[0]) / 8) * update.unit
    wanted = torch.zeros(16, dtype=torch.float64)
    wanted[[0, 5, 15]] = torch.tensor([1, -(2**-0.5), 2**-0.5], dtype=torch.float64)
    assert torch.allclose(worth.flatten(), wanted, atol=1e-4)


def test_equalised_payloads_count_alike_whatever_their_loudness() -> None:
    grid = chunk_grid((8, 8), chunk_size=8, topk=2)
    quiet, loud = SlowPayload([{0: 1, 5: 1}], [255], -700), SlowPayload([{0: -1, 6: 1}], [255], 600)

    both = exact([quiet, loud], grid, "sum", "norm")
    alone = exact([SlowPayload([{5: 1, 6: 1}], [255], 0)], grid, "sum", "norm")

    assert torch.equal(both.integers, alone.integers)


@pytest.mark.parametrize("rule", RULES)
def test_a_payload_louder_than_the_median_counts_as_one_at_the_median(rule: Rule) -> None:
    grid = chunk_grid((8, 8), chunk_size=8, topk=2)
    quiet, middle = SlowPayload([{0: 1, 5: 1}], [255], -16), SlowPayload([{0: -1, 6: 1}], [255], 0)
    loud, median = (SlowPayload([{1: -1, 6: 1}], [255], base) for base in (800, 0))

    clipped = exact([quiet, loud, middle], grid, rule, "clip")

    wanted = exact([quiet, median, middle], grid, rule, "clip")
    assert torch.equal(clipped.integers, wanted.integers)
    assert torch.equal(clipped.eighths, wanted.eighths)


def test_clipping_leaves_payloads_below_the_median_as_quiet_as_they_are() -> None:
    grid = chunk_grid((8, 8), chunk_size=8, topk=1)
    # The quiet one is two octaves below the others, and silent payloads are no part of the median.
    payloads = [SlowPayload([{9: 1}], [255], base) for base in (-16, 0, 0)] + [SlowPayload([{}], [0], 0)] * 5

    update = exact(payloads, grid, "sum", "clip")

    alone = [exact([payload], grid, "sum", "none") for payload in payloads[:2]]
    worth = [u.integers.double() * torch.exp2(u.eighths.double() / 8) for u in (update, *alone)]
    assert torch.allclose(worth[0], worth[1] + 2 * worth[2], rtol=2e-3)


@given(st.lists(st.tuples(st.integers(0, 2**120), st.integers(-2048, 2047)), min_size=1, max_size=6))
def test_weights_that_clip_are_the_nearest_below_the_quotient_to_the_median(drawn: list[tuple[int, int]]) -> None:
    squares, bases = [square for square, _ in drawn], [base for _, base in drawn]

    weights = clip_weights(squares, bases)

    norms = [Fraction(square) * Fraction(2) ** (base // 4) for square, base in drawn]
    sending = sorted(norm for norm in norms if norm)
    for norm, (mantissa, exponent) in zip(norms, weights, strict=True):
        if norm == 0:
            assert (mantissa, exponent) == (0, 0)
            continue
        median = sending[(len(sending) - 1) // 2]
        assert 2**13 <= mantissa < 2**14
        if norm <= median:
            assert Fraction(mantissa) / Fraction(2) ** exponent == 1
        else:
            assert Fraction(mantissa) ** 2 / Fraction(4) ** exponent <= median / norm
            assert median / norm < Fraction(mantissa + 1) ** 2 / Fraction(4) ** exponent


@pytest.mark.parametrize("num_sent", range(1, 17))
def test_halves_in_equalised_scales_go_to_the_even_integer(num_sent: int) -> None:
    # Codes that are multiples of 8 shift the mantissa of a weight by every distance, so that one of them is a tie.
    steady = SlowPayload([dict.fromkeys(range(num_sent), 1)] * 32, [255] * 32, 0)
    falling = SlowPayload([dict.fromkeys(range(num_sent), 1)] * 32, [255, *range(248, 0, -8)], 0)
    sparse = [to_sparse(payload, 16) for payload in (steady, falling)]

    joined = [join([payload]) for payload in sparse]

    weights = weigh(joined, equalise="norm", device=CPU)
    said = stack(joined, slice(None), CPU)
    scales = shared_scales(said, weights, torch.zeros(32, dtype=torch.int64))

    for chunk in range(32):
        wanted, eighths = reference.chunk_scales([steady, falling], chunk, "norm")
        assert scales.integers[chunk, :, 0].tolist() == [magnitudes[0] for magnitudes in wanted]
        assert scales.eighths[chunk] == eighths


@pytest.mark.parametrize("shape", [(), (9,), (10, 70)])
def test_without_payloads_the_update_is_zero(shape: tuple[int, ...]) -> None:
    grid = chunk_grid(shape, chunk_size=64, topk=4)

    assert not sign_of(exact([], grid, "mean", "norm"), grid).any()


def test_a_chunk_that_nobody_sends_stays_zero() -> None:
    grid = chunk_grid((4, 8), chunk_size=4, topk=2)
    payload = SlowPayload([{1: 1}, {}], [255, 0], 4)

    update = sign_of(exact([payload], grid, "mean", "norm"), grid)

    assert update[:, :4].all()
    assert not update[:, 4:].any()


@pytest.mark.parametrize("rule", RULES)
def test_payloads_that_cancel_give_a_positive_zero(rule: Rule) -> None:
    grid = chunk_grid((4, 4), chunk_size=4, topk=1)
    payloads = [SlowPayload([{5: sign}], [255], 0) for sign in (1, -1)]

    update = sign_of(exact(payloads, grid, rule, "norm"), grid)

    assert not update.view(torch.int32).any()  # -0.0 would have a bit set


def test_more_payloads_than_fp32_can_add_are_refused() -> None:
    grid = chunk_grid((4,), chunk_size=4, topk=1)

    with pytest.raises(ValueError, match=r"0\.\.512 payloads, got 513"):
        exact([SlowPayload([{0: 1}], [255], 0)] * 513, grid, "sum", "norm")


@pytest.mark.parametrize("senders", [1, 3, 7, 85, 256, 341, 509, 510, 511, 512])
def test_the_fp32_quotient_rounds_like_the_exact_one(senders: int) -> None:
    # Numerators next to every half-integer quotient there can be.
    halves = senders * (2 * torch.arange(2**15) + 1)
    sums = torch.cat([halves // 2 + d for d in (-1, 0, 1)]).clamp(max=2**15 * senders)
    quotients, remainders = sums // senders, sums % senders
    is_up = (2 * remainders > senders) | ((2 * remainders == senders) & (quotients % 2 == 1))

    got = (sums.float() / senders).round()

    assert torch.equal(got.long(), quotients + is_up)


@given(st.lists(st.integers(-(2**24), 2**24), min_size=6, max_size=6))
def test_rescaling_divides_by_the_least_power_of_two(values: list[int]) -> None:
    chunk = torch.tensor(values, dtype=torch.float32).view(1, 2, 3)

    wanted, shift = reference.rescale(chunk[0].long().tolist())

    shifts = rescale_(chunk, 1023)

    assert shifts.tolist() == [shift]
    assert chunk[0].long().tolist() == wanted
    assert chunk.abs().max() <= 1023


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_this_cpu_multiplies_exactly(dtype: torch.dtype) -> None:
    check_exact_arithmetic(CPU, dtype=dtype)


def test_arithmetic_that_rounds_is_noticed() -> None:
    with pytest.raises(ConfigError, match="float64"):
        check_exact_arithmetic(CPU, dtype=torch.bfloat16)


def test_reduced_precision_asked_for_elsewhere_does_not_reach_the_update() -> None:
    rng, grid = np.random.default_rng(0), chunk_grid((64, 64), chunk_size=64, topk=32)
    payloads = [arbitrary_payload(rng, grid) for _ in range(3)]
    plain = exact(payloads, grid, "mean", "norm").integers
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = exact(payloads, grid, "mean", "norm").integers
    finally:
        torch.set_float32_matmul_precision("highest")

    assert torch.equal(plain, inside)


def test_the_layout_and_the_number_of_threads_change_nothing() -> None:
    grid = chunk_grid((640, 640), chunk_size=64, topk=32)
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randint(-(2**24), 2**24, (100, 4096), generator=generator).float()
    whole = inverse(coefficients, grid)
    torch.set_num_threads(2)
    try:
        threaded = inverse(coefficients, grid)
    finally:
        torch.set_num_threads(1)
    single = torch.cat([inverse(row[None], grid) for row in coefficients])

    assert torch.equal(whole, threaded)
    assert torch.equal(whole, single)


@pytest.mark.parametrize("transform", ["dct", "none"])
@pytest.mark.parametrize("shape", [(3, 6), (64, 64), (12,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_result_is_a_negative_zero(transform: Transform, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    grid = chunk_grid(shape, chunk_size=64, topk=1, transform=transform)
    room = torch.full((ROOM, grid.num_chunks, grid.chunk_numel), -0.0)

    inverse_dct_(room, grid, dtype=dtype)

    assert not room[0].signbit().any()
