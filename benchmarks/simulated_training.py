"""A small training with several simulated peers in one process, for `training_comparison.py`.

All peers hold the same parameters by the scheme's definition, so one copy serves all. In every window each peer has a
batch of its own pages, a mean gradient and a momentum; what it sends goes through the exchange under test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from benchmarks.float_codec import FloatCodec
from benchmarks.reference import ReferenceCodec, ReferencePayload
from templar_pl import LlamaModule
from templar_pl.compression import MomentumCodec, decode_body, encode_body
from templar_pl.config import CompressionConfig, PagesConfig, ScheduleConfig
from templar_pl.data import PageSet, ensure_embedded, load_tokenizer, open_page_set, pack_pages
from templar_pl.data.embedded import TEXT_COLUMN
from templar_pl.hparams import HParams
from templar_pl.protocol.pages import next_pages
from templar_pl.protocol.schedule import learning_rate_at
from templar_pl.training.optimizer import DecoupledSGD
from templar_pl.training.text_metrics import token_loss

ADAM_BETAS = (0.9, 0.95)
FP32_BYTES = 4
SEED_STRIDE = 1000  # uids of a seed's peers: seed * SEED_STRIDE + peer

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to turn the peers' gradients into a step."""

    name: str
    """Unique among the variants of a study."""

    family: str
    """Variants of a family share a learning rate."""

    kind: Literal["wire", "float", "published", "sign", "adamw"]
    """`wire`: the package's codec and bytes; `float`: the same with fp32 values; `published`: `ReferenceCodec`;
    `sign`: sign of the dense momentum of the mean gradient; `adamw`: AdamW on the mean gradient."""

    compression: CompressionConfig
    """For `wire` and `float`, and in part for `published`; `sign` uses its momentum_decay."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trainings of a study share."""

    hparams: HParams
    """Model, tokenizer and sequence length; the momentum's numbers come from the variants."""

    windows: int
    """Updates of one training."""

    peers: int
    """Simulated peers, 1..SEED_STRIDE."""

    sequences: int
    """Sequences a peer and window."""

    warmup: int
    """Windows of linear warm-up; the cosine falls over all others."""

    validation_pages: int = 64
    """Held-out pages of 2 KiB that the loss is measured on."""

    alpha_f: float = 0.0
    """Where the cosine ends, as a share of the peak."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    loss: float
    """Nats a token on the held-out pages."""

    payload_bytes: int
    """What one peer sent in one window, without header and signature."""


class Exchange(Protocol):
    """Turns the gradients of all peers into what the optimizer is given."""

    payload_bytes: int

    def update(self, gradients: Sequence[Gradients], rate: float) -> Mapping[str, Tensor]:
        """Return the update of one window."""
        ...


class WireExchange(Exchange):
    """The package's codec, through the bytes that a peer would put into its bucket."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], config: CompressionConfig, peers: int) -> None:
        self._codecs = [MomentumCodec(shapes, config, torch.device("cpu")) for _ in range(peers)]
        self.payload_bytes = 0

    def update(self, gradients: Sequence[Gradients], rate: float) -> Mapping[str, Tensor]:
        """Send and receive."""
        bodies = []
        for codec, own in zip(self._codecs, gradients, strict=True):
            sent = encode_body(codec.send_(own, dict.fromkeys(own, rate)), codec.grids).data
            self.payload_bytes = len(sent)
            bodies.append(decode_body(sent, codec.grids, backend=codec.backend))
        return self._codecs[0].update(bodies)


class FloatExchange(Exchange):
    """A codec with fp32 values, one for each peer."""

    def __init__(self, codecs: Sequence[FloatCodec | ReferenceCodec]) -> None:
        self._codecs = codecs
        self.payload_bytes = 0

    def update(self, gradients: Sequence[Gradients], rate: float) -> Mapping[str, Tensor]:
        """Send and receive."""
        payloads = [codec.send(own, rate) for codec, own in zip(self._codecs, gradients, strict=True)]
        self.payload_bytes = _num_bytes(payloads[0])
        return self._codecs[0].receive(payloads)


