"""How much memory and disk training takes, and how much memory is free.

Shapes: B = sequences of a batch, L = tokens a sequence, H = width of the model, V = vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from templar_pl.compression import UpdateCodec
from templar_pl.config import LlamaConfig
from templar_pl.hparams import HParams
from templar_pl.protocol import payload_bytes
from templar_pl.training import LlamaModule

FP32_BYTES = 4
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that training a model takes."""

    parameters: int
    gradients: int
    momentum: int
    activations: int
    """What one batch keeps for its backward pass, and the logits. In fp32: less under autocast to bf16."""

    payloads: int
    """All payloads of one window."""

    payload: int

    @property
    def memory(self) -> int:
        """Bytes at the peak of a window, roughly: without buffers of single operations and the libraries."""
        return self.parameters + self.gradients + self.momentum + self.activations + self.payloads

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint."""
        return self.parameters + self.momentum


def estimate_need(model: LlamaModule, hparams: HParams, element_bytes: int = FP32_BYTES) -> Need:
    """Count what training takes.

    Args:
        model: may lie on `meta`: only its shapes count.
        hparams: the numbers of the run.
        element_bytes: of a parameter; 4 or 8.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    # On `meta` a codec allocates no momentum.
    grids = UpdateCodec(shapes, hparams.compression, torch.device("meta"), backend="torch").grids
    parameters = element_bytes * sum(parameter.numel() for parameter in model.parameters())
    tokens = hparams.pages.batch_size * hparams.pages.sequence_length
    checkpointed = bool(model.hparams["gradient_checkpointing"])
    payload = payload_bytes(grids)
    return Need(
        parameters=parameters,
        gradients=parameters,
        momentum=FP32_BYTES * sum(grid.num_chunks * grid.chunk_numel for grid in grids.values()),
        activations=element_bytes * tokens * activation_elements(hparams.llama, checkpointed=checkpointed),
        payloads=payload * hparams.peers.max_topk_peers,
        payload=payload,
    )


def activation_elements(llama: LlamaConfig, *, checkpointed: bool) -> int:
    """Return how many elements a token of a batch keeps for the backward pass, and its logits.

    A layer keeps two norms (3 H each: input, normalised, scaled), queries, keys and values, what attention returns,
    and four vectors of the feed-forward layer. With checkpointing each layer keeps its input, and one layer all of
    that. The head keeps a norm and, while the loss is computed, three times V: logits, those of the predicted tokens,
    and their softmax.
    """
    width, head = llama.hidden_size, llama.hidden_size // llama.num_attention_heads
    layer = 8 * width + 2 * head * llama.num_key_value_heads + 4 * llama.intermediate_size
    layers = llama.num_hidden_layers * (width if checkpointed else layer) + (layer if checkpointed else 0)
    return layers + 3 * width + 3 * llama.vocab_size


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory of a device programs may still take; None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not _MEMINFO.exists():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
    limits = [1024 * int(found[1])] if found else []
    return min([*limits, *_group_free_bytes(_CGROUP)], default=None)


def _group_free_bytes(group: Path) -> list[int]:
    """Return what the limit of a container leaves, as a list of one; of none if there is no limit."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = (group / "memory.stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    if limit == "max":
        return []
    # Files that were read count as used, and are given up when memory is asked for.
    cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
    return [max(0, int(limit) - used + (int(cached[1]) if cached else 0))]
