"""The digest that tells runs apart: of all that nodes must share to reach the same parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from templar_pl.config import CompressionConfig, PeersConfig


def run_digest(
    parameters: Mapping[str, Tensor], compression: CompressionConfig, peers: PeersConfig, settings: bytes
) -> bytes:
    """Return 32 bytes, the same on all nodes that may train together.

    Args:
        parameters: what is exchanged, in wire order; only names, dtypes and shapes count.
        compression: how momentum becomes payload and update.
        peers: whose payloads are gathered.
        settings: digest of whatever else the nodes must share.
    """
    agreed = {
        "compression": asdict(compression),
        "max_peers": peers.max_topk_peers,
        "settings": settings.hex(),
        "parameters": {name: [str(p.dtype), list(p.shape)] for name, p in parameters.items()},
    }
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).digest()
