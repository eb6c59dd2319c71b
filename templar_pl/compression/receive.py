"""The update that payloads make, in torch: in blocks of chunks of one form, of whatever parameters.

Shapes: P = payloads, N = chunks of parameters with chunks of one form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from templar_pl.compression.blocks import BATCH, BLOCK_TO_RECEIVE, Block, batches_of, elements_at_once, owners_of
from templar_pl.compression.body import Body
from templar_pl.compression.combine import Rule, add_payloads_, shared_scales, summands
from templar_pl.compression.exact import ROOM, inverse_dct_
from templar_pl.compression.grid import ChunkGrid, Grids, alike
from templar_pl.compression.sparse import JoinedChunks, SparseChunks, join, stack
from templar_pl.compression.weights import Equalise, Weights, weigh
from templar_pl.compression.workers import alone, share_tensors, threads_for

_VALUES_OF_BATCH = 2**19
"""Values that all payloads send of the chunks of a batch at most: 12 bytes each."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """How payloads become an update."""

    grids: Grids
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
        """Write the update that payloads, at least one, make of some or all parameters into fp32 tensors."""
        asked = {name: grid for name, grid in self.grids.items() if name in out}
        # Decoding, which may come due here, has threads of its own.
        said = [(names, [_joined(payload, names) for payload in payloads]) for names in alike(asked)]
        with alone(self.device) as threads:
            self._update([self._form(names, of_form, threads) for names, of_form in said], out, threads)

    def _update(self, forms: Sequence[_Form], out: Mapping[str, Tensor], threads: int) -> None:
        """Deal the batches of forms out to threads."""
        work = [(form, batch) for form in forms for batch in form.batches]

        def add(dealt: Iterator[tuple[_Form, Sequence[Block]]]) -> None:
            # One room for all blocks: fresh memory for each costs as much as a product.
            largest = max((b.num_chunks * f.grid.chunk_numel for f, batch in work for b in batch), default=0)
            room = torch.empty(ROOM * largest, device=self.device)
            for form, batch in dealt:
                self._add(form, batch, room, out)

        share_tensors(work, add, device=self.device, threads=threads)

    def _form(self, names: Sequence[str], said: Sequence[JoinedChunks], threads: int) -> _Form:
        """Return what payloads say of parameters with chunks of one form, in blocks that stay in the cache."""
        grid = self.grids[names[0]]
        weights = weigh(said, equalise=self.equalise, device=self.device)
        sent = len(said) * grid.topk  # of a chunk
        batches = batches_of(
            self.grids,
            tuple(names),
            block=max(1, elements_at_once(self.device, BLOCK_TO_RECEIVE) // max(grid.chunk_numel, sent)),
            batch=min(BATCH // grid.chunk_numel, _VALUES_OF_BATCH // sent),
            threads=threads_for(self.device, threads),
        )
        return _Form(grid, said, weights, batches)

    def _add(self, form: _Form, batch: Sequence[Block], room: Tensor, out: Mapping[str, Tensor]) -> None:
        """Write the update of blocks one behind the other."""
        first = batch[0].chunks.start
        chosen = stack(form.said, slice(first, batch[-1].chunks.stop), self.device)
        scales = shared_scales(chosen, form.weights, owners_of(batch).to(self.device))
        sent = summands(chosen, scales, self.rule)
        for block in batch:
            shape = (ROOM, block.num_chunks, form.grid.chunk_numel)
            part = room[: math.prod(shape)].view(shape)
            add_payloads_(part[:2], sent.part(slice(block.chunks.start - first, block.chunks.stop - first)))
            inverse_dct_(part, form.grid, dtype=self.product_dtype)
            block.paste_signs_(part[0], out)


@dataclass(frozen=True, slots=True)
class _Form:
    """What payloads say of parameters with chunks of one form."""

    grid: ChunkGrid
    """Of one of them."""

    said: Sequence[JoinedChunks]
    """By each payload."""

    weights: Weights
    """Of the payloads."""

    batches: Sequence[Sequence[Block]]
    """All of the chunks."""


def _joined(payload: Mapping[str, SparseChunks], names: Sequence[str]) -> JoinedChunks:
    """Return what a payload says of parameters with chunks of one form, one behind the other."""
    return payload.joined(names) if isinstance(payload, Body) else join([payload[name] for name in names])
