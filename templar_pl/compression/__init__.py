"""Pure tensors: momentum in coefficient space, what of it is sent, and the exact update."""

from templar_pl.compression.body import Body, body_bytes, encode_body
from templar_pl.compression.codec import MAX_GRADIENT, MomentumCodec
from templar_pl.compression.combine import combine
from templar_pl.compression.exact import ExactUpdate, check_exact_arithmetic, sign_of
from templar_pl.compression.grid import ChunkGrid, chunk_grid
from templar_pl.compression.native_check import Backend, decode_body, missing_option, native_fault
from templar_pl.compression.native_library import NativeError
from templar_pl.compression.quantise import dequantise
from templar_pl.compression.section import SectionError
from templar_pl.compression.sparse import EMPTY_CODE, MAX_CODE, SparseChunks
from templar_pl.compression.travel import pack_body, travel_bytes, travels_as_made, unpack_body
from templar_pl.compression.update_codec import UpdateCodec

__all__ = [
    "EMPTY_CODE",
    "MAX_CODE",
    "MAX_GRADIENT",
    "Backend",
    "Body",
    "ChunkGrid",
    "ExactUpdate",
    "MomentumCodec",
    "NativeError",
    "SectionError",
    "SparseChunks",
    "UpdateCodec",
    "body_bytes",
    "check_exact_arithmetic",
    "chunk_grid",
    "combine",
    "decode_body",
    "dequantise",
    "encode_body",
    "missing_option",
    "native_fault",
    "pack_body",
    "sign_of",
    "travel_bytes",
    "travels_as_made",
    "unpack_body",
]
