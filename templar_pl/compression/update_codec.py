"""The update that payloads make of a whole model, all at once or parameter by parameter.

Whoever trains nothing needs this much of a codec and no momentum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from templar_pl.compression.grid import ChunkGrid, Grids, chunk_grid
from templar_pl.compression.native_check import Backend, is_native, missing_option
from templar_pl.compression.native_codec import NativeEngine
from templar_pl.compression.passing import OnePlace
from templar_pl.compression.slab import Slab, momentum_of
from templar_pl.compression.sparse import SparseChunks
from templar_pl.compression.torch_codec import TorchEngine
from templar_pl.config import MAX_PEERS, CompressionConfig


class UpdateCodec:
    """The update that payloads make of the parameters of a model."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        config: CompressionConfig,
        device: torch.device,
        *,
        product_dtype: torch.dtype = torch.float32,
        backend: Backend = "auto",
    ) -> None:
        """Choose the chunks of the parameters, and who computes.

        Args:
            shapes: name -> shape of every parameter; their order is the order on the wire.
            config: numbers that all nodes share.
            device: where updates are computed, and momentum lives if there is any.
            product_dtype: of the matrix products of the update: float32, or float64 where `check_exact_arithmetic`
                refuses float32. The update is the same.
            backend: `torch` (any device), `native` (the compiled library; CPU and float32 only), or `auto`: native
                where it works. All backends turn the same payloads into the same update.

        Raises:
            ValueError: the dtype is another one, or native cannot work here or with this config.
            NativeError: the compiled library was asked for and is not there.
        """
        if product_dtype not in (torch.float32, torch.float64):
            raise ValueError(f"product_dtype must be torch.float32 or torch.float64, got {product_dtype}")
        self.grids = Grids({name: _chunks_of(tuple(shape), config) for name, shape in shapes.items()})
        self._device = device
        slabs = self._new_slabs()
        self.backend: Literal["native", "torch"] = "torch"
        """Which one computes."""

        if is_native(backend, device, product_dtype, missing=missing_option(config)):
            self.backend = "native"
            self._engine = NativeEngine(self.grids, momentum_of(slabs), config)
        else:
            self._engine = TorchEngine(self.grids, slabs, config, device=device, product_dtype=product_dtype)

    def update(
        self, payloads: Sequence[Mapping[str, SparseChunks]], *, out: Mapping[str, Tensor | None] | None = None
    ) -> dict[str, Tensor]:
        """Compute the update that payloads make: the same bits for the same payloads on every node.

        Args:
            payloads: 0..MAX_PEERS of them, of this model; their order does not matter.
            out: tensors to write to, where they are contiguous fp32 ones of the parameter's shape on the codec's
                device; such as the gradients, when nobody needs them any more.

        Returns:
            name -> -1.0, 0.0 or 1.0 for every element, fp32, in the shape of the parameter. Without payloads all zero.

        Raises:
            ValueError: there are too many payloads, or one is of another model.
        """
        self._check_payloads(payloads)
        given = out or {}
        update = {name: _target(given.get(name), grid.shape, self._device) for name, grid in self.grids.items()}
        self._engine.update(payloads, update)
        return update

    def updates(self, payloads: Sequence[Mapping[str, SparseChunks]]) -> Iterator[tuple[str, Tensor]]:
        """Compute what `update` does, one parameter after the other; nothing keeps what was yielded.

        Args:
            payloads: as of `update`.

        Returns:
            Name and update of each parameter, by name. Computing all of them one by one takes longer than at once where
            there are many small ones.

        Raises:
            ValueError: as of `update`, at once.
        """
        self._check_payloads(payloads)
        return self._updates(self._engine.prepare(payloads))

    def known_update(
        self, update: Iterable[tuple[str, Tensor]], *, out: Mapping[str, Tensor | None] | None = None
    ) -> dict[str, Tensor]:
        """Return an update that somebody else has computed as `update` would.

        Args:
            update: name and -1, 0 or 1 for every element of each parameter, in its shape; once each, in any order, of
                any real dtype, on any device. What it raises goes through; `out` may be written to by then.
            out: as of `update`.

        Raises:
            ValueError: it is of other parameters than those of this model.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in update:
            if name not in self.grids or tuple(tensor.shape) != self.grids[name].shape:
                raise ValueError(f"an update must be of this model, which has no {name} of shape {tuple(tensor.shape)}")
            found[name] = _target((out or {}).get(name), self.grids[name].shape, self._device).copy_(tensor)
        check_names("an update", found, self.grids)
        return found

    def _updates(self, payloads: Sequence[Mapping[str, SparseChunks]]) -> Iterator[tuple[str, Tensor]]:
        place = OnePlace([grid.shape for grid in self.grids.values()], torch.float32, self._device)
        for name in sorted(self.grids):
            yield name, self._update_of(name, payloads, place.empty(self.grids[name].shape))

    def _update_of(self, name: str, payloads: Sequence[Mapping[str, SparseChunks]], target: Tensor) -> Tensor:
        """Return a tensor that is not kept here while the next one is computed."""
        self._engine.update(payloads, {name: target})
        return target

    def _new_slabs(self) -> list[Slab]:
        """Return the momentum: here there is none."""
        return []

    def _check_payloads(self, payloads: Sequence[Mapping[str, SparseChunks]]) -> None:
        if len(payloads) > MAX_PEERS:
            raise ValueError(f"an update is made of 0..{MAX_PEERS} payloads, got {len(payloads)}")
        for position, payload in enumerate(payloads):
            check_names(f"payload {position}", payload, self.grids)


def check_names(what: str, names: Iterable[str], grids: Mapping[str, ChunkGrid]) -> None:
    """Raise ValueError unless `names` are the parameters of this model."""
    got = set(names)
    missing, unknown = [name for name in grids if name not in got], sorted(got - grids.keys())
    if missing or unknown:
        raise ValueError(f"{what} must name the parameters of this model; missing {missing}, unknown {unknown}")


def _chunks_of(shape: tuple[int, ...], config: CompressionConfig) -> ChunkGrid:
    return chunk_grid(
        shape,
        chunk_size=config.chunk_size,
        topk=config.topk,
        value_bits=config.value_bits,
        transform=config.transform,
        index_coding=config.index_coding,
    )


def _target(given: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the given tensor if an update can be written to it, else a new one."""
    if given is not None and given.dtype == torch.float32 and tuple(given.shape) == shape:
        given = given.detach()
        if given.is_contiguous() and given.device == device:
            return given
    return torch.empty(shape, dtype=torch.float32, device=device)
