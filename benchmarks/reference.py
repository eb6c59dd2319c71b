"""The published reference scheme, parameter by parameter: the yardstick of `compression.py`.

Send: momentum in parameter space, einsum DCT, topk, gather, scatter, inverse DCT, subtract. Receive: scatter-mean of
all peers, inverse DCT, sign. Indices travel as int64, values as fp32 (384 bytes a 64 x 64 chunk at k = 32), or indices
as int16 (192 bytes); int64 needs no conversion and is the faster one.

Source:
    DeMo, arXiv:2411.19870v1, Algorithm 1, and its published implementation (`demo.py`: TransformDCT, CompressDCT).

Shapes: Y x X = chunks of a matrix; A x B = one chunk; T = kept per chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ReferencePayload:
    """What one peer sends of all parameters."""

    indices: dict[str, Tensor]
    """Name -> (..., T) int64 or int16."""

    values: dict[str, Tensor]
    """Name -> (..., T) fp32."""


class ReferenceCodec:
    """Momentum of a model, what is sent of it, and the update of what was received."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        decay: float = 0.999,
        topk: int = 32,
        target_chunk: int = 64,
        index_dtype: torch.dtype = torch.int64,
    ) -> None:
        """Start with zero momentum; all parameters have one or two dimensions."""
        self._decay, self._topk, self._index_dtype = decay, topk, index_dtype
        self._sides = {name: [_largest_divisor(n, target_chunk) for n in shape] for name, shape in shapes.items()}
        self._bases = {side: _dct_basis(side) for sides in self._sides.values() for side in sides}
        self.momentum = {name: torch.zeros(shape) for name, shape in shapes.items()}

    @torch.no_grad()
    def send(self, gradients: Mapping[str, Tensor], lr: float) -> ReferencePayload:
        """Fold the gradients into the momentum and take the largest coefficients out of it."""
        payload = ReferencePayload({}, {})
        for name, momentum in self.momentum.items():
            momentum.mul_(self._decay)
            momentum.add_(gradients[name], alpha=lr)
            encoded = self._encode(momentum, name)
            flat = encoded.flatten(-2) if momentum.dim() > 1 else encoded
            indices = torch.topk(
                flat.abs(), min(self._topk, flat.shape[-1]), dim=-1, largest=True, sorted=False
            ).indices
            values = torch.gather(flat, -1, indices)
            sent = torch.zeros_like(flat).scatter_(-1, indices, values)
            momentum.sub_(self._decode(sent.view_as(encoded), name))
            payload.indices[name], payload.values[name] = indices.to(self._index_dtype), values
        return payload

    @torch.no_grad()
    def receive(self, payloads: Sequence[ReferencePayload]) -> dict[str, Tensor]:
        """Return the sign of the mean of what was sent, for every parameter."""
        update = {}
        for name, momentum in self.momentum.items():
            indices = torch.cat([payload.indices[name].long() for payload in payloads], dim=-1)
            values = torch.cat([payload.values[name] for payload in payloads], dim=-1)
            sides = self._sides[name]
            flat = torch.zeros(*values.shape[:-1], math.prod(sides))
            flat.scatter_reduce_(-1, indices, values, reduce="mean", include_self=False)
            coefficients = flat.view(*flat.shape[:-1], *sides) if momentum.dim() > 1 else flat
            update[name] = self._decode(coefficients, name).sign_()
        return update

    def _encode(self, tensor: Tensor, name: str) -> Tensor:
        """Return the coefficients: (Y, X, A, B), or (X, B) of a vector."""
        sides = self._sides[name]
        bases = [self._bases[side] for side in sides]
        if tensor.dim() == 1:
            return torch.einsum("...ij,jb->...ib", tensor.view(-1, sides[0]), bases[0])
        tiles = tensor.view(tensor.shape[0] // sides[0], sides[0], tensor.shape[1] // sides[1], sides[1])
        return torch.einsum("yhxw,hk,wl->yxkl", tiles, *bases)

    def _decode(self, coefficients: Tensor, name: str) -> Tensor:
        """Return the parameter that has these coefficients."""
        bases = [self._bases[side] for side in self._sides[name]]
        shape = self.momentum[name].shape
        if len(shape) == 1:
            return torch.einsum("...ij,bj->...ib", coefficients, bases[0]).reshape(shape)
        return torch.einsum("yxkl,hk,wl->yhxw", coefficients, *bases).reshape(shape)


def _largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number that is at most `limit`."""
    return max(side for side in range(1, limit + 1) if number % side == 0)


def _dct_basis(size: int) -> Tensor:
    """Return the orthonormal DCT-II, (size, size) fp32; row = place, column = frequency."""
    places = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / (2 * size) * (2 * places[:, None] + 1) * places) * math.sqrt(2 / size)
    basis[:, 0] *= math.sqrt(0.5)
    return basis.float()
