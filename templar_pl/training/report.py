"""What one window of one node was, for the log, the loggers and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from templar_pl.training.phases import Phase
from templar_pl.units import Uid, Window


class Tally:
    """What was trained in a window so far. Sums stay on the model's device, so that counting does not wait for it."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.batches = 0
        self._loss: Tensor | float = 0.0
        self._tokens: Tensor | int = 0

    def add(self, loss: Tensor, tokens: Tensor | int) -> None:
        """Count one batch with its mean loss () and its number of tokens, summed up if it is a tensor of any shape."""
        self.batches += 1
        self._loss = self._loss + loss.detach()
        self._tokens = self._tokens + (tokens.detach().sum() if isinstance(tokens, Tensor) else tokens)

    @property
    def loss(self) -> float:
        """Mean loss over the batches; 0 before the first one."""
        return float(self._loss) / max(1, self.batches)

    @property
    def tokens(self) -> int:
        """Tokens of all batches; 0 for modules that do not count them."""
        return int(self._tokens)


@dataclass(frozen=True, kw_only=True)
class Norms:
    """L2 norms over the parameters of a model, one number a parameter, summed up as mean, largest, smallest, spread."""

    mean_grad: float
    max_grad: float
    min_grad: float
    grad_std: float
    mean_weight: float
    mean_momentum: float


