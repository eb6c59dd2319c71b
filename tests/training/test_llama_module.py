"""The Llama, its loss and its optimizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from templar_pl.config import LlamaConfig, ScheduleConfig
from templar_pl.data.packing import IGNORED_LABEL, pack_documents
from templar_pl.errors import ConfigError
from templar_pl.training.module import GenerationConfig, LlamaModule, build_llama
from templar_pl.training.text_metrics import BitsPerByte, TextMetrics, token_loss

TINY = LlamaConfig(
    vocab_size=258,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=32,
)
SCHEDULE = ScheduleConfig(learning_rate=2e-3, warmup_steps=4, t_max=8)


def batch_of(text: str, length: int = 16) -> dict[str, Tensor]:
    tokens = list(text.encode())
    packed = pack_documents([tokens], num_bytes=[len(tokens)], sequence_length=length, end_of_text=256, pad=257)
    return {"input_ids": packed.input_ids, "labels": packed.labels, "num_bytes": packed.num_bytes}


def slow_costs(logits: Tensor, labels: Tensor) -> list[float]:
    """Nats of each predicted token, one after the other, in float64."""
    costs = []
    for row, wanted in zip(logits.double().tolist(), labels.tolist(), strict=True):
        for scores, label in zip(row[:-1], wanted[1:], strict=True):
            if label != IGNORED_LABEL:
                costs.append(math.log(sum(math.exp(score) for score in scores)) - scores[label])
    return costs


def test_the_default_model_has_1_2049_billion_parameters() -> None:
    with torch.device("meta"):
        model = build_llama(LlamaConfig(), init_seed=0)

    assert sum(parameter.numel() for parameter in model.parameters()) == 1_204_881_408


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    one, same, other = (LlamaModule(TINY, SCHEDULE, init_seed=seed).state_dict() for seed in (3, 3, 4))

    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.lm_head.weight"], other["model.lm_head.weight"])


def test_building_leaves_the_random_numbers_of_the_program_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)

    LlamaModule(TINY, SCHEDULE, init_seed=5)

    assert torch.equal(torch.rand(3), expected)


def test_the_head_has_weights_of_its_own() -> None:
    model = build_llama(TINY, init_seed=0)

    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10_000}


def test_a_fresh_model_knows_nothing_of_the_next_byte() -> None:
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=344,
        max_position_embeddings=64,
    )
    module = LlamaModule(config, SCHEDULE)

    loss = module.training_step(batch_of("The standard library is documented in parts. " * 20, 64), 0)["loss"]

    assert loss.item() == pytest.approx(math.log(258), abs=0.1)


def test_a_training_step_returns_the_mean_loss_of_the_slow_way_and_counts_tokens() -> None:
    module = LlamaModule(TINY, SCHEDULE)
    batch = batch_of("pad me, there are some bytes")

    step = module.training_step(batch, 0)

    costs = slow_costs(module(batch["input_ids"]), batch["labels"])
    assert step["tokens"].item() == len(b"pad me, there are some bytes") + 1
    assert step["loss"].item() == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_end_of_text_is_learned() -> None:
    module = LlamaModule(TINY, ScheduleConfig(learning_rate=0.5))
    batch = batch_of("abc")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        module.training_step(batch, 0)["loss"].backward()
        optimizer.step()

    assert batch["labels"][0, 3] == 256
    assert module(batch["input_ids"])[0, 2].softmax(-1)[256] > 0.9


def test_what_stands_in_padding_changes_neither_loss_nor_gradient() -> None:
    gradients = []
    for pad in (257, 0):
        module = LlamaModule(TINY, SCHEDULE)
        batch = batch_of("abcdefghijk")
        batch["input_ids"][batch["labels"] == IGNORED_LABEL] = pad
        module.training_step(batch, 0)["loss"].backward()
        gradients.append([p.grad for p in module.parameters()])

    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_batch_that_predicts_nothing_costs_nothing_and_changes_nothing() -> None:
    module = LlamaModule(TINY, SCHEDULE)

    loss = module.training_step(batch_of(""), 0)["loss"]
    loss.backward()

    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_gradient_checkpointing_saves_activations_and_gives_the_same_gradient() -> None:
    batch = batch_of("the same gradient, please")
    gradients, saved = [], []
    for checkpointing in (False, True):
        module = LlamaModule(TINY, SCHEDULE, gradient_checkpointing=checkpointing).train()
        kept = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module.training_step(batch, 0)["loss"]
        saved.append(kept)
        loss.backward()
        gradients.append([p.grad for p in module.parameters()])

    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert saved[1] < saved[0] / 2


@given(
    texts=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    length=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_metrics_over_batches_are_those_of_the_slow_way(texts: list[bytes], length: int, seed: int) -> None:
    metrics, costs, text_bytes = TextMetrics(), [], 0
    generator = torch.Generator().manual_seed(seed)
    for text in [*texts, b"never nothing"]:
        packed = pack_documents([text], num_bytes=[len(text)], sequence_length=length, end_of_text=256, pad=257)
        logits = 3 * torch.randn(len(packed), length, 258, generator=generator)
        metrics.update(logits, {"labels": packed.labels, "num_bytes": packed.num_bytes})
        costs += slow_costs(logits, packed.labels)
        text_bytes += sum(0 <= label < 256 for row in packed.labels.tolist() for label in row[1:])

    found = {name: metric.compute().item() for name, metric in metrics.named("val").items()}

    mean = sum(costs) / len(costs)
    assert found["val/loss"] == pytest.approx(mean, rel=1e-4)
    assert found["val/perplexity"] == pytest.approx(math.exp(mean), rel=1e-3)
    assert found["val/bits_per_byte"] == pytest.approx(sum(costs) / math.log(2) / text_bytes, rel=1e-4)


def test_a_model_that_gives_all_bytes_equal_chances_needs_eight_bits_a_byte() -> None:
    logits = torch.full((1, 9, 256), 1.5)
    labels = torch.arange(9).unsqueeze(0)
    metric = BitsPerByte()

    metric.update(token_loss(logits, labels).nats, torch.tensor([8]))

    assert metric.compute().item() == pytest.approx(8)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def loader_of(text: str) -> DataLoader[Any]:
    batch = batch_of(text)
    rows = [{name: values[row] for name, values in batch.items()} for row in range(len(batch["labels"]))]
    return DataLoader(rows, batch_size=2)  # type: ignore[arg-type]  # a list has length and index


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_a_checkpoint_holds_plain_values_and_gives_back_the_module(tmp_path: Path, trainer: Trainer) -> None:
    module = LlamaModule(TINY, SCHEDULE, generation=GenerationConfig(max_new_tokens=3), init_seed=2)
    trainer.fit(module, loader_of("some text to train on " * 4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    loaded = LlamaModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)

    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["lr_schedulers"] == [{"windows_applied": 3}]
    assert state["hyper_parameters"]["llama"]["hidden_size"] == 32
    assert loaded.hparams == module.hparams
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items())
    assert not any("metrics" in name for name in state["state_dict"])


def trained_on(text: str) -> LlamaModule:
    module = LlamaModule(TINY, SCHEDULE, generation=GenerationConfig(max_new_tokens=12))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    inputs = torch.tensor([[256, *text.encode(), 256]])
    batch = {"input_ids": inputs, "labels": inputs}
    for _ in range(60):
        optimizer.zero_grad()
        module.training_step(batch, 0)["loss"].backward()
        optimizer.step()
    return module.eval()


def test_generation_writes_what_was_learned_and_stops_at_end_of_text() -> None:
    module = trained_on("import os")

    assert module.predict_step(["imp", "import", ""], 0) == ["import os"] * 3


def test_a_prompt_that_is_too_long_loses_its_beginning() -> None:
    module = trained_on("import os")

    (text,) = module.predict_step(["x" * 100 + "import"], 0)

    assert text.startswith("x" * 100 + "import")
    assert len(text) <= 106 + 12


def test_drawing_tokens_follows_the_random_numbers_of_the_program() -> None:
    module = LlamaModule(TINY, SCHEDULE, generation=GenerationConfig(max_new_tokens=12, temperature=1.0, top_k=50))
    module.eval()
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(module.predict_step(["a"], 0))

    assert texts[0] == texts[1] != texts[2]


def test_the_likeliest_of_one_token_is_the_greedy_one() -> None:
    greedy = LlamaModule(TINY, SCHEDULE, generation=GenerationConfig(max_new_tokens=12)).eval()
    drawn = LlamaModule(TINY, SCHEDULE, generation=GenerationConfig(max_new_tokens=12, temperature=2, top_k=1)).eval()

    assert greedy.predict_step(["ab"], 0) == drawn.predict_step(["ab"], 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be in"),
        ({"temperature": -1.0}, "temperature must be in"),
        ({"temperature": 1.0, "top_k": -1}, "top_k must be in"),
        ({"top_k": 5}, "needs a temperature above 0"),
    ],
)
def test_impossible_ways_to_generate_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**wrong)


def test_more_new_tokens_than_positions_are_refused() -> None:
    module = LlamaModule(TINY, SCHEDULE, generation=GenerationConfig(max_new_tokens=32))

    with pytest.raises(ConfigError, match=r"max_new_tokens must be below max_position_embeddings \(32\), got 32"):
        module.setup("predict")
    with pytest.raises(ValueError, match="must leave a position for the prompt, got 32"):
        module.predict_step(["a"], 0)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused() -> None:
    config = LlamaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=1, intermediate_size=8)
    module = LlamaModule(config, SCHEDULE)

    with pytest.raises(ConfigError, match="has 258 tokens, but vocab_size is 257"):
        module.setup("fit")
