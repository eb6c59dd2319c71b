"""The update that payloads make, in torch: in blocks of chunks of one form, of whatever parameters.

Shapes: P = payloads, N = chunks of parameters with chunks of one form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from templar_pl.compression.blocks import Block, blocks_of, elements_at_once
from templar_pl.compression.body import Body
from templar_pl.compression.combine import Rule, add_payloads_, shared_scales
from templar_pl.compression.exact import ROOM, inverse_dct_
from templar_pl.compression.grid import ChunkGrid, alike
from templar_pl.compression.sparse import JoinedChunks, SparseChunks, join, stack
from templar_pl.compression.weights import Equalise, Weights, weigh
from templar_pl.compression.workers import share_tensors


@dataclass(frozen=True, slots=True)
class Receiver:
    """How payloads become an update."""

    grids: Mapping[str, ChunkGrid]
    """The chunks of each parameter."""

    rule: Rule
    """See `combine`."""

    equalise: Equalise
    """See `combine`."""

    device: torch.device
    """Where to compute."""

    product_dtype: torch.dtype
    """Of the matrix products."""

    def update(self, payloads: Sequence[Mapping[str, SparseChunks]], out: Mapping[str, Tensor]) -> None:
        """Write the update that payloads, at least one, make into fp32 tensors."""
        forms = [self._form(payloads, names) for names in alike(self.grids)]
        work = [(form, block) for form in forms for block in form.blocks]

        def add(dealt: Iterator[tuple[_Form, Block]]) -> None:
            # One room for all blocks: fresh memory for each costs as much as a product.
            room = torch.empty(ROOM * max(b.num_chunks * f.grid.chunk_numel for f, b in work), device=self.device)
            for form, block in dealt:
                self._add(form, block, room, out)

        share_tensors(work, add, device=self.device)

    def _form(self, payloads: Sequence[Mapping[str, SparseChunks]], names: Sequence[str]) -> _Form:
        """Return what payloads say of parameters with chunks of one form, in blocks that stay in the cache."""
        grid = self.grids[names[0]]
        said = [_joined(payload, names) for payload in payloads]
        weights = weigh(said, equalise=self.equalise, device=self.device)
        elements = max(grid.chunk_numel, len(payloads) * grid.topk)
        at_once = max(1, elements_at_once(self.device) // elements)
        return _Form(grid, said, weights, list(blocks_of(self.grids, names, at_once)))

    def _add(self, form: _Form, block: Block, room: Tensor, out: Mapping[str, Tensor]) -> None:
        """Write the update of one block."""
        shape = (ROOM, block.num_chunks, form.grid.chunk_numel)
        part = room[: math.prod(shape)].view(shape)
        chosen = stack(form.said, block.chunks, self.device)
        scales = shared_scales(chosen, form.weights, block.owners.to(self.device))
        add_payloads_(part[:2], chosen, scales, self.rule, form.grid)
        inverse_dct_(part, form.grid, dtype=self.product_dtype)
        # A sign of the integers; torch.sign is slower. Both keep the sign of -0.0, which depends on the order of
        # a sum; adding 0.0 does not.
        block.paste_(part[0].clamp_(-1, 1).add_(0.0), out)


@dataclass(frozen=True, slots=True)
class _Form:
    """What payloads say of parameters with chunks of one form."""

    grid: ChunkGrid
    """Of one of them."""

    said: Sequence[JoinedChunks]
    """By each payload."""

    weights: Weights
    """Of the payloads."""

    blocks: Sequence[Block]
    """All of the chunks."""


def _joined(payload: Mapping[str, SparseChunks], names: Sequence[str]) -> JoinedChunks:
    """Return what a payload says of parameters with chunks of one form, one behind the other."""
    return payload.joined(names) if isinstance(payload, Body) else join([payload[name] for name in names])
