"""Fields of a statement as the values they stand for. All raise `ValueError` with the name of the field."""

from __future__ import annotations

import math
import re

from templar_pl.protocol.document import JsonMap

DIGEST_BYTES = 32

_MAX_NUMBER = 32  # characters; float.hex writes at most 24


def check_names(values: JsonMap, names: set[str]) -> None:
    """Refuse a map with other fields than these."""
    if values.keys() != names:
        odd = ", ".join(sorted(values.keys() ^ names))[:200]
        raise ValueError(f"it must have the fields {', '.join(sorted(names))}; missing or not known: {odd}")


def text_of(values: JsonMap, name: str) -> str:
    """Return a text."""
    value = values[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got a {type(value).__name__}")
    return value


def whole_of(values: JsonMap, name: str) -> int:
    """Return a whole number."""
    value = values[name]
    if not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got a {type(value).__name__}")
    return value


def digest_of(values: JsonMap, name: str) -> bytes:
    """Return the 32 bytes that a text says in lower-case hexadecimal digits."""
    text = text_of(values, name)
    if not re.fullmatch(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}", text):
        raise ValueError(f"{name} must be {2 * DIGEST_BYTES} of 0-9 and a-f, got {text[:80]!r}")
    return bytes.fromhex(text)


def number_of(values: JsonMap, name: str) -> float:
    """Return the number that a text says in the form of `float.hex`."""
    text = text_of(values, name)
    try:
        number = float.fromhex(text[:_MAX_NUMBER])
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number.hex() != text:
        raise ValueError(f"{name} must be a number as float.hex writes it, got {text[:80]!r}")
    return number


def check_digests(values: object, *names: str) -> None:
    """Refuse attributes that are not 32 bytes long."""
    for name in names:
        if len(getattr(values, name)) != DIGEST_BYTES:
            raise ValueError(f"{name} must have {DIGEST_BYTES} bytes, got {len(getattr(values, name))}")


def check_between(values: object, **ranges: tuple[float, float]) -> None:
    """Refuse attributes outside their range."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(values, name) <= high:
            raise ValueError(f"{name} must be in {low}..{high}, got {getattr(values, name)}")
