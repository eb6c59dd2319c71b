"""Compression in torch, on any device: the definition of what is sent and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from templar_pl.compression.blocks import blocks_of, elements_at_once
from templar_pl.compression.combine import add_payloads_, shared_scales
from templar_pl.compression.exact import ROOM, inverse_dct_
from templar_pl.compression.grid import ChunkGrid, alike
from templar_pl.compression.momentum import Sent, accumulate_, compress_, restore_
from templar_pl.compression.sparse import SparseChunks, stack
from templar_pl.compression.weights import weigh
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
        if not payloads:
            for target in out.values():
                target.zero_()
            return
        for names in alike(self._grids):
            self._update_alike(payloads, names, out)

    def _update_alike(
        self, payloads: Sequence[Mapping[str, SparseChunks]], names: Sequence[str], out: Mapping[str, Tensor]
    ) -> None:
        """Write the update of parameters with chunks of one form, in blocks that stay in the cache."""
        device, grid = out[names[0]].device, self._grids[names[0]]
        said = [[payload[name] for name in names] for payload in payloads]
        weights = weigh(said, equalise=self._config.equalise, device=device)
        elements = max(grid.chunk_numel, len(payloads) * grid.topk)
        at_once = max(1, elements_at_once(device) // elements)
        blocks = list(blocks_of(self._grids, names, at_once))
        room = torch.empty(
            ROOM, max((block.num_chunks for block in blocks), default=0), grid.chunk_numel, device=device
        )
        for block in blocks:
            part = room[:, : block.num_chunks]
            chosen = stack([block.parts_of(parameters) for parameters in said], device)
            scales = shared_scales(chosen, weights, block.owners.to(device))
            add_payloads_(part[:2], chosen, scales, self._config.combine)
            inverse_dct_(part, grid, dtype=self._product_dtype)
            # A sign of the integers; torch.sign is slower. Both keep the sign of -0.0, which depends on the order of
            # a sum; adding 0.0 does not.
            block.paste_(part[0].clamp_(-1, 1).add_(0.0), out)
