"""Compression by the compiled library: the same bytes mean the same update as in torch, several times faster.

The momentum may differ from torch's in the last bit, because sums are taken in another order; what a payload says is
still exactly what was taken out of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from templar_pl.compression.body import Body, Ready, encode_body, read_body
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.native_library import FOLD, TAKE, Parameter, Plan, address_of, load_library, plan_of
from templar_pl.compression.section import BASE_BYTES, SectionError
from templar_pl.compression.sparse import SparseChunks
from templar_pl.compression.weights import Equalise, clip_weights, inverse_norm
from templar_pl.config import MAX_PEERS, CompressionConfig

GROUP_CHUNKS = 4096
"""Chunks that are sent before the first of them are handed on: some 20 ms of work, 160 KiB of a body."""


class NativeEngine:
    """Momentum on the CPU, changed and read by the compiled library."""

    def __init__(
        self, grids: Mapping[str, ChunkGrid], momentum: Mapping[str, Tensor], config: CompressionConfig
    ) -> None:
        """Store the parts.

        Args:
            grids: the chunks of each parameter.
            momentum: (N, K) fp32 of each parameter, contiguous, on the CPU.
            config: numbers that all nodes share.

        Raises:
            NativeError: there is no library.
        """
        self._library, self._plan = load_library(), plan_of(grids)
        self._grids, self._momentum, self._config = grids, momentum, config
        self._names = list(self._plan.starts)
        self._sent: Body | None = None
        self._originals = torch.empty(0)

    def largest(self, gradients: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the largest magnitude of each gradient, of any shape; NaN or infinite if one is not finite."""
        kept = {name: _as_native(gradient) for name, gradient in gradients.items()}
        parameters = self._plan.parameters()
        for slot, name in zip(parameters, self._names, strict=True):
            slot.gradient = kept[name].data_ptr() if name in kept else None
        self._run("native_largest", parameters)
        bits = np.array([slot.largest for slot in parameters], dtype=np.int32)
        found = dict(zip(self._names, bits.view(np.float32).tolist(), strict=True))
        return {name: found[name] for name in gradients}

    def accumulate_(self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float]) -> None:
        """Decay the momentum and add the gradients."""
        parameters, _kept = self._parameters(gradients, lr)
        self._run("native_send", parameters, steps=FOLD)

    def compress_(self) -> Body:
        """Take the largest coefficients out of the momentum."""
        return self._take_(dict.fromkeys(self._grids), {}, TAKE, None)

    def send_(self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float], ready: Ready | None) -> Body:
        """Do both, chunk by chunk."""
        return self._take_(gradients, lr, FOLD | TAKE, ready)

    def restore_(self) -> None:
        """Undo the last `compress_`."""
        assert self._sent is not None
        parameters, _ = self._parameters({}, {})
        _point_to_originals(parameters, self._originals)
        self._run("native_restore", parameters, body=address_of(self._sent.data))

    def prepare(self, payloads: Sequence[Mapping[str, SparseChunks]]) -> Sequence[Body]:
        """Return payloads as `update` reads them, so that it need not make them so each time."""
        return [_checked(payload, self._grids, self._plan) for payload in payloads]

    def update(self, payloads: Sequence[Mapping[str, SparseChunks]], out: Mapping[str, Tensor]) -> None:
        """Write the update that payloads make, of some or all parameters, into contiguous fp32 tensors on the CPU."""
        if len(payloads) > MAX_PEERS:
            raise ValueError(f"an update is made of 0..{MAX_PEERS} payloads, got {len(payloads)}")
        bodies = self.prepare(payloads)
        addresses = (ctypes.c_void_p * len(bodies))(*(address_of(body.data) for body in bodies))
        places = [place for place, name in enumerate(self._names) if name in out]
        parameters = self._plan.parameters(places)
        for slot, place in zip(parameters, places, strict=True):
            slot.update = out[self._names[place]].data_ptr()
        weights = _weights(bodies, places, [parameter.section for parameter in parameters], self._config.equalise)
        self._run(
            "native_receive",
            parameters,
            bodies=ctypes.addressof(addresses),
            num_peers=len(bodies),
            mantissas=None if weights is None else weights[0].ctypes.data,
            exponents=None if weights is None else weights[1].ctypes.data,
            is_mean=self._config.combine == "mean",
            is_clip=self._config.equalise == "clip",
        )

    def _take_(
        self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float], steps: int, ready: Ready | None
    ) -> Body:
        if not len(self._originals):
            self._originals = torch.empty(sum(g.num_chunks * g.topk for g in self._grids.values()))
        parameters, _kept = self._parameters(gradients, lr)
        _point_to_originals(parameters, self._originals)
        scales = np.empty(self._plan.num_chunks, dtype=np.int16)
        for slot in parameters:
            slot.scales = scales.ctypes.data + scales.itemsize * slot.first_chunk
        data = bytearray(self._plan.body_bytes)
        for group in [parameters] if ready is None else _groups(parameters):
            self._run("native_send", group, steps=steps, body=address_of(data))
            self._run("native_finish", group, body=address_of(data))
            if ready is not None:
                ready(memoryview(data)[group[0].section : group[-1].section + _section_bytes(group[-1])])
        self._sent = Body(bytes(data), self._grids)
        return self._sent

    def _parameters(
        self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float]
    ) -> tuple[ctypes.Array[Parameter], list[Tensor]]:
        """Return the parameters with the addresses of momentum and gradients, and what must be kept meanwhile."""
        parameters, kept = self._plan.parameters(), []
        for slot, name in zip(parameters, self._names, strict=True):
            slot.momentum = self._momentum[name].data_ptr()
            gradient = gradients.get(name)
            if gradient is not None:
                kept.append(_as_native(gradient))
                slot.gradient, slot.weight = kept[-1].data_ptr(), lr[name]
        return parameters, kept

    def _run(self, function: str, parameters: ctypes.Array[Parameter], **fields: int | None) -> None:
        job = self._plan.job(parameters)
        job.decay = self._config.momentum_decay
        for name, value in fields.items():
            setattr(job, name, value)
        self._library.run(function, job, threads=torch.get_num_threads())


