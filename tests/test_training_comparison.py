"""The parts of the training comparison that its figures rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from benchmarks.float_codec import FloatCodec
from benchmarks.reference import ReferenceCodec
from benchmarks.simulated_training import Outcome
from benchmarks.training_comparison import Ledger, tune
from templar_pl.compression import chunk_grid

SHAPES = {"matrix": (128, 192), "vector": (128,)}
EVERYTHING = 4096


def float_codec(
    shapes: dict[str, tuple[int, ...]],
    topk: int,
    *,
    transform: Literal["dct", "none"] = "dct",
    equalise: Literal["norm", "none"] = "none",
    combine: Literal["mean", "sum"] = "mean",
) -> FloatCodec:
    grids = {name: chunk_grid(shape, chunk_size=64, topk=topk, transform=transform) for name, shape in shapes.items()}
    return FloatCodec(grids, decay=0.9, combine=combine, equalise=equalise)


def random_gradients(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_the_float_codec_is_the_published_scheme_where_its_chunks_are_the_same() -> None:
    ours = [float_codec(SHAPES, 32) for _ in range(3)]
    published = [ReferenceCodec(SHAPES, decay=0.9, topk=32) for _ in range(3)]

    for window in range(5):
        gradients = [random_gradients(SHAPES, 10 * window + peer) for peer in range(3)]
        payloads = [codec.send(own, 0.1) for codec, own in zip(ours, gradients, strict=True)]
        wanted_payloads = [codec.send(own, 0.1) for codec, own in zip(published, gradients, strict=True)]
        update, wanted = ours[0].receive(payloads), published[0].receive(wanted_payloads)

        for name in SHAPES:
            sent = payloads[0].values[name].flatten(0, -2).sort(-1).values
            wanted_sent = wanted_payloads[0].values[name].flatten(0, -2).sort(-1).values
            assert torch.allclose(sent, wanted_sent, atol=1e-5)
            # Elements near zero may round to another sign.
            assert (update[name] == wanted[name]).float().mean() > 0.999


@pytest.mark.parametrize("transform", ["dct", "none"])
def test_sending_every_coefficient_gives_the_sign_of_the_mean_gradient(transform: Literal["dct", "none"]) -> None:
    shapes = {"matrix": (70, 130), "vector": (67,)}
    codecs = [float_codec(shapes, EVERYTHING, transform=transform) for _ in range(2)]
    gradients = [random_gradients(shapes, peer) for peer in range(2)]

    update = codecs[0].receive([codec.send(own, 1.0) for codec, own in zip(codecs, gradients, strict=True)])

    for name, got in update.items():
        mean = gradients[0][name] + gradients[1][name]
        assert torch.equal(got[mean.abs() > 1e-4], mean.sign()[mean.abs() > 1e-4])
        assert all((codec.momentum[name] == 0).all() for codec in codecs)


@pytest.mark.parametrize(("equalise", "winner"), [("none", 0), ("norm", 1)])
def test_equalising_keeps_a_loud_peer_from_deciding_alone(equalise: Literal["norm", "none"], winner: int) -> None:
    shapes = {"vector": (64,)}
    gradients = [{"vector": torch.zeros(64)} for _ in range(2)]
    gradients[0]["vector"][:4] = 1000.0
    gradients[1]["vector"][0] = -1.0
    codecs = [float_codec(shapes, 64, transform="none", equalise=equalise) for _ in range(2)]

    update = codecs[0].receive([codec.send(own, 1.0) for codec, own in zip(codecs, gradients, strict=True)])

    assert update["vector"][0] == gradients[winner]["vector"][0].sign()


def test_mean_weighs_a_coefficient_by_those_who_sent_it_and_sum_by_all() -> None:
    # The first frequency lifts all elements, the second lowers the last: which of them wins depends on the rule.
    shapes = {"vector": (2,)}
    spectra = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.5])]
    basis = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    last: dict[str, float] = {}
    for rule in ("mean", "sum"):
        codecs = [float_codec(shapes, 1, combine=rule) for _ in spectra]
        payloads = [codec.send({"vector": s @ basis}, 1.0) for codec, s in zip(codecs, spectra, strict=True)]
        last[rule] = float(codecs[0].receive(payloads)["vector"][1])

    assert last == {"mean": -1.0, "sum": 1.0}


@pytest.mark.parametrize("optimum", [0.001, 0.03, 0.5])
def test_a_grid_of_learning_rates_grows_until_its_best_is_inside(optimum: float) -> None:
    tried = tune(lambda peak: abs(peak - optimum), [0.01, 0.02, 0.04])

    peaks, losses = [peak for peak, _ in tried], [loss for _, loss in tried]
    best = losses.index(min(losses))
    assert peaks == sorted(peaks)
    assert 0 < best < len(peaks) - 1
    assert peaks[best] / 2**0.5 < optimum < peaks[best] * 2**0.5
    assert len(peaks) == len(set(peaks))


def test_a_finished_training_is_found_again_by_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "study.jsonl"
    Ledger(path).add({"seed": 1, "learning_rate": 1e-3}, Outcome(2.5, 41))
    Ledger(path).add({"seed": 2, "learning_rate": 1e-3}, Outcome(2.25, 41))

    assert Ledger(path).find({"learning_rate": 1e-3, "seed": 2}) == Outcome(2.25, 41)
    assert Ledger(path).find({"learning_rate": 2e-3, "seed": 2}) is None
