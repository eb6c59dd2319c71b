"""A body that is handed on while it is made is the body that is made at once, and leaves early."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from templar_pl.compression import Body, MomentumCodec, native_fault
from templar_pl.config import CompressionConfig

needs_native = pytest.mark.skipif(bool(native_fault()), reason=native_fault() or "native is there")
BACKENDS = [pytest.param("torch"), pytest.param("native", marks=needs_native)]
# In the order of the names; chunks of 8 x 4 first, then of 8 x 8: more in a matrix than are handed on at once.
SHAPES = {"a": (512, 4), "b": (17,), "c": (512, 520), "d": (3, 9), "e": (640, 512), "f": (), "g": (0, 4)}
DEVICE = torch.device("cpu")


def new_codec(backend: Literal["torch", "native"]) -> MomentumCodec:
    return MomentumCodec(SHAPES, CompressionConfig(chunk_size=8, topk=4), DEVICE, backend=backend)


def gradients(seed: int) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, torch.Tensor | None] = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    drawn["d"] = None
    # So that quiet chunks are put back: nothing below 2**-32 of the loudest can be said.
    first = drawn["a"]
    assert first is not None
    first[:8] *= 1e-25
    return drawn


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_parts_are_the_body_and_the_momentum_is_the_same(backend: Literal["torch", "native"]) -> None:
    at_once, streamed = new_codec(backend), new_codec(backend)
    lr = dict.fromkeys(SHAPES, 0.5)
    for window in range(3):
        body = at_once.send_(gradients(window), lr)
        parts: list[bytes] = []
        sent = streamed.send_(gradients(window), lr, ready=lambda part: parts.append(bytes(part)))  # noqa: B023

        assert isinstance(body, Body)
        assert isinstance(sent, Body)
        assert b"".join(parts) == body.data == sent.data
        assert len(parts) > 1
        assert all(torch.equal(at_once.momentum[name], streamed.momentum[name]) for name in SHAPES)
        for name in SHAPES:
            assert sent[name].says_what(body[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_leave_while_later_parameters_are_still_to_come(backend: Literal["torch", "native"]) -> None:
    codec = new_codec(backend)
    untouched: list[bool] = []

    codec.send_(
        gradients(0), dict.fromkeys(SHAPES, 0.5), ready=lambda _: untouched.append(not codec.momentum["e"].any())
    )

    assert untouched[0]
    assert not untouched[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_handed_on_can_be_taken_back(backend: Literal["torch", "native"]) -> None:
    codec, kept = new_codec(backend), new_codec(backend)
    lr = dict.fromkeys(SHAPES, 0.5)
    kept.accumulate_(gradients(0), lr)

    codec.send_(gradients(0), lr, ready=lambda _: None)
    codec.restore_()

    assert all(torch.equal(codec.momentum[name], kept.momentum[name]) for name in SHAPES)