class DenseExchange(Exchange):
    """The mean gradient of all peers, uncompressed, or the sign of its momentum."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, sign_decay: float | None) -> None:
        self._momentum = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self._decay = sign_decay
        self.payload_bytes = FP32_BYTES * sum(m.numel() for m in self._momentum.values())

    def update(self, gradients: Sequence[Gradients], rate: float) -> Mapping[str, Tensor]:
        """Average; with a decay, fold into the momentum and take the sign."""
        means = {name: torch.stack([own[name] for own in gradients]).mean(0) for name in self._momentum}
        if self._decay is None:
            return means
        for name, momentum in self._momentum.items():
            momentum.mul_(self._decay).add_(means[name])
        return {name: momentum.sign() for name, momentum in self._momentum.items()}


def _num_bytes(payload: ReferencePayload) -> int:
    tensors = [*payload.indices.values(), *payload.values.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def new_exchange(variant: Variant, shapes: Mapping[str, tuple[int, ...]], peers: int) -> Exchange:
    """Return the exchange of a variant with zero momentum."""
    config = variant.compression
    match variant.kind:
        case "wire":
            return WireExchange(shapes, config, peers)
        case "float":
            grids = MomentumCodec(shapes, config, torch.device("cpu")).grids
            return FloatExchange(
                [
                    FloatCodec(
                        grids,
                        decay=config.momentum_decay,
                        combine=config.combine,
                        equalise=config.equalise,
                    )
                    for _ in range(peers)
                ]
            )
        case "published":
            return FloatExchange(
                [ReferenceCodec(shapes, decay=config.momentum_decay, topk=config.topk) for _ in range(peers)]
            )
        case "sign":
            return DenseExchange(shapes, sign_decay=config.momentum_decay)
        case "adamw":
            return DenseExchange(shapes, sign_decay=None)


class Text:
    """The standard library's source files as sequences: some for each peer and window, and held-out ones."""

    def __init__(self, setting: Setting, cache: Path) -> None:
        """Build the page set in a cache folder if it is not there, and tokenize all of it."""
        folder = ensure_embedded(cache, rows_per_page=1)
        pages = open_page_set(
            folder, text_column=TEXT_COLUMN, rows_per_page=1, num_validation_pages=setting.validation_pages
        )
        self._count = setting.sequences
        self._training, self._held_out = (
            _pack(pages, numbers, setting.hparams.pages)
            for numbers in (range(pages.num_training_pages), pages.validation_pages)
        )

    def batch(self, uid: int, window: int) -> dict[str, Tensor]:
        """Return the batch of a peer in a window: sequences from anywhere, none twice before all were given out."""
        places = next_pages(window * self._count, self._count, uid, len(self._training))
        return _as_batch(self._training[places])

    def validation(self) -> list[dict[str, Tensor]]:
        """Return all held-out text in batches."""
        return [_as_batch(part) for part in self._held_out.split(32)]


def _pack(pages: PageSet, numbers: Sequence[int], config: PagesConfig) -> Tensor:
    """Return all whole sequences of pages, (S, L) int32."""
    packed = pack_pages(pages, numbers, load_tokenizer(config.tokenizer_name), config)
    return packed.input_ids[:-1].int()  # the last one is padded


def _as_batch(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids.long(), "labels": ids.long()}


def train(variant: Variant, learning_rate: float, seed: int, setting: Setting, text: Text) -> Outcome:
    """Train from random weights and measure.

    Args:
        variant: what is compared.
        learning_rate: peak of the schedule.
        seed: of the weights and of which pages each peer gets; the same seed gives all variants the same.
        setting: what all trainings share.
        text: pages.
    """
    schedule = ScheduleConfig(
        learning_rate=learning_rate,
        warmup_steps=setting.warmup,
        t_max=max(1, setting.windows - setting.warmup),
        alpha_f=setting.alpha_f,
    )
    module = LlamaModule(setting.hparams.llama, schedule, init_seed=seed)
    parameters = dict(module.named_parameters())
    exchange = new_exchange(variant, {name: tuple(p.shape) for name, p in parameters.items()}, setting.peers)
    if variant.kind == "adamw":
        optimizer = torch.optim.AdamW(parameters.values(), learning_rate, betas=ADAM_BETAS, weight_decay=0.0)
    else:
        optimizer = DecoupledSGD(parameters.values(), learning_rate)
    for window in range(setting.windows):
        rate = learning_rate_at(window, schedule)
        uids = [seed * SEED_STRIDE + peer for peer in range(setting.peers)]
        gradients = [mean_gradient(module, text.batch(uid, window)) for uid in uids]
        update = exchange.update(gradients, rate)
        for name, parameter in parameters.items():
            parameter.grad = update[name]
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return Outcome(held_out_loss(module, text.validation()), exchange.payload_bytes)


def mean_gradient(module: LlamaModule, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of every parameter."""
    module.zero_grad(set_to_none=True)
    module.training_step(batch, 0)["loss"].backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@torch.inference_mode()
def held_out_loss(module: LlamaModule, batches: Sequence[dict[str, Tensor]]) -> float:
    """Return the loss in nats a token."""
    costs = [token_loss(module(batch["input_ids"]), batch["labels"]) for batch in batches]
    return sum(float(cost.nats) for cost in costs) / sum(int(cost.targets) for cost in costs)
