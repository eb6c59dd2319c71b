"""Values of a statement's fields, and checks of attributes. All raise `ValueError` with the name of the field."""

from __future__ import annotations

import math
import re
from collections.abc import Set

from templar_pl.protocol.document import JsonMap, JsonValue

DIGEST_BYTES = 32

_VERSION = re.compile(r"[0-9A-Za-z.+!_-]{1,64}")
_MAX_NUMBER = 32  # characters; float.hex writes at most 24


def read_text(value: JsonValue, name: str) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got a {type(value).__name__}")
    return value


def read_whole(value: JsonValue, name: str) -> int:
    """Return a whole number."""
    if not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got a {type(value).__name__}")
    return value


def read_map(value: JsonValue, name: str) -> JsonMap:
    """Return a map."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a map, got a {type(value).__name__}")
    return value


def read_list(value: JsonValue, name: str) -> list[JsonValue]:
    """Return a list."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got a {type(value).__name__}")
    return value


def read_digest(value: JsonValue, name: str) -> bytes:
    """Return the 32 bytes that a text says in lower-case hexadecimal digits."""
    text = read_text(value, name)
    if not re.fullmatch(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}", text):
        raise ValueError(f"{name} must be {2 * DIGEST_BYTES} of 0-9 and a-f, got {text[:80]!r}")
    return bytes.fromhex(text)


def read_number(value: JsonValue, name: str) -> float:
    """Return the finite number that a text says in the form of `float.hex`."""
    text = read_text(value, name)
    try:
        number = float.fromhex(text[:_MAX_NUMBER])
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number.hex() != text:
        raise ValueError(f"{name} must be a number as float.hex writes it, got {text[:80]!r}")
    return number


def read_any_number(value: JsonValue, name: str) -> float:
    """Return the number that a text says in the form of `float.hex`: finite, or nan, inf or -inf."""
    return float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else read_number(value, name)


def check_names(values: JsonMap, names: Set[str]) -> None:
    """Refuse a map with other fields than these."""
    if values.keys() != names:
        odd = ", ".join(sorted(values.keys() ^ names))[:200]
        raise ValueError(f"it must have the fields {', '.join(sorted(names))}; missing or not known: {odd}")


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


def check_version(version: str) -> None:
    """Refuse what is no version of a package."""
    if not _VERSION.fullmatch(version):
        raise ValueError(f"version must be 1..64 of 0-9, A-Z, a-z and `.+!_-`, got {version[:80]!r}")
