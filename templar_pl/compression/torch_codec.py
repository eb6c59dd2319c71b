"""Compression in torch, on any device: the definition of what is sent and applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from templar_pl.compression.blocks import BATCH, BLOCK_TO_SEND, Block, batches_of, blocks_of, elements_at_once
from templar_pl.compression.body import Body, Ready, SectionsInOrder, plan_body
from templar_pl.compression.grid import ChunkGrid, as_grids
from templar_pl.compression.momentum import Sent, Taken, accumulate_, restore_, settle_, take_
from templar_pl.compression.receive import Receiver
from templar_pl.compression.slab import Slab
from templar_pl.compression.sparse import JoinedChunks, SparseChunks, concatenate
from templar_pl.compression.workers import alone, share_tensors, threads_for
from templar_pl.config import CompressionConfig


class TorchEngine:
    """Momentum on one device, changed and read by torch."""

    def __init__(
        self,
        grids: Mapping[str, ChunkGrid],
        slabs: Sequence[Slab],
        config: CompressionConfig,
        *,
        device: torch.device,
        product_dtype: torch.dtype,
    ) -> None:
        """Store the parts.

        Args:
            grids: the chunks of each parameter.
            slabs: momentum of all of them, as `new_slabs` makes them; none if nothing is sent.
            config: numbers that all nodes share.
            device: where to compute.
            product_dtype: of the matrix products of the update.
        """
        self._grids, self._slabs, self._decay = as_grids(grids), slabs, config.momentum_decay
        self._device, self._sent = device, list[Sent]()
        self._receiver = Receiver(self._grids, config.combine, config.equalise, device, product_dtype)

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
        work = [(slab, block) for slab in self._slabs for block in self._blocks(slab)]

        def fold(dealt: Iterator[tuple[Slab, Block]]) -> None:
            room = self._room([block for _, block in work])
            for slab, block in dealt:
                self._fold_(slab, block, gradients, lr, room)

        with alone(self._device) as threads:
            share_tensors(work, fold, device=self._device, threads=threads)

    def compress_(self) -> Body:
        """Take the largest coefficients out of the momentum."""
        return self._send_(None, {}, None)

    def send_(self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float], ready: Ready | None) -> Body:
        """Do both, block by block."""
        return self._send_(gradients, lr, ready)

    def restore_(self) -> None:
        """Undo the last `compress_`."""
        for slab, sent in zip(self._slabs, self._sent, strict=True):
            restore_(slab.momentum, sent)

    def prepare(self, payloads: Sequence[Mapping[str, SparseChunks]]) -> Sequence[Mapping[str, SparseChunks]]:
        """Return payloads as `update` reads them: as they are."""
        return payloads

    def update(self, payloads: Sequence[Mapping[str, SparseChunks]], out: Mapping[str, Tensor]) -> None:
        """Write the update that payloads make, of some or all parameters, into fp32 tensors."""
        if payloads:
            self._receiver.update(payloads, out)
        else:
            for target in out.values():
                target.zero_()

    def _send_(
        self, gradients: Mapping[str, Tensor | None] | None, lr: Mapping[str, float], ready: Ready | None
    ) -> Body:
        """Add the gradients if there are any, and take the largest coefficients out, while a block is in the cache."""
        order = range(len(self._slabs))
        if ready is None:
            portions = [list(order)]
        else:
            # What is small comes first, so that the sections of large matrices need not wait for a vector among them.
            portions = [[place] for place in sorted(order, key=lambda place: self._slabs[place].momentum.numel())]
        sent: dict[int, Sent] = {}
        sections = SectionsInOrder(self._grids, ready)
        for portion in portions:
            with alone(self._device) as threads:
                sent |= self._send_portion_(portion, gradients, lr, threads)
            for place in portion:
                sections.add(self._slabs[place].names, sent[place].said)
        self._sent = [sent[place] for place in order]
        return sections.body(self._said_by_form())

    def _send_portion_(
        self,
        portion: Sequence[int],
        gradients: Mapping[str, Tensor | None] | None,
        lr: Mapping[str, float],
        threads: int,
    ) -> dict[int, Sent]:
        """Send slabs by their places; deal their blocks out to threads."""
        batches = {s: self._batches(self._slabs[s], threads) for s in portion}
        work = [(s, b) for s, of_slab in batches.items() for b in range(len(of_slab))]
        taken: dict[tuple[int, int], Taken] = {}

        def send(dealt: Iterator[tuple[int, int]]) -> None:
            room = self._room([block for of_slab in batches.values() for batch in of_slab for block in batch])
            for s, b in dealt:
                taken[s, b] = self._take_(self._slabs[s], batches[s][b], gradients, lr, room)

        share_tensors(work, send, device=self._device, threads=threads)
        sent = {}
        for s, of_slab in batches.items():
            slab, parts = self._slabs[s], [taken[s, b] for b in range(len(of_slab))]
            if not parts:  # no parameter has any chunks
                parts = [take_(slab.momentum, self._grids[slab.names[0]])]
            sent[s] = settle_(slab.momentum, parts, slab.lengths)
        return sent

    def _take_(
        self,
        slab: Slab,
        batch: Sequence[Block],
        gradients: Mapping[str, Tensor | None] | None,
        lr: Mapping[str, float],
        room: Tensor | None,
    ) -> Taken:
        """Add the gradients of blocks one behind the other, if there are any, and take the largest coefficients out."""
        start = batch[0].chunks.start

        def portions() -> Iterator[slice]:
            for block in batch:
                if gradients is not None:
                    self._fold_(slab, block, gradients, lr, room)
                yield slice(block.chunks.start - start, block.chunks.stop - start)

        momentum = slab.momentum[start : batch[-1].chunks.stop]
        return take_(momentum, self._grids[slab.names[0]], portions=portions(), room=room)

    def _batches(self, slab: Slab, threads: int) -> Sequence[Sequence[Block]]:
        """Cut the blocks of a slab into batches; what is small is worked on together in each."""
        block, batch = self._chunks_of_block(slab), max(1, BATCH // slab.momentum.shape[1])
        dealt = threads_for(self._device, threads)
        return batches_of(self._grids, slab.names, block=block, batch=batch, threads=dealt)

    def _said_by_form(self) -> list[JoinedChunks]:
        """Return what was sent of the parameters of each form, which may lie in several slabs."""
        of_slab = {slab.names: sent.said for slab, sent in zip(self._slabs, self._sent, strict=True)}
        return [
            concatenate([said for names, said in of_slab.items() if names[0] in form])
            for form in map(frozenset, plan_body(self._grids).forms)
        ]

    def _blocks(self, slab: Slab) -> Iterator[Block]:
        """Cut the chunks of a slab into blocks that stay in the cache."""
        return blocks_of(self._grids, slab.names, self._chunks_of_block(slab))

    def _chunks_of_block(self, slab: Slab) -> int:
        return max(1, elements_at_once(self._device, BLOCK_TO_SEND) // slab.momentum.shape[1])

    def _room(self, blocks: Sequence[Block]) -> Tensor | None:
        """Return room for the largest block, as `fold_dct_` and `keep_largest` want it on a CPU."""
        if self._device.type != "cpu":
            return None
        largest = max((b.num_chunks * b.pieces[0].grid.chunk_numel for b in blocks), default=0)
        return torch.empty(2 * largest, device=self._device)

    def _fold_(
        self,
        slab: Slab,
        block: Block,
        gradients: Mapping[str, Tensor | None],
        lr: Mapping[str, float],
        room: Tensor | None,
    ) -> None:
        """Decay the momentum of a block and add its gradients."""
        parts = slab.momentum[block.chunks].split([piece.grid.num_chunks for piece in block.pieces])
        for piece, momentum in zip(block.pieces, parts, strict=True):
            gradient = gradients[piece.name]
            part = None if gradient is None else piece.of(gradient)
            weight = 0.0 if gradient is None else lr[piece.name]
            accumulate_(momentum, part, piece.grid, decay=self._decay, lr=weight, room=room)
