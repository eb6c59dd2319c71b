"""Compression in torch, on any device: the definition of what is sent and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from templar_pl.compression.combine import SharedScales, add_payloads, shared_scales
from templar_pl.compression.dct import CHUNKS_AT_ONCE, from_chunks
from templar_pl.compression.exact import inverse_dct
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.momentum import Sent, accumulate_, compress_, restore_
from templar_pl.compression.sparse import SparseChunks
from templar_pl.config import CompressionConfig


class TorchEngine:
    """Momentum on one device, changed and read by torch."""

    def __init__(
        self,
        grids: Mapping[str, ChunkGrid],
        momentum: Mapping[str, Tensor],
        config: CompressionConfig,
        *,
        product_dtype: torch.dtype,
    ) -> None:
        """Store the parts.

        Args:
            grids: the chunks of each parameter.
            momentum: (N, K) fp32 of each parameter.
            config: numbers that all nodes share.
            product_dtype: of the matrix products of the update.
        """
        self._grids, self._momentum, self._config = grids, momentum, config
        self._product_dtype = product_dtype
        self._sent: dict[str, Sent] = {}

    def largest(self, gradients: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the largest magnitude of each gradient, of any shape; NaN or infinite if one is not finite."""
        filled = {name: gradient.detach() for name, gradient in gradients.items() if gradient.numel()}
        if not filled:
            return dict.fromkeys(gradients, 0.0)
        # One transfer for all parameters: each one waits for the device.
        largest = torch.stack([gradient.abs().amax().double() for gradient in filled.values()]).tolist()
        return dict.fromkeys(gradients, 0.0) | dict(zip(filled, largest, strict=True))

    def accumulate_(self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float]) -> None:
        """Decay the momentum and add the gradients."""
        for name, grid in self._grids.items():
            gradient = gradients[name]
            weight = 0.0 if gradient is None else lr[name]
            accumulate_(self._momentum[name], gradient, grid, decay=self._config.momentum_decay, lr=weight)

    def compress_(self) -> dict[str, SparseChunks]:
        """Take the largest coefficients out of the momentum."""
        self._sent = {name: compress_(self._momentum[name], grid) for name, grid in self._grids.items()}
        return {name: sent.sparse for name, sent in self._sent.items()}

    def send_(self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float]) -> dict[str, SparseChunks]:
        """Do both."""
        self.accumulate_(gradients, lr)
        return self.compress_()

    def restore_(self) -> None:
        """Undo the last `compress_`."""
        for name, sent in self._sent.items():
            restore_(self._momentum[name], sent)

    def update(self, payloads: Sequence[Mapping[str, SparseChunks]], out: Mapping[str, Tensor]) -> None:
        """Write the update that payloads make into fp32 tensors."""
        for name, target in out.items():
            grid = self._grids[name]
            chosen = [payload[name] for payload in payloads]
            if not chosen:
                target.zero_()
            elif grid.num_chunks:
                self._update_one(chosen, target, grid)

    def _update_one(self, payloads: Sequence[SparseChunks], target: Tensor, grid: ChunkGrid) -> None:
        """Write the update of one parameter, some chunks at a time, so that they stay in the cache."""
        scales = shared_scales(payloads, equalise=self._config.equalise, device=target.device)
        matrix = target.view(grid.rows, grid.columns)
        step = max(1, CHUNKS_AT_ONCE // grid.chunk_columns)  # rows of chunks
        for first in range(0, grid.chunk_rows, step):
            rows = matrix[first * grid.height : (first + step) * grid.height]
            part = grid if grid.is_vector else replace(grid, shape=tuple(rows.shape))
            chunks = slice(first * grid.chunk_columns, (first + step) * grid.chunk_columns)
            integers, _ = inverse_dct(
                add_payloads(
                    [_some(sparse, chunks) for sparse in payloads],
                    SharedScales(scales.integers[:, chunks], scales.eighths[chunks]),
                    part,
                    self._config.combine,
                ),
                part,
                dtype=self._product_dtype,
            )
            # torch.sign keeps the sign of -0.0, which depends on the order of a sum; adding 0.0 does not.
            rows.copy_(from_chunks(integers.sign_().add_(0.0), part).view_as(rows))


def _some(sparse: SparseChunks, chunks: slice) -> SparseChunks:
    """Return what is said of some chunks."""
    return SparseChunks(
        sparse.indices[chunks],
        sparse.negative[chunks],
        sparse.counts[chunks],
        sparse.codes[chunks],
        sparse.base,
        None if sparse.below is None else sparse.below[chunks],
    )
