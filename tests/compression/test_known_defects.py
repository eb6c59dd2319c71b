"""The cases in which earlier systems went wrong, a test each, all the way from gradients over bytes to the update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from templar_pl.compression import (
    Backend,
    MomentumCodec,
    SparseChunks,
    decode_body,
    dequantise,
    encode_body,
    native_fault,
)
from templar_pl.config import CompressionConfig
from tests.compression import reference
from tests.compression.payloads import to_slow

CPU = torch.device("cpu")


@pytest.fixture(params=["torch", "native"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "native" and native_fault():
        pytest.skip(native_fault())
    return request.param


def new_codec(shape: tuple[int, ...], backend: Backend, topk: int = 32, chunk_size: int = 64) -> MomentumCodec:
    return MomentumCodec({"w": shape}, CompressionConfig(topk=topk, chunk_size=chunk_size), CPU, backend=backend)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def exchange(codec: MomentumCodec, gradient: Tensor) -> tuple[SparseChunks, Tensor]:
    """Send a gradient, and return what its bytes say and the update they make; both are those of the slow reference."""
    grid, shape = codec.grids["w"], tuple(gradient.shape)
    body = encode_body(codec.send_({"w": gradient}, {"w": 1.0}), codec.grids)

    received = decode_body(body.data, codec.grids, backend=codec.backend)
    update = codec.update([received])["w"]

    edge = max(grid.height, grid.width)
    chunks = reference.cut(gradient.double().numpy(), edge)
    wanted, _ = reference.compress([reference.dct(chunk, is_vector=len(shape) < 2) for chunk in chunks], grid.topk)
    assert to_slow(received["w"]) == wanted
    signs = np.sign(reference.paste(reference.update_integers([wanted], shape, edge, "mean", "norm"), shape, edge))
    np.testing.assert_array_equal(update.double().numpy(), signs)
    return received["w"], update


def test_prime_dimensions_are_cut_into_chunks_of_full_size(backend: Backend) -> None:
    codec = new_codec((131, 67), backend)

    _, update = exchange(codec, randn(131, 67))

    grid = codec.grids["w"]
    assert (grid.height, grid.width, grid.num_chunks) == (64, 64, 6)
    assert update.count_nonzero() > 0.99 * update.numel()


@pytest.mark.parametrize("shape", [(5, 130), (130, 5), (7, 3), (1, 64), (64, 1), (1, 1)])
def test_dimensions_below_64_make_smaller_chunks(backend: Backend, shape: tuple[int, int]) -> None:
    codec = new_codec(shape, backend, topk=3)

    _, update = exchange(codec, randn(*shape))

    assert (codec.grids["w"].height, codec.grids["w"].width) == (min(shape[0], 64), min(shape[1], 64))
    assert update.any()


@pytest.mark.parametrize("shape", [(131,), (64,), (3,), (1,), ()])
def test_vectors_and_scalars_are_exchanged_like_matrices(backend: Backend, shape: tuple[int, ...]) -> None:
    sent, update = exchange(new_codec(shape, backend, topk=3), randn(*shape))

    assert sent.counts.all()
    assert update.shape == shape
    assert update.any()


@pytest.mark.parametrize("shape", [(8, 8), (3, 5), (7,), ()])
@pytest.mark.parametrize("topk", [63, 64])
def test_a_k_that_reaches_the_size_of_a_chunk_sends_every_coefficient_once(
    backend: Backend, shape: tuple[int, ...], topk: int
) -> None:
    codec = new_codec(shape, backend, topk=topk, chunk_size=8)

    sent, _ = exchange(codec, randn(*shape))

    wanted = min(topk, codec.grids["w"].chunk_numel)
    assert sent.counts.tolist() == [wanted]
    assert len(set(sent.indices[0].tolist())) == wanted


def test_a_chunk_of_zeros_sends_nothing_and_stays_zero(backend: Backend) -> None:
    codec, gradient = new_codec((128, 64), backend), randn(128, 64)
    gradient[64:] = 0.0

    sent, update = exchange(codec, gradient)

    assert sent.counts.tolist() == [32, 0]
    assert update[:64].any()
    assert not update[64:].any()
    assert not codec.momentum["w"][1].any()


@pytest.mark.parametrize("shape", [(70, 70), (5, 70), (70,), ()])
def test_a_gradient_of_zeros_moves_nothing(backend: Backend, shape: tuple[int, ...]) -> None:
    codec = new_codec(shape, backend)

    sent, update = exchange(codec, torch.zeros(shape))

    assert not sent.counts.any()
    assert not update.any()
    assert not codec.momentum["w"].any()


def test_zeros_that_fill_up_k_are_not_sent_and_move_nothing(backend: Backend) -> None:
    codec = new_codec((64, 64), backend)
    codec.momentum["w"][0, [7, 900]] = torch.tensor([-2.0, 2.0])

    sent = decode_body(encode_body(codec.compress_(), codec.grids).data, codec.grids)["w"]

    assert sent.counts.tolist() == [2]
    assert dequantise(sent)[0].tolist() == [-2.0, 2.0] + [0.0] * 30
    assert not codec.momentum["w"].any()


def test_a_sign_of_zero_is_a_positive_zero_and_not_minus_one(backend: Backend) -> None:
    codec, gradient, payloads = new_codec((70, 64), backend), randn(70, 64), []
    for peers_gradient in (gradient, -gradient):
        codec.momentum["w"].zero_()
        body = encode_body(codec.send_({"w": peers_gradient}, {"w": 1.0}), codec.grids)
        payloads.append(decode_body(body.data, codec.grids, backend=backend))

    update = codec.update(payloads)["w"]

    assert all(codec.update([payload])["w"].any() for payload in payloads)
    assert not update.view(torch.int32).any()  # -0.0 would have a bit set
