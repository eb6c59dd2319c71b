"""How well a model predicts text.

Shapes: B = sequences, L = tokens a sequence, V = vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, Metric
from torchmetrics.text import Perplexity

from templar_pl.data.packing import IGNORED_LABEL


class TokenLoss(NamedTuple):
    """The cost of a batch's predicted tokens."""

    nats: Tensor
    """() fp32; sum over the predicted tokens."""

    targets: Tensor
    """() int64; how many tokens were predicted."""

    @property
    def mean(self) -> Tensor:
        """() fp32; nats a token, 0 where nothing was predicted: the last sequence of a window may hold one token."""
        return self.nats / self.targets.clamp(min=1)


def token_loss(logits: Tensor, labels: Tensor) -> TokenLoss:
    """Return the cross-entropy of predicting each token from those before it.

    Args:
        logits: (B, L, V) any float dtype; computed with in fp32.
        labels: (B, L) int64; the inputs, IGNORED_LABEL where nothing is to be predicted.
    """
    predicted, wanted = logits[:, :-1], labels[:, 1:]  # (B, L-1, V), (B, L-1)
    nats = cross_entropy(predicted.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
    return TokenLoss(nats, (wanted != IGNORED_LABEL).sum())


class BitsPerByte(Metric):
    """Bits that the model needs for one byte of text; it compares models of different tokenizers.

    The cost of end-of-text counts, its bytes are none. The first token of a sequence is not predicted; neither its
    cost nor its bytes count.
    """

    higher_is_better = False
    full_state_update = False
    nats: Tensor
    num_bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        # fp32, since the accelerator of Macs has no fp64; the sum over batches is off by 1e-6 of itself at most.
        self.add_state("nats", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("num_bytes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, num_bytes: Tensor) -> None:
        """Add a batch: () nats over its predicted tokens, (B,) bytes of text that these stand for."""
        self.nats += nats
        self.num_bytes += num_bytes.sum()

    def compute(self) -> Tensor:
        """Return () fp32 bits a byte."""
        return self.nats / math.log(2) / self.num_bytes


class TextMetrics(nn.Module):
    """Loss, perplexity and bits per byte over all batches of one evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.perplexity = Perplexity(ignore_index=IGNORED_LABEL)
        self.bits_per_byte = BitsPerByte()

    def update(self, logits: Tensor, batch: dict[str, Tensor]) -> None:
        """Add a batch of (B, L, V) logits and its {labels (B, L), num_bytes (B,)}."""
        cost = token_loss(logits, batch["labels"])
        self.loss.update(cost.mean, cost.targets)
        self.perplexity.update(logits[:, :-1].float(), batch["labels"][:, 1:])
        self.bits_per_byte.update(cost.nats, batch["num_bytes"])

    def named(self, prefix: str) -> dict[str, Metric]:
        """Return the metrics under the names they are logged by."""
        return {
            f"{prefix}/loss": self.loss,
            f"{prefix}/perplexity": self.perplexity,
            f"{prefix}/bits_per_byte": self.bits_per_byte,
        }
