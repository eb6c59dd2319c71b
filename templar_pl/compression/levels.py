"""Levels of magnitude of values of more than one bit, as bits.

A value of b bits has a level in b - 1 bits: 0 for the loudest to 2**(b - 1) - 1, lowest bit first. Those of a chunk
fill bytes from the lowest bit, padded with zero bits. Fillers have level 0, and so has some value of every chunk that
sends anything: the scale of the chunk is that of its loudest value.

Shapes: B = chunks of one block, T = slots a chunk.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from templar_pl.compression.elias_fano import padding_is_set, refuse_first
from templar_pl.compression.sparse import LEVEL_STEPS


def level_bytes(topk: int, value_bits: int) -> int:
    """Return the bytes that the levels of a chunk take; 0 for values of one bit."""
    return -(-topk * (value_bits - 1) // 8)


def encode_levels(below: NDArray[np.uint8], value_bits: int) -> NDArray[np.uint8]:
    """Code how far values lie below the scale of their chunk.

    Args:
        below: (B, T) eighths of an octave, of which `check_levels` is right.
        value_bits: bits a value; 2, 3 or 8.

    Returns:
        (B, level_bytes(T, value_bits)) bytes.
    """
    levels, width = below // np.uint8(LEVEL_STEPS[value_bits]), value_bits - 1
    bits = (levels[..., None] >> np.arange(width, dtype=np.uint8)) & np.uint8(1)  # (B, T, width)
    return np.packbits(bits.reshape(len(bits), -1), axis=1, bitorder="little")


def check_levels(below: NDArray[np.uint8], counts: NDArray[np.int16], value_bits: int, first_row: int) -> None:
    """Refuse distances that are not those of levels, or could be said in another way.

    Args:
        below: (B, T) eighths of an octave.
        counts: (B,) slots in use.
        value_bits: bits a value; 2, 3 or 8.
        first_row: number of the first chunk, for the message.

    Raises:
        IndexCodeError: the message names the first wrong chunk.
    """
    step, width = LEVEL_STEPS[value_bits], value_bits - 1
    levels, remainders = np.divmod(below, np.uint8(step))
    refuse_first((remainders != 0) | (levels >> width != 0), first_row, f"a value is not on a level of {step} eighths")
    _check_levels(levels, counts, first_row)


def decode_levels(
    packed: NDArray[np.uint8], counts: NDArray[np.int16], topk: int, value_bits: int, first_row: int
) -> NDArray[np.uint8]:
    """Undo `encode_levels`.

    Args:
        packed: (B, level_bytes(topk, value_bits)) bytes of any content.
        counts: (B,) slots in use.
        topk: T.
        value_bits: bits a value; 2, 3 or 8.
        first_row: number of the first chunk, for the message.

    Raises:
        IndexCodeError: the bytes are none that `encode_levels` returns.
    """
    width = value_bits - 1
    refuse_first(padding_is_set(packed, topk * width), first_row, "padding behind the levels is not zero")
    bits = np.unpackbits(packed, axis=1, count=topk * width, bitorder="little").reshape(len(packed), topk, width)
    levels = (bits << np.arange(width, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)  # (B, T)
    _check_levels(levels, counts, first_row)
    return levels * np.uint8(LEVEL_STEPS[value_bits])


def _check_levels(levels: NDArray[np.uint8], counts: NDArray[np.int16], first_row: int) -> None:
    """Refuse levels (B, T) that could be said in another way."""
    is_filler = np.arange(levels.shape[1]) >= counts[:, None]
    refuse_first(is_filler & (levels != 0), first_row, "a filler has a level")
    has_loudest = (~is_filler & (levels == 0)).any(axis=1)
    refuse_first((counts > 0) & ~has_loudest, first_row, "no value has level 0")
