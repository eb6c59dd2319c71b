"""Memory for large tensors that pass by: each of them is gone before the next one comes."""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CPU = torch.device("cpu")
_LEAST_BYTES = 2**20
"""Of a tensor that gets the one place: what the allocator keeps of smaller ones is little."""


class OnePlace:
    """Makes tensors, the large ones of them one after the other in the same place.

    An allocator puts them into different holes of its heap, and keeps what is freed: the process then grows by several
    tensors, though only one is held at a time. Here it grows by the largest one, until the last is gone. No two tensors
    that are held share memory: while one is in the place, others come from the allocator. So they do on other devices
    than the CPU, whose allocators use the same memory again.
    """

    def __init__(self, shapes: Iterable[tuple[int, ...]], dtype: torch.dtype, device: torch.device = _CPU) -> None:
        """Reserve the place; pages that are never written to take no memory.

        Args:
            shapes: of the tensors.
            dtype: of the tensors.
            device: of the tensors.
        """
        self._dtype, self._device = dtype, device
        largest = dtype.itemsize * max(map(math.prod, shapes), default=0)
        # Apart from the allocator, so that all of it goes back to the system.
        pages = mmap.mmap(-1, max(1, largest), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._place: NDArray[np.uint8] = np.frombuffer(pages, dtype=np.uint8)
        self._taken: weakref.ref[NDArray[np.uint8]] | None = None

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of any content, of one of the shapes."""
        num_bytes = math.prod(shape) * self._dtype.itemsize
        is_taken = self._taken is not None and self._taken() is not None
        if is_taken or num_bytes < _LEAST_BYTES or self._device.type != "cpu":
            return torch.empty(shape, dtype=self._dtype, device=self._device)
        lent = self._place[:num_bytes]
        self._taken = weakref.ref(lent)  # torch holds it as long as there is a tensor
        return torch.from_numpy(lent).view(self._dtype).view(shape)
