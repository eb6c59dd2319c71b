"""The Llama that is trained: model, loss and optimizer.

Shapes: B = sequences of a batch, L = tokens a sequence, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers.models.llama.configuration_llama import LlamaConfig as TransformersConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from templar_pl.config import LlamaConfig, ScheduleConfig
from templar_pl.data.packing import IGNORED_LABEL
from templar_pl.data.tokenizers import BYTES, Tokenizer, load_tokenizer
from templar_pl.errors import ConfigError
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule
from templar_pl.training.text_metrics import TextMetrics, token_loss

ROPE_THETA = 10_000.0  # base of the rotary positions of Llama 2

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How `predict` continues a prompt."""

    max_new_tokens: int = 64
    """Tokens written at most, 1..2**20 and fewer than the model has positions."""

    temperature: float = 0.0
    """0 takes the likeliest token each time; above, tokens are drawn and a higher one is more daring; 0..100."""

    top_k: int = 0
    """Draw among so many likeliest tokens only; 0 for all of them; 0..2**20. Needs a temperature above 0."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= 2**20:
            raise ConfigError(f"max_new_tokens must be in 1..{2**20}, got {self.max_new_tokens}")
        if not 0 <= self.temperature <= 100:
            raise ConfigError(f"temperature must be in 0..100, got {self.temperature}")
        if not 0 <= self.top_k <= 2**20:
            raise ConfigError(f"top_k must be in 0..{2**20}, got {self.top_k}")
        if self.top_k and not self.temperature:
            raise ConfigError(f"top_k {self.top_k} needs a temperature above 0; set temperature, or top_k to 0")


GREEDY = GenerationConfig()


class LlamaModule(LightningModule):
    """A Llama with random weights, trained to predict the next token.

    A checkpoint of it loads with `LlamaModule.load_from_checkpoint(path, weights_only=True)`.
    """

    def __init__(
        self,
        llama: LlamaConfig,
        schedule: ScheduleConfig,
        *,
        tokenizer_name: str = BYTES,
        generation: GenerationConfig = GREEDY,
        init_seed: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Build the model.

        Args:
            llama: shape of the model.
            schedule: learning rate and weight decay.
            tokenizer_name: the tokenizer of the data; it turns prompts into tokens and back.
            generation: how `predict` continues prompts.
            init_seed: of the random weights; the same seed gives the same bits on one platform and version of torch.
                The random numbers of the rest of the program are not touched.
            gradient_checkpointing: compute activations twice instead of keeping them: less memory, a third more time.
        """
        super().__init__()
        # Checkpoints hold the settings as plain dicts; `load_from_checkpoint` hands those in.
        llama, schedule = _restored(LlamaConfig, llama), _restored(ScheduleConfig, schedule)
        generation = _restored(GenerationConfig, generation)
        configs = {"llama": llama, "schedule": schedule, "generation": generation}
        self.save_hyperparameters(
            {name: asdict(config) for name, config in configs.items()}
            | {"tokenizer_name": tokenizer_name, "init_seed": init_seed}
            | {"gradient_checkpointing": gradient_checkpointing}
        )
        self._schedule, self._tokenizer_name, self._generation = schedule, tokenizer_name, generation
        self._tokenizer: Tokenizer | None = None
        self.model = build_llama(llama, init_seed)
        if gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        self.validation_metrics = TextMetrics()
        self.test_metrics = TextMetrics()

    def setup(self, stage: str) -> None:
        """Load the tokenizer and check that the model is large enough for it and for what is to be written."""
        self._tokenizer = load_tokenizer(self._tokenizer_name)
        refuse_small_vocabulary(self._tokenizer, self._tokenizer_name, self.model.config.vocab_size)
        positions = self.model.config.max_position_embeddings
        if stage == "predict" and self._generation.max_new_tokens >= positions:
            raise ConfigError(
                f"max_new_tokens must be below max_position_embeddings ({positions}), "
                f"got {self._generation.max_new_tokens}"
            )

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return (B, L, V) logits of the token after each of (B, L) int64 tokens."""
        # Padding stands at ends only, where causal attention never looks back from text: no mask is needed.
        return self.model(input_ids=input_ids, use_cache=False).logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the mean loss () of a batch and how many tokens () of text it had."""
        cost = token_loss(self(batch["input_ids"]), batch["labels"])
        return {"loss": cost.mean, "tokens": (batch["labels"] != IGNORED_LABEL).sum()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to val/loss, val/perplexity and val/bits_per_byte."""
        self._evaluate(batch, self.validation_metrics, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to test/loss, test/perplexity and test/bits_per_byte."""
        self._evaluate(batch, self.test_metrics, "test")

    def predict_step(self, batch: list[str], batch_idx: int) -> list[str]:
        """Return each prompt with its continuation."""
        tokenizer = self._tokenizer or load_tokenizer(self._tokenizer_name)
        # One at a time: what a prompt becomes does not depend on its neighbours' lengths.
        return [prompt + generate(self.model, tokenizer, prompt, self._generation) for prompt in batch]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return SGD without momentum, and the schedule, which steps once a window, that is once an epoch."""
        optimizer = DecoupledSGD(
            self.parameters(), self._schedule.learning_rate, weight_decay=self._schedule.weight_decay
        )
        scheduler = WindowSchedule(optimizer, self._schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch", "frequency": 1}}

    def _evaluate(self, batch: dict[str, Tensor], metrics: TextMetrics, prefix: str) -> None:
        metrics.update(self(batch["input_ids"]), batch)
        self.log_dict(metrics.named(prefix), on_step=False, on_epoch=True, batch_size=len(batch["input_ids"]))


def refuse_small_vocabulary(tokenizer: Tokenizer, name: str, rows: int) -> None:
    """Check that a model has a row for each token.

    Args:
        tokenizer: of the data.
        name: what it is called.
        rows: of the model's embedding.

    Raises:
        ConfigError: there are too few.
    """
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"the tokenizer {name!r} has {tokenizer.vocab_size} tokens, but vocab_size is {rows}; set vocab_size to at "
            "least the former"
        )


def build_llama(config: LlamaConfig, init_seed: int) -> LlamaForCausalLM:
    """Return a Llama with random weights that depend on the seed alone.

    The head is not tied to the embedding, keys and values are not cached. The generator of the program is left as it
    was. On the device `meta` this allocates nothing.
    """
    # devices=[]: weights are drawn on the CPU, and the generators of accelerators are not touched either.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(init_seed)
        return LlamaForCausalLM(
            TransformersConfig(
                **asdict(config),
                rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
                use_cache=False,
                tie_word_embeddings=False,
                bos_token_id=None,
                eos_token_id=None,
            )
        )


@torch.inference_mode()
def generate(model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str, config: GenerationConfig) -> str:
    """Continue a prompt until end-of-text or `max_new_tokens`.

    The model reads end-of-text first, as before every document it learned from. A prompt too long for the model's
    positions loses its beginning. Drawing tokens uses the program's random numbers.

    Returns:
        The continuation without the prompt.

    Raises:
        ValueError: max_new_tokens leaves no position for the prompt.
    """
    room = model.config.max_position_embeddings - config.max_new_tokens
    if room < 1:
        raise ValueError(f"max_new_tokens must leave a position for the prompt, got {config.max_new_tokens}")
    tokens = [tokenizer.end_of_text, *tokenizer.encode([prompt])[0]][-room:]
    input_ids = torch.tensor([tokens], device=model.device)  # (1, tokens)
    written = model.generate(  # pyright: ignore[reportAttributeAccessIssue] - a wrong annotation of transformers
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=config.max_new_tokens,
        eos_token_id=tokenizer.end_of_text,
        pad_token_id=tokenizer.pad,
        use_cache=True,
        **_sampling(config),
    )
    return tokenizer.decode(written[0, input_ids.shape[1] :].tolist())


def _sampling(config: GenerationConfig) -> dict[str, Any]:
    """Return how `transformers` names the way to choose a token."""
    if config.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": float(config.temperature), "top_k": config.top_k}


def _restored(kind: type[C], value: C) -> C:
    """Return settings; those out of a checkpoint are plain dicts."""
    return kind(**value) if isinstance(value, dict) else value
