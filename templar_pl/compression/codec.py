"""Momentum of a whole model, what of it is sent, and the update that payloads make.

Shapes: N = chunks of one parameter, K = coefficients per chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from templar_pl.compression.body import Ready
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.momentum import add_, subtract_
from templar_pl.compression.native_check import Backend
from templar_pl.compression.slab import Slab, momentum_of, new_slabs
from templar_pl.compression.sparse import SparseChunks
from templar_pl.compression.update_codec import UpdateCodec, check_names
from templar_pl.config import CompressionConfig

MAX_GRADIENT = 2.0**64
"""Largest gradient that is accepted: 64 * 2**64 * MAX_LR, summed over 2**37 windows without decay, is below 2**128."""

MAX_LR = 2.0**20
"""Largest weight of a gradient."""


class MomentumCodec(UpdateCodec):
    """Momentum of all parameters of a model, what of it is sent, and the update that payloads make.

    One window is: `accumulate_`, `compress_` (and `restore_`, if the payload could not be put), `update`.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        config: CompressionConfig,
        device: torch.device,
        *,
        product_dtype: torch.dtype = torch.float32,
        backend: Backend = "auto",
    ) -> None:
        """Start with zero momentum.

        Args:
            shapes: as of `UpdateCodec`, and so all the others.
            config: numbers that all nodes share.
            device: where momentum lives and updates are computed.
            product_dtype: of the matrix products of the update.
            backend: who computes.

        Raises:
            ValueError: as `UpdateCodec`.
            NativeError: as `UpdateCodec`.
        """
        self._transform, self._can_restore = config.transform, False
        super().__init__(shapes, config, device, product_dtype=product_dtype, backend=backend)

    def accumulate_(self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float]) -> None:
        """Decay the momentum and add the gradients, weighted by lr. `restore_` is no longer possible after it.

        Args:
            gradients: of every parameter, in its shape, any float dtype; None only decays.
            lr: of every parameter that has a gradient; -MAX_LR..MAX_LR.

        Raises:
            ValueError: a gradient is missing, unknown, of the wrong shape, not finite or beyond MAX_GRADIENT, or an lr
                is missing or out of range. The momentum is untouched then.
        """
        _check_shapes(gradients, lr, self.grids)
        for name, size in self.largest(gradients).items():
            if not size <= MAX_GRADIENT:
                raise ValueError(
                    f"gradient of {name} must be finite and at most {MAX_GRADIENT:g} in magnitude, got {size}; "
                    "the loss has diverged: lower the learning rate or clip the gradient"
                )
        self._can_restore = False
        self._engine.accumulate_(gradients, lr)

    def compress_(self) -> Mapping[str, SparseChunks]:
        """Take the largest coefficients out of the momentum and return what is sent of every parameter."""
        sent = self._engine.compress_()
        self._can_restore = True
        return sent

    def send_(
        self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float], *, ready: Ready | None = None
    ) -> Mapping[str, SparseChunks]:
        """Do what `accumulate_` and then `compress_` do; faster, since each chunk is touched once.

        Args:
            gradients: as in `accumulate_`, but that they are finite and at most MAX_GRADIENT is not checked again:
                `largest` tells.
            lr: as in `accumulate_`.
            ready: called with the bytes of the body of `encode_body`, in their order, as soon as they are known, while
                later parameters are still to come.

        Raises:
            ValueError: a gradient is missing, unknown or of the wrong shape, or an lr is missing or out of range.
        """
        _check_shapes(gradients, lr, self.grids)
        sent = self._engine.send_(gradients, lr, ready)
        self._can_restore = True
        return sent

    def restore_(self) -> None:
        """Undo the last `compress_` to the bit, because its payload could not be put.

        Raises:
            ValueError: the last change of the momentum was not `compress_`.
        """
        if not self._can_restore:
            raise ValueError("restore_ must follow compress_ before the momentum is changed again")
        self._can_restore = False
        self._engine.restore_()

    def subtract_(self, chunks: Mapping[str, SparseChunks]) -> None:
        """Take an own payload out of the momentum that was sent after this momentum was saved.

        Raises:
            ValueError: the payload is of another model.
        """
        check_names("payload", chunks, self.grids)
        self._can_restore = False
        for name, momentum in self.momentum.items():
            subtract_(momentum, chunks[name])

    def put_back_(self, chunks: Mapping[str, SparseChunks]) -> None:
        """Put an own payload back into the momentum, because it does not count after all.

        If nothing changed the momentum since `compress_` made it, this is `restore_`, to the bit. Otherwise each
        coefficient is rounded once, as by `subtract_`.

        Args:
            chunks: what the payload says: that of the last `compress_`, unless the momentum was changed since.

        Raises:
            ValueError: the payload is of another model.
        """
        check_names("payload", chunks, self.grids)
        if self._can_restore:
            self.restore_()
            return
        for name, momentum in self.momentum.items():
            add_(momentum, chunks[name])

    def largest(self, gradients: Mapping[str, Tensor | None]) -> dict[str, float]:
        """Return the largest magnitude of each gradient that is not None; NaN or infinite if one is not finite."""
        return self._engine.largest({name: gradient for name, gradient in gradients.items() if gradient is not None})

    def state_dict(self) -> dict[str, Any]:
        """Return {"momentum": {name: (N, K) fp32}, "transform": its name}; the tensors are the live ones."""
        return {"momentum": dict(self.momentum), "transform": self._transform}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a saved momentum into this one.

        Raises:
            ValueError: it is of another model, other chunks or another transform. The momentum is untouched then.
        """
        if set(state) != {"momentum", "transform"}:
            raise ValueError(f"the state of a MomentumCodec must be `momentum` and `transform`, got {sorted(state)}")
        if state["transform"] != self._transform:
            raise ValueError(f"saved momentum must be of transform {self._transform}, got {state['transform']}")
        saved: Mapping[str, Tensor] = state["momentum"]
        check_names("saved momentum", saved, self.grids)
        for name, momentum in self.momentum.items():
            if saved[name].shape != momentum.shape:
                raise ValueError(
                    f"saved momentum of {name} must have (chunks, coefficients) {tuple(momentum.shape)}, got "
                    f"{tuple(saved[name].shape)}: it was saved with another model or chunk_size"
                )
        self._can_restore = False
        for name, momentum in self.momentum.items():
            momentum.copy_(saved[name])

    def _new_slabs(self) -> list[Slab]:
        slabs = new_slabs(self.grids, self._device)
        by_name = momentum_of(slabs)
        self.momentum: dict[str, Tensor] = {name: by_name[name] for name in self.grids}  # (N, K) each
        return slabs


def _check_shapes(
    gradients: Mapping[str, Tensor | None], lr: Mapping[str, float], grids: Mapping[str, ChunkGrid]
) -> None:
    """Raise ValueError for names, shapes and weights that `accumulate_` refuses."""
    check_names("gradients", gradients, grids)
    for name, gradient in gradients.items():
        if gradient is None:
            continue
        if tuple(gradient.shape) != grids[name].shape:
            raise ValueError(f"gradient of {name} must have shape {grids[name].shape}, got {tuple(gradient.shape)}")
        if not (name in lr and math.isfinite(lr[name]) and abs(lr[name]) <= MAX_LR):
            raise ValueError(f"lr of {name} must be in {-MAX_LR:g}..{MAX_LR:g}, got {lr.get(name)}")
