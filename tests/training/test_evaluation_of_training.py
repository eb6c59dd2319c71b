"""What evaluations show of real trainings: who trained on the assigned pages, and who sends noise."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from templar_pl.compression import MomentumCodec, SparseChunks
from templar_pl.config import CompressionConfig, LlamaConfig, PagesConfig, ScheduleConfig
from templar_pl.data import PageSetConfig, WindowedDataset
from templar_pl.scoring import Draw
from templar_pl.scoring.scores import relative_improvement
from templar_pl.training import LlamaModule, TemplarDataModule
from templar_pl.training.evaluation import Model, evaluate_payloads
from templar_pl.training.evaluation_pages import draw_batches
from templar_pl.units import Uid, Window
from tests.data.helpers import write_parquet

CPU = torch.device("cpu")
HONEST, NOISY = (Uid(0), Uid(1), Uid(2)), Uid(3)
RATE, WINDOWS = 0.004, 14
LLAMA = LlamaConfig(
    vocab_size=258,
    hidden_size=48,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=4,
    intermediate_size=96,
    max_position_embeddings=64,
)


def pages_of_source_code(folder: Path) -> TemplarDataModule:
    """Return pages of Python's own source code, two pieces of 1 KiB each."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))[:120]
    texts = [text[at : at + 1024] for source in sources for text in [source.read_text("utf-8", "replace")]
             for at in range(0, min(len(text), 16384), 1024)]  # fmt: skip
    write_parquet(folder / "sources.parquet", [*texts], rows_per_group=50)
    config = PagesConfig(tokenizer_name="bytes", sequence_length=64, pages_per_window=2, batch_size=16)
    data = TemplarDataModule(config, PageSetConfig(folder=str(folder), rows_per_page=2))
    data.prepare_data()
    data.setup("fit")
    return data


def gradient_of(module: LlamaModule, data: TemplarDataModule, uid: Uid, window: Window) -> dict[str, Tensor]:
    """Return the mean gradient over the pages that are assigned to a miner."""
    loader = data.any_window_dataloader()
    assert isinstance(loader.dataset, WindowedDataset)
    loader.dataset.begin_window(uid, window)
    batches = list(loader)
    for number, batch in enumerate(batches):
        (module.training_step(batch, number)["loss"] / len(batches)).backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def noise_like(module: LlamaModule, window: Window) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(window)
    return {name: torch.randn(p.shape, generator=generator) for name, p in module.named_parameters()}


def test_training_on_own_pages_shows_and_noise_shows_nothing(tmp_path: Path) -> None:
    data, module = pages_of_source_code(tmp_path), LlamaModule(LLAMA, ScheduleConfig())
    parameters = dict(module.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    config = CompressionConfig(momentum_decay=0.9, topk=64)
    codecs = {uid: MomentumCodec(shapes, config, CPU) for uid in (*HONEST, NOISY)}
    on_own: dict[Uid, list[float]] = {uid: [] for uid in codecs}
    on_random: dict[Uid, list[float]] = {uid: [] for uid in codecs}

    for window in map(Window, range(WINDOWS)):
        sent: dict[Uid, Mapping[str, SparseChunks]] = {}
        for uid, codec in codecs.items():
            gradients = noise_like(module, window) if uid == NOISY else gradient_of(module, data, uid, window)
            sent[uid] = codec.send_(gradients, dict.fromkeys(shapes, RATE))
        batches = draw_batches(data.any_window_dataloader(), Draw(bytes([window] * 32)), window, codecs, 1.0)
        updates = {uid: codec.update([sent[uid]]) for uid, codec in codecs.items()}
        payloads = {uid: update.items for uid, update in updates.items()}
        for found in evaluate_payloads(Model(module, parameters, CPU), payloads, batches, 0.2 * RATE):
            on_own[found.uid].append(relative_improvement(found.own))
            on_random[found.uid].append(relative_improvement(found.random))
        update = codecs[HONEST[0]].update([sent[uid] for uid in HONEST])
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.sub_(RATE * update[name])
    data.teardown("fit")

    honest = [own - random for uid in HONEST for own, random in zip(on_own[uid], on_random[uid], strict=True)]
    noisy = [own - random for own, random in zip(on_own[NOISY], on_random[NOISY], strict=True)]
    error = statistics.stdev(honest) / len(honest) ** 0.5
    assert statistics.mean(honest) > 4 * error
    assert abs(statistics.mean(noisy)) < 3 * statistics.stdev(noisy) / len(noisy) ** 0.5
    assert min(statistics.mean(on_random[uid]) for uid in HONEST) > 10 * abs(statistics.mean(on_random[NOISY]))
