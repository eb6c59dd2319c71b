"""Pure tensors: momentum in coefficient space, what of it is sent, and the exact update."""

from templar_pl.compression.codec import MAX_GRADIENT, MomentumCodec
from templar_pl.compression.combine import combine
from templar_pl.compression.exact import ExactUpdate, check_exact_arithmetic, sign_of
from templar_pl.compression.grid import ChunkGrid, chunk_grid
from templar_pl.compression.quantise import dequantise
from templar_pl.compression.sparse import EMPTY_CODE, MAX_CODE, SparseChunks

__all__ = [
    "EMPTY_CODE",
    "MAX_CODE",
    "MAX_GRADIENT",
    "ChunkGrid",
    "ExactUpdate",
    "MomentumCodec",
    "SparseChunks",
    "check_exact_arithmetic",
    "chunk_grid",
    "combine",
    "dequantise",
    "sign_of",
]