def _groups(parameters: ctypes.Array[Parameter]) -> Iterator[ctypes.Array[Parameter]]:
    """Cut the parameters into portions of GROUP_CHUNKS chunks at least, but for the last."""
    group: list[Parameter] = []
    first_chunk = 0
    for slot in parameters:
        slot.first_chunk -= first_chunk
        group.append(slot)
        size = slot.first_chunk + slot.num_chunks
        if size >= GROUP_CHUNKS:
            yield (Parameter * len(group))(*group)
            group, first_chunk = [], first_chunk + size
    if group:
        yield (Parameter * len(group))(*group)


def _section_bytes(slot: Parameter) -> int:
    return BASE_BYTES + slot.num_chunks * (1 + slot.record_bytes)


def check_body(data: bytes | bytearray | memoryview, grids: Mapping[str, ChunkGrid]) -> Body:
    """Check a body by the compiled library; nothing is decoded before it is asked for.

    Raises:
        SectionError: the bytes are none that `encode_body` writes; the message names the parameter and the chunk.
        NativeError: there is no library.
    """
    owned, plan = bytes(data), plan_of(grids)
    squares = _squares_of(owned, plan) if len(owned) == plan.body_bytes else None
    if squares is None:
        read_body(owned, grids)  # says what is wrong
        raise SectionError("the compiled library refuses a body that numpy accepts: this is a bug")
    body = Body(owned, grids)
    body.squares = squares
    return body


def _squares_of(data: bytes, plan: Plan) -> tuple[tuple[int, int], ...] | None:
    """Return what `Body.squares` says of a body; None if a section is wrong."""
    parameters = plan.parameters()
    job = plan.job(parameters)
    job.body = address_of(data)
    load_library().run("native_check", job, threads=torch.get_num_threads())
    if any(slot.is_wrong for slot in parameters):
        return None
    return tuple((_joined(slot.square), _joined(slot.shifted)) for slot in parameters)


def _joined(words: Sequence[int]) -> int:
    low, high = words[0] + (words[1] << 64), words[2] + (words[3] << 64)
    return low + (high << 32)


def _as_native(gradient: Tensor) -> Tensor:
    return gradient.detach().to(torch.device("cpu"), torch.float32).contiguous()


def _checked(payload: Mapping[str, SparseChunks], grids: Mapping[str, ChunkGrid], plan: Plan) -> Body:
    """Return a payload as bytes with the sums of its squares."""
    body = encode_body(payload, grids)
    if body.squares is None:
        body.squares = _squares_of(body.data, plan)
    return body


def _weights(
    bodies: Sequence[Body], places: Sequence[int], starts: Sequence[int], equalise: Equalise
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """Return mantissas and exponents of the weights of payloads, each (peers, parameters); None for `none`.

    Args:
        bodies: what the peers say.
        places: of the parameters in the order of the sections.
        starts: of their sections.
        equalise: see `combine`.
    """
    if equalise == "none":
        return None
    table = np.zeros((len(bodies), len(places), 2), dtype=np.int32)
    squares = [body.squares or () for body in bodies]
    for column, (place, start) in enumerate(zip(places, starts, strict=True)):
        if equalise == "norm":
            weights = [inverse_norm(of_body[place][0]) for of_body in squares]
        else:
            bases = [int.from_bytes(body.data[start : start + 2], "little", signed=True) for body in bodies]
            weights = clip_weights([of_body[place][1] for of_body in squares], bases)
        if weights:
            table[:, column] = weights
    return np.ascontiguousarray(table[..., 0]), np.ascontiguousarray(table[..., 1])


def _point_to_originals(parameters: ctypes.Array[Parameter], originals: Tensor) -> None:
    """Give each parameter its part of the room for what is taken out of the momentum."""
    place = originals.data_ptr()
    for slot in parameters:
        slot.originals = place
        place += originals.element_size() * slot.num_chunks * slot.topk
