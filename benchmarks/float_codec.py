"""The scheme with fp32 values: what the package's codec would do if a payload could say every coefficient exactly.

Chunks, momentum and choice of coefficients are the package's own; the kept values travel as fp32 with int16 indices,
and the update is computed in fp32. Beside `MomentumCodec` it shows what rounding values to a few bits costs; it is no
wire format, and its update is not the same on every device.

Shapes: N = chunks of one parameter, K = coefficients per chunk, T = kept per chunk, P = peers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from benchmarks.reference import ReferencePayload
from templar_pl.compression import ChunkGrid
from templar_pl.compression.dct import dct_basis, dct_chunks, from_chunks, to_chunks
from templar_pl.compression.topk import keep_largest, used_slots


class FloatCodec:
    """Momentum of a model, what is sent of it, and the update of what was received."""

    def __init__(
        self,
        grids: Mapping[str, ChunkGrid],
        *,
        decay: float,
        combine: Literal["mean", "sum"],
        equalise: Literal["norm", "clip", "none"],
    ) -> None:
        """Start with zero momentum.

        Args:
            grids: the chunks of each parameter, their transform, and how many coefficients each sends.
            decay: share of the momentum that stays, 0..1.
            combine: `mean` over the payloads that sent a coefficient, or `sum`.
            equalise: `norm` divides each payload by its L2 norm in each parameter first, `none` does not.

        Raises:
            ValueError: equalise is `clip`.
        """
        if equalise == "clip":
            raise ValueError("equalise must be norm or none here, got 'clip'")
        self._grids, self._decay = grids, decay
        self._combine, self._equalise = combine, equalise
        self.momentum = {name: torch.zeros(grid.num_chunks, grid.chunk_numel) for name, grid in grids.items()}  # (N, K)

    @torch.no_grad()
    def send(self, gradients: Mapping[str, Tensor], lr: float) -> ReferencePayload:
        """Fold the gradients into the momentum and move the largest coefficients from it into a payload."""
        payload = ReferencePayload({}, {})
        for name, grid in self._grids.items():
            momentum = self.momentum[name]
            momentum.mul_(self._decay).add_(self._forward(gradients[name], grid), alpha=lr)
            kept = keep_largest(momentum, grid.topk)
            values = momentum.gather(-1, kept.indices.long()) * used_slots(kept.counts, grid.topk)  # (N, T)
            # What was sent is zero now, also where fillers repeat its index.
            momentum.scatter_(-1, kept.indices.long(), 0.0)
            payload.indices[name], payload.values[name] = kept.indices, values
        return payload

    @torch.no_grad()
    def receive(self, payloads: Sequence[ReferencePayload]) -> dict[str, Tensor]:
        """Return the sign of what the payloads, at least one, add up to, for every parameter."""
        update = {}
        for name, grid in self._grids.items():
            sums = torch.zeros(grid.num_chunks, grid.chunk_numel)
            senders = torch.zeros_like(sums)
            for payload in payloads:
                values, indices = payload.values[name], payload.indices[name].long()
                sums.scatter_add_(-1, indices, values / self._norm(values))
                senders.scatter_add_(-1, indices, (values != 0).float())
            if self._combine == "mean":
                sums /= senders.clamp(min=1)
            update[name] = self._backward(sums, grid).sign_()
        return update

    def _norm(self, values: Tensor) -> Tensor | float:
        """Return what a payload's values (N, T) of one parameter are divided by."""
        if self._equalise == "none":
            return 1.0
        norm = values.norm()
        return torch.where(norm > 0, norm, 1.0)

    def _forward(self, gradient: Tensor, grid: ChunkGrid) -> Tensor:
        """Return the coefficients (N, K) of a parameter's gradient."""
        if grid.transform == "none":
            return to_chunks(gradient, grid).flatten(1)
        return dct_chunks(gradient, grid)

    def _backward(self, coefficients: Tensor, grid: ChunkGrid) -> Tensor:
        """Return the parameter that has these coefficients (N, K)."""
        chunks = coefficients.view(-1, grid.height, grid.width)
        if grid.transform == "dct":
            chunks = chunks @ dct_basis(grid.width, coefficients.device)
            if not grid.is_vector:
                chunks = dct_basis(grid.height, coefficients.device).T @ chunks
        return from_chunks(chunks, grid)
