from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression.dct import dct_chunks, fold_dct_, from_chunks, to_chunks
from templar_pl.compression.grid import chunk_grid
from templar_pl.compression.precision import full_precision
from tests.compression import reference

SHAPES = st.lists(st.integers(0, 13), min_size=0, max_size=4).map(tuple)
CHUNK_SIZES = st.integers(1, 8)


def random_tensor(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(SHAPES, CHUNK_SIZES, st.integers(0, 999))
def test_chunks_put_together_are_the_tensor(shape: tuple[int, ...], chunk_size: int, seed: int) -> None:
    tensor, grid = random_tensor(shape, seed), chunk_grid(shape, chunk_size=chunk_size, topk=1)

    chunks = to_chunks(tensor, grid)

    assert chunks.shape == (grid.num_chunks, grid.height, grid.width)
    assert torch.equal(from_chunks(chunks, grid), tensor)


@given(SHAPES, CHUNK_SIZES, st.integers(0, 999))
def test_the_dct_is_that_of_dense_float64_matrices(shape: tuple[int, ...], chunk_size: int, seed: int) -> None:
    tensor, grid = random_tensor(shape, seed), chunk_grid(shape, chunk_size=chunk_size, topk=1)

    coefficients = dct_chunks(tensor, grid).double().numpy()

    chunks = reference.cut(tensor.double().numpy(), chunk_size)
    assert len(chunks) == len(coefficients)
    for got, chunk in zip(coefficients, chunks, strict=True):
        np.testing.assert_allclose(got, reference.dct(chunk, is_vector=len(shape) < 2), atol=2e-6)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize(
    "shape",
    [(), (9,), (0, 3), (3, 0), (7, 5), (64, 1040), (70, 1040), (640, 192), (5, 3, 70), (1088, 1040), (1100, 1030)],
)
def test_folding_is_the_decayed_sum_with_the_dct(shape: tuple[int, ...], layout: str) -> None:
    tensor, grid = random_tensor(shape, 1), chunk_grid(shape, chunk_size=16, topk=1)
    if layout == "transposed" and len(shape) == 2:
        tensor = tensor.T.contiguous().T
    before = random_tensor((grid.num_chunks, grid.chunk_numel), 2)
    coefficients = before.clone()

    fold_dct_(coefficients, tensor, grid, decay=0.75, lr=-2.0)

    torch.testing.assert_close(coefficients, 0.75 * before - 2 * dct_chunks(tensor, grid), rtol=0, atol=2e-5)


def test_what_lay_in_the_room_does_not_matter() -> None:
    tensor, grid = random_tensor((70, 90), 1), chunk_grid((70, 90), chunk_size=64, topk=1)
    folded = []
    for content in (0.0, math.nan):
        coefficients, room = torch.ones(grid.num_chunks, grid.chunk_numel), torch.full((8 * 4096,), content)
        fold_dct_(coefficients, tensor, grid, decay=0.5, lr=1.0, room=room)
        folded.append(coefficients)

    assert torch.equal(*folded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_float_dtype_is_folded_in_fp32(dtype: torch.dtype) -> None:
    tensor, grid = random_tensor((64, 128), 0).to(dtype), chunk_grid((64, 128), chunk_size=64, topk=1)
    by_dtype, by_fp32 = torch.ones(2, 4096), torch.ones(2, 4096)

    fold_dct_(by_dtype, tensor, grid, decay=0.5, lr=1.0)
    fold_dct_(by_fp32, tensor.float(), grid, decay=0.5, lr=1.0)

    assert torch.equal(by_dtype, by_fp32)


@given(SHAPES, CHUNK_SIZES, st.integers(0, 999))
def test_the_dct_keeps_energy(shape: tuple[int, ...], chunk_size: int, seed: int) -> None:
    tensor, grid = random_tensor(shape, seed), chunk_grid(shape, chunk_size=chunk_size, topk=1)

    energy = dct_chunks(tensor, grid).double().square().sum()

    assert energy.item() == pytest.approx(tensor.double().square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_dtype_is_transformed_in_fp32(dtype: torch.dtype) -> None:
    tensor, grid = random_tensor((70, 9), 0).to(dtype), chunk_grid((70, 9), chunk_size=64, topk=1)

    assert torch.equal(dct_chunks(tensor, grid), dct_chunks(tensor.float(), grid))


def test_a_tensor_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        to_chunks(torch.zeros(3, 2), chunk_grid((2, 3), chunk_size=8, topk=1))


def test_autocast_does_not_reach_the_transform() -> None:
    tensor, grid = random_tensor((64, 64), 1), chunk_grid((64, 64), chunk_size=64, topk=1)
    plain = dct_chunks(tensor, grid)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dct_chunks(tensor, grid)

    assert torch.equal(plain, inside)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_full_precision_holds_inside_and_is_put_back_after_an_error(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    inside = []

    def fail_in_full_precision() -> None:
        with full_precision(torch.device("cpu")):
            inside.append(torch.backends.cuda.matmul.fp32_precision)
            raise KeyError

    try:
        with pytest.raises(KeyError):
            fail_in_full_precision()
        assert inside == ["ieee"]
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
