"""The compression room again, slowly: numpy, one chunk at a time, dense matrices, Python integers and fractions.

It shares no code with the package. What a chunk sends is {place: -1 or 1}; a parameter is its shape.

Shapes: A x B = one chunk; K = A * B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class SlowPayload:
    """What one peer sends of one parameter."""

    sent: list[dict[int, int]]
    codes: list[int]
    base: int
    below: list[dict[int, int]] | None = None
    """{place: eighths below the scale} of each chunk; None where a value has one bit."""

    def scale(self, chunk: int, place: int) -> int:
        """Return the log scale of a value, without the base."""
        return self.codes[chunk] - (0 if self.below is None else self.below[chunk][place])

    def scales(self) -> list[int]:
        """Return the log scales of all values, without the base."""
        return [self.scale(chunk, place) for chunk, sent in enumerate(self.sent) for place in sent]


def as_matrix(array: Array) -> Array:
    """Flatten to two dimensions, a vector to one row."""
    return array.reshape(1, -1) if array.ndim < 2 else array.reshape(array.shape[0], math.prod(array.shape[1:]))


def chunk_shape(shape: tuple[int, ...], chunk_size: int) -> tuple[int, int]:
    """Return A, B."""
    rows, columns = as_matrix(np.zeros(shape)).shape
    return max(1, min(chunk_size, rows)), max(1, min(chunk_size, columns))


def cut(array: Array, chunk_size: int) -> list[Array]:
    """Return the zero-padded chunks in row-major order."""
    matrix, (height, width) = as_matrix(array), chunk_shape(array.shape, chunk_size)
    chunks = []
    for top in range(0, matrix.shape[0], height):
        for left in range(0, matrix.shape[1], width):
            tile = matrix[top : top + height, left : left + width]
            chunk = np.zeros((height, width))
            chunk[: tile.shape[0], : tile.shape[1]] = tile
            chunks.append(chunk)
    return chunks


def paste(chunks: list[Array], shape: tuple[int, ...], chunk_size: int) -> Array:
    """Undo `cut`."""
    matrix, (height, width) = as_matrix(np.zeros(shape)), chunk_shape(shape, chunk_size)
    remaining = iter(chunks)
    for top in range(0, matrix.shape[0], height):
        for left in range(0, matrix.shape[1], width):
            rows, columns = min(height, matrix.shape[0] - top), min(width, matrix.shape[1] - left)
            matrix[top : top + rows, left : left + columns] = next(remaining)[:rows, :columns]
    return matrix.reshape(shape)


def cosines(size: int) -> Array:
    """Return cos(pi (2x + 1) k / 2 size), row 0 scaled by sqrt(1/2)."""
    basis = np.array([[math.cos(math.pi * (2 * x + 1) * k / (2 * size)) for x in range(size)] for k in range(size)])
    basis[0] = math.sqrt(0.5)
    return basis


def dct(chunk: Array, *, is_vector: bool) -> Array:
    """Return the orthonormal DCT-II, float64, flattened to (K,)."""
    height, width = chunk.shape
    spectrum = chunk @ (cosines(width) * math.sqrt(2 / width)).T
    if not is_vector:
        spectrum = (cosines(height) * math.sqrt(2 / height)) @ spectrum
    return spectrum.reshape(-1)


def inverse_dct(coefficients: Array, shape: tuple[int, int], *, is_vector: bool) -> Array:
    """Return the ideal inverse, float64, (A, B)."""
    height, width = shape
    chunk = coefficients.reshape(shape) @ (cosines(width) * math.sqrt(2 / width))
    return chunk if is_vector else (cosines(height) * math.sqrt(2 / height)).T @ chunk


def largest_places(coefficients: Array, topk: int) -> list[int]:
    """Return the places of the largest magnitudes, ascending; ties to the lower place, zeros never."""
    order = sorted(range(len(coefficients)), key=lambda place: (-abs(coefficients[place]), place))
    return sorted(place for place in order[:topk] if coefficients[place] != 0)


STEPS = {2: 4, 3: 2, 8: 1}


def levels_of(value_bits: int, scale: int) -> dict[int, float]:
    """Return {distance below the scale: magnitude} of all levels."""
    return {STEPS[value_bits] * n: 2.0 ** ((scale - STEPS[value_bits] * n) / 8) for n in range(2 ** (value_bits - 1))}


def squared_error(magnitudes: list[float], scale: int, value_bits: int) -> float:
    """Return the least error of values at the levels of a scale; infinite if none is nearest to the upper one."""
    levels = levels_of(value_bits, scale)
    distances = [min(levels, key=lambda d: (abs(levels[d] - v), d)) for v in magnitudes]
    if 0 not in distances:
        return math.inf
    return sum((v - levels[d]) ** 2 for v, d in zip(magnitudes, distances, strict=True))


def choose_levels(magnitudes: list[float], value_bits: int) -> tuple[int, list[int]]:
    """Return the log scale of a chunk and how far each value lies below it."""
    nearest = [round(8 * math.log2(v)) for v in magnitudes]
    if value_bits == 8:
        return max(nearest), [min(127, max(nearest) - n) for n in nearest]
    scale = min(range(min(nearest) - 9, max(nearest) + 9), key=lambda s: squared_error(magnitudes, s, value_bits))
    levels = levels_of(value_bits, scale)
    return scale, [min(levels, key=lambda d: (abs(levels[d] - v), d)) for v in magnitudes]


def compress_levels(spectra: list[Array], topk: int, value_bits: int) -> tuple[SlowPayload, list[Array]]:
    """Do what `compress` does with values of more than one bit."""
    places = [largest_places(c, min(topk, len(c))) for c in spectra]
    chosen = [
        choose_levels([abs(float(c[p])) for p in ps], value_bits) if ps else None
        for c, ps in zip(spectra, places, strict=True)
    ]
    base = max((scale for scale, _ in filter(None, chosen)), default=255) - 255
    all_below: list[dict[int, int]] = []
    payload, left = SlowPayload([], [], base, all_below), []
    for coefficients, ps, choice in zip(spectra, places, chosen, strict=True):
        scale, below = choice if choice is not None and choice[0] > base else (base, [])
        distances = dict(zip(ps, below, strict=False))
        rest = coefficients.copy()
        for place, distance in distances.items():
            rest[place] -= math.copysign(2.0 ** ((scale - distance) / 8), coefficients[place])
        payload.sent.append({p: 1 if coefficients[p] > 0 else -1 for p in distances})
        all_below.append(distances)
        payload.codes.append(scale - base)
        left.append(rest)
    return payload, left


def compress(spectra: list[Array], topk: int) -> tuple[SlowPayload, list[Array]]:
    """Return what is sent of the coefficients (one array a chunk), and what is left of them."""
    places = [largest_places(c, min(topk, len(c))) for c in spectra]
    means = [sum(abs(c[p]) for p in ps) / len(ps) if ps else 0.0 for c, ps in zip(spectra, places, strict=True)]
    scales = [min(1023, round(8 * math.log2(mean))) if mean else None for mean in means]
    loudest = max((s for s in scales if s is not None), default=None)
    base = 0 if loudest is None else loudest - 255
    payload, left = SlowPayload([], [], base), []
    for coefficients, ps, scale in zip(spectra, places, scales, strict=True):
        rest = coefficients.copy()
        if scale is None or scale - base < 1:
            payload.sent.append({})
            payload.codes.append(0)
        else:
            payload.sent.append({p: 1 if coefficients[p] > 0 else -1 for p in ps})
            payload.codes.append(scale - base)
            for place, sign in payload.sent[-1].items():
                rest[place] -= sign * 2.0 ** (scale / 8)
        left.append(rest)
    return payload, left


def half_even_shift(number: int, shift: int) -> int:
    """Divide by 2**shift and round halves to even."""
    return round(Fraction(number, 2**shift))


def weight(payload: SlowPayload) -> tuple[int, int]:
    """Return mantissa and exponent of the weight that equalises a payload."""
    square = 0
    for code in payload.scales():
        exponent = code + (0 if payload.below is None else 128)
        square += round(2**30 * 2 ** ((exponent & 3) / 4)) << (exponent >> 2)
    if not square:
        return 0, 0
    inverse = 2**300 // math.isqrt(square * 2**128)
    shift = len(bin(inverse)) - 2 - 14
    return inverse >> shift, 236 - shift


def absolute_square(payload: SlowPayload) -> int:
    """Return the sum of the squares of a payload, from log scale -2048 - 128 on, times 2**30."""
    exponents = [payload.base + code + 2048 + 128 for code in payload.scales()]
    return sum(round(2**30 * 2 ** ((exponent & 3) / 4)) << (exponent >> 2) for exponent in exponents)


def clip_weight(squares: list[int], number: int) -> tuple[int, int]:
    """Return mantissa and exponent of the weight that brings a payload down to the median of the squares of all."""
    sending = sorted(square for square in squares if square)
    median = sending[(len(sending) - 1) // 2]
    if squares[number] <= median:
        return 2**13, 13
    root = math.isqrt(2**2400 * median // squares[number])
    digits = bin(root)[2:]
    return int(digits[:14], 2), 1200 - (len(digits) - 14)


def chunk_scales(payloads: list[SlowPayload], chunk: int, equalise: str) -> tuple[list[dict[int, int]], int]:
    """Return {place: integer magnitude} of every payload in one chunk, and their log scale in eighths."""
    sent = [(q, place) for q, payload in enumerate(payloads) for place in payload.sent[chunk]]
    magnitudes: list[dict[int, int]] = [{} for _ in payloads]
    if not sent:
        return magnitudes, 0
    if equalise == "none":
        absolute = {(q, place): payloads[q].scale(chunk, place) + payloads[q].base for q, place in sent}
        top = max(absolute.values())
        for (q, place), scale in absolute.items():
            magnitudes[q][place] = round(2**15 * 2 ** ((scale - top) / 8)) if top - scale < 128 else 0
        return magnitudes, top - 120
    is_norm, exponents = equalise == "norm", {}
    squares = [] if is_norm else [absolute_square(payload) for payload in payloads]
    weights = {q: weight(payloads[q]) if is_norm else clip_weight(squares, q) for q in {q for q, _ in sent}}
    lift = 0 if payloads[0].below is None else 128
    for q, place in sent:
        exponents[q, place] = payloads[q].scale(chunk, place) + lift + (0 if is_norm else payloads[q].base + 2048)
    octaves = {(q, place): (exponent >> 3) - weights[q][1] for (q, place), exponent in exponents.items()}
    top = max(octaves.values())
    for (q, place), exponent in exponents.items():
        product = weights[q][0] * round(2**14 * 2 ** ((exponent & 7) / 8))
        magnitudes[q][place] = half_even_shift(product, 14 + top - octaves[q, place])
    return magnitudes, 8 * top + (120 if is_norm else -2048 - lift)


def integer_basis(size: int) -> list[list[int]]:
    """Return round(256 * cosines)."""
    return [[round(256 * value) for value in row] for row in cosines(size).tolist()]


def rescale(values: list[list[int]]) -> tuple[list[list[int]], int]:
    """Halve until all are within 1023, then round once; return the number of halvings too."""
    largest, shift = max(abs(v) for row in values for v in row), 0
    while largest > 1023 * 2**shift:
        shift += 1
    return [[half_even_shift(v, shift) for v in row] for row in values], shift


def product(left: list[list[int]], right: list[list[int]]) -> list[list[int]]:
    """Multiply integer matrices in Python integers or, where they surely fit, in int64."""
    return (np.array(left, dtype=np.int64) @ np.array(right, dtype=np.int64)).tolist()


def combined_chunk(payloads: list[SlowPayload], chunk: int, chunk_numel: int, rule: str, equalise: str) -> list[int]:
    """Return the integer coefficients of one chunk."""
    magnitudes, _ = chunk_scales(payloads, chunk, equalise)
    sums, senders = [0] * chunk_numel, [0] * chunk_numel
    for payload, own in zip(payloads, magnitudes, strict=True):
        for place, sign in payload.sent[chunk].items():
            sums[place] += sign * own[place]
            senders[place] += 1
    if rule == "mean":
        return [round(Fraction(s, max(1, c))) for s, c in zip(sums, senders, strict=True)]
    return sums


def integer_inverse(coefficients: list[int], shape: tuple[int, int], *, is_vector: bool) -> tuple[list[list[int]], int]:
    """Return the integers (A, B) of one chunk and the number of halvings."""
    height, width = shape
    rows, shift = rescale([coefficients[r * width : (r + 1) * width] for r in range(height)])
    values = product(rows, integer_basis(width))
    if is_vector:
        return values, shift
    columns, more = rescale(values)
    transposed = [list(column) for column in zip(*integer_basis(height), strict=True)]
    return product(transposed, columns), shift + more


def update_integers(
    payloads: list[SlowPayload],
    shape: tuple[int, ...],
    chunk_size: int,
    rule: str,
    equalise: str,
    transform: str = "dct",
) -> list[Array]:
    """Return the integers of every chunk of the update."""
    num_chunks = len(cut(np.zeros(shape), chunk_size))
    sides = chunk_shape(shape, chunk_size)
    chunks = []
    for chunk in range(num_chunks):
        coefficients = combined_chunk(payloads, chunk, sides[0] * sides[1], rule, equalise)
        if transform == "none":
            chunks.append(np.array(coefficients, dtype=np.float64).reshape(sides))
            continue
        integers, _ = integer_inverse(coefficients, sides, is_vector=len(shape) < 2)
        chunks.append(np.array(integers, dtype=np.float64))
    return chunks


def ideal_chunks(
    payloads: list[SlowPayload], shape: tuple[int, ...], chunk_size: int, rule: str, equalise: str
) -> list[Array]:
    """Return what the update would be in real numbers, float64, chunk by chunk."""
    sides = chunk_shape(shape, chunk_size)
    norms = [math.sqrt(sum(4.0 ** ((code + p.base) / 8) for code in p.scales())) for p in payloads]
    if equalise == "clip":
        median = sorted(norm for norm in norms if norm)[(sum(norm > 0 for norm in norms) - 1) // 2]
        norms = [max(1.0, norm / median) for norm in norms]
    elif equalise == "none":
        norms = [1.0] * len(norms)
    chunks = []
    for chunk in range(len(cut(np.zeros(shape), chunk_size))):
        sums, senders = np.zeros(sides[0] * sides[1]), np.zeros(sides[0] * sides[1])
        for payload, norm in zip(payloads, norms, strict=True):
            for place, sign in payload.sent[chunk].items():
                sums[place] += sign * 2.0 ** ((payload.scale(chunk, place) + payload.base) / 8) / norm
                senders[place] += 1
        if rule == "mean":
            sums /= np.maximum(senders, 1)
        chunks.append(inverse_dct(sums, sides, is_vector=len(shape) < 2))
    return chunks
