"""The integer inverse of the compiled library where its sums are largest, and where they nearly cancel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from templar_pl.compression import ChunkGrid, MomentumCodec, encode_body, native_fault
from templar_pl.config import CompressionConfig
from tests.compression import reference
from tests.compression.payloads import to_sparse
from tests.compression.reference import SlowPayload

EDGE, LIMIT = 64, 1023
SHAPE = (EDGE * EDGE, EDGE)  # one chunk for every place of a column
Signs = Callable[[NDArray[np.int64]], NDArray[np.int64]]
QUIETER = 80  # eighths: T[0] - T[80] = 2**15 - 2**5 = 1023 * 2**5

pytestmark = pytest.mark.skipif(bool(native_fault()), reason=native_fault() or "native is there")


def basis() -> NDArray[np.int64]:
    """Return the integer basis of 64, row = frequency, column = place."""
    return np.rint(256 * reference.cosines(EDGE)).astype(np.int64)


def largest_signs(column: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(column < 0, -1, 1)


def cancelling_signs(column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give each number, the largest first, the sign that brings the sum nearer to zero."""
    signs, total = np.ones(EDGE, np.int64), 0
    for k in np.argsort(-abs(column), kind="stable"):
        signs[k] = -1 if total * column[k] > 0 else 1
        total += signs[k] * column[k]
    return signs


def payloads_of(signs: list[NDArray[np.int64]], grid: ChunkGrid) -> list[SlowPayload]:
    """Return payloads whose sum is signs * 1023 * 2**5 in frequency 1 of all rows, one chunk for each array of signs.

    Row 1 of the basis is 256 at the first place, so there the operands of the inverse along the columns are +-1023.
    """
    payloads = []
    for first in range(0, EDGE, grid.topk):
        for sign, base in ((1, 0), (-1, -QUIETER)):
            rows = range(first, first + grid.topk)
            sent = [{EDGE * k + 1: int(sign * of_chunk[k]) for k in rows} for of_chunk in signs]
            payloads.append(SlowPayload(sent, [255] * len(sent), base))
    return payloads


@pytest.mark.parametrize("topk", [32, 64])
@pytest.mark.parametrize("choose", [largest_signs, cancelling_signs])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_columns_have_the_signs_of_python_integers(topk: int, choose: Signs, sign: int) -> None:
    config = CompressionConfig(topk=topk, combine="sum", equalise="none")
    native = MomentumCodec({"w": SHAPE}, config, torch.device("cpu"), backend="native")
    signs = [sign * choose(basis()[:, place]) for place in range(EDGE)]
    slow = payloads_of(signs, native.grids["w"])

    update = native.update([encode_body({"w": to_sparse(payload, topk)}, native.grids) for payload in slow])["w"]

    for place, of_chunk in enumerate(signs):
        column = [sum(LIMIT * int(s) * int(b) for s, b in zip(of_chunk, row, strict=True)) for row in basis().T]
        if choose is largest_signs:
            assert abs(column[place]) == LIMIT * abs(basis()[:, place]).sum()
        got = update[EDGE * place : EDGE * (place + 1), 0]
        assert got.tolist() == [float(np.sign(x)) for x in column], place


@pytest.mark.parametrize("topk", [32, 64])
def test_extreme_chunks_mean_the_same_to_native_and_torch(topk: int) -> None:
    config = CompressionConfig(topk=topk, combine="sum", equalise="none")
    codecs = [MomentumCodec({"w": SHAPE}, config, torch.device("cpu"), backend=b) for b in ("native", "torch")]
    signs = [largest_signs(column) for column in basis().T]
    slow = payloads_of(signs, codecs[0].grids["w"])
    bodies = [encode_body({"w": to_sparse(payload, topk)}, codecs[0].grids) for payload in slow]

    native, plain = (made.update(bodies)["w"] for made in codecs)

    assert torch.equal(native, plain)