@dataclass(frozen=True, kw_only=True)
class WindowReport:
    """One applied window."""

    window: Window
    applied: int
    """Windows applied since the start of the run, this one included."""

    tally: Tally
    total_tokens: int
    """Tokens this node has trained on since the run began."""

    peers_tokens: int
    """Tokens that all applied payloads of the window were trained on, as they say."""

    learning_rate: float
    parameters_before: bytes
    """32 bytes: fingerprint of the parameters the gradient was taken at."""

    norms: Norms
    participants: int
    """Nodes whose payloads make up the window."""

    peers: tuple[Uid, ...]
    """Whose payloads were applied, in uid order."""

    skipped: dict[Uid, str] = field(default_factory=dict)
    """Reason for each participant that was left out."""

    out_of_sync: tuple[Uid, ...] = ()
    """Peers whose gradient was taken at other parameters than ours."""

    put_failed: str = ""
    """Why the own payload is not part of the window; empty if it is."""

    has_manifest: bool | None = None
    """Whether the window is what a manifest says; None where no aggregator is followed."""

    gone: str = ""
    """Which listed payloads could not be had, so that the aggregate was applied; empty if payloads were."""

    aggregates: int = 0
    """Windows that this process applied from their aggregate for that reason so far, this one included."""

    lost: str = ""
    """Why the parameters are not those of the others; empty if nothing says so."""

    resynchronisations: int = 0
    """Times that this process was lost so far, this window included."""

    rebuilt: bool = False
    """Whether this was an own window of the past, trained again to rebuild the momentum."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: dict[Phase, float] = field(default_factory=dict)

    @property
    def window_total_s(self) -> float:
        """Seconds from the start of the window to the applied update."""
        return sum(self.seconds.values())

    def to_json(self) -> bytes:
        """Return what others may want to know of the window, as one JSON object."""
        said = {
            "window": self.window,
            "applied": self.applied,
            "loss": self.tally.loss,
            "batches": self.tally.batches,
            "tokens": self.tally.tokens,
            "learning_rate": self.learning_rate,
            "parameters_before": self.parameters_before.hex(),
            "peers": list(self.peers),
            "skipped": {str(uid): reason for uid, reason in self.skipped.items()},
            "out_of_sync": list(self.out_of_sync),
            "put_failed": self.put_failed,
            "has_manifest": self.has_manifest,
            "gone": self.gone,
            "aggregates": self.aggregates,
            "lost": self.lost,
            "resynchronisations": self.resynchronisations,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": {str(phase): round(seconds, 6) for phase, seconds in self.seconds.items()},
        }
        return json.dumps(said, allow_nan=True).encode()

    def describe(self) -> str:
        """Return the window in one line."""
        parts = [
            f"window {self.window}: loss {self.tally.loss:.4f}",
            f"{self.tally.batches} batches, {self.tally.tokens} tokens",
            f"peers {len(self.peers)}/{self.participants}",
            f"up {format_bytes(self.bytes_up)}, down {format_bytes(self.bytes_down)}",
            f"{self.window_total_s:.2f} s",
        ]
        if self.rebuilt:
            parts.append("trained again")
        if self.put_failed:
            parts.append(f"not sent: {self.put_failed}")
        if self.has_manifest is False:
            parts.append("no manifest")
        if self.gone:
            parts.append("applied from its aggregate")
        if self.lost:
            parts.append("out of step, not applied")
        parts += [f"skipped peer {uid}: {reason}" for uid, reason in self.skipped.items()]
        if self.out_of_sync:
            parts.append(f"out of sync with uid {', '.join(map(str, self.out_of_sync))}")
        return " | ".join(parts)

    def metrics(self) -> dict[str, float]:
        """Return all metrics of the window under their public names."""
        training_s = self.seconds.get(Phase.TRAINING, 0.0)
        cuda = torch.cuda.is_available()
        return {
            "miner/loss": self.tally.loss,
            "miner/tokens_per_sec": self.tally.tokens / max(self.window_total_s, 1e-9),
            "miner/batch_duration": training_s / max(1, self.tally.batches),
            "miner/total_tokens": self.total_tokens,
            "miner/batch_tokens": self.tally.tokens,
            "miner/global_step": self.applied,
            "miner/gpu_memory_allocated": torch.cuda.memory_allocated() / 2**20 if cuda else 0.0,
            "miner/gpu_memory_cached": torch.cuda.memory_reserved() / 2**20 if cuda else 0.0,
            "miner/gather_peers": len(self.peers),
            "miner/effective_batch_size": self.peers_tokens,
            "miner/learning_rate": self.learning_rate,
            "miner/mean_grad_norm": self.norms.mean_grad,
            "miner/max_grad_norm": self.norms.max_grad,
            "miner/min_grad_norm": self.norms.min_grad,
            "miner/grad_norm_std": self.norms.grad_std,
            "miner/mean_weight_norm": self.norms.mean_weight,
            "miner/mean_momentum_norm": self.norms.mean_momentum,
            "miner/gather/success_rate": len(self.peers) / max(1, len(self.peers) + len(self.skipped)),
            "miner/gather/skipped": len(self.skipped),
            "miner/gather/out_of_sync": len(self.out_of_sync),
            "miner/from_aggregate": self.aggregates,
            "miner/resynchronisations": self.resynchronisations,
            "miner/bytes_up": self.bytes_up,
            "miner/bytes_down": self.bytes_down,
            "miner/timing/window_total": self.window_total_s,
            **{f"miner/timing/{phase}": self.seconds.get(phase, 0.0) for phase in Phase},
        }


def format_bytes(count: float) -> str:
    """Return a number of bytes for people: `512 B`, `6.1 KiB`, `3.0 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def measure_norms(gradients: Sequence[Tensor], weights: Sequence[Tensor], momentum: Sequence[Tensor]) -> Norms:
    """Measure the L2 norm of every tensor of three lists; an empty list counts as one zero."""
    grad, weight, moment = (_norms(tensors) for tensors in (gradients, weights, momentum))
    return Norms(
        mean_grad=grad.mean().item(),
        max_grad=grad.max().item(),
        min_grad=grad.min().item(),
        grad_std=grad.std(correction=0).item(),
        mean_weight=weight.mean().item(),
        mean_momentum=moment.mean().item(),
    )


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        filled = [t.detach().float() for t in tensors if t.numel()]
        return torch.stack([torch.linalg.vector_norm(t) for t in filled]) if filled else torch.zeros(1)
