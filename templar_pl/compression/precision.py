"""Matrix products in full fp32, whatever the training around them asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply fp32 matrices in IEEE fp32 inside the block; no autocast, no gradients. Restores all of it at the end.

    TF32 and bf16 products keep 11 and 8 significant bits; the exact update needs 24. The settings of the matrix
    products belong to the whole process, so other threads see the change too.
    """
    # torch sets the attribute `mkldnn.matmul` when it is imported, which a type checker cannot see.
    products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision
