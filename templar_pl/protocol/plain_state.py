"""What optimizers and schedules keep besides tensors, as values of a signed document.

A whole number is itself, a fraction `f:` and `float.hex` of it, a truth value `b:0` or `b:1`, nothing `n:`, a text `s:`
and the text. A list or tuple is a list. A map is a map of one field, `:map`: the list of key, value, key, value, by
ascending key, numbers before texts. A tensor of one number is that number. What is read takes its types from the value
that is in its place already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from templar_pl.protocol.document import MAX_INTEGER, JsonValue

Plain = object
"""Numbers, truth values, texts, nothing, tensors of one number, and lists, tuples and maps of these."""

_MAP = ":map"


def to_json(value: Plain, where: str) -> JsonValue:
    """Write a value. Raises `ValueError`, which names `where` it stands, for what has no form."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    if isinstance(value, Mapping):
        pairs = [(_leaf(key, where), to_json(part, f"{where}.{key}")) for key, part in _in_order(value)]
        return {_MAP: [part for pair in pairs for part in pair]}
    if isinstance(value, list | tuple):
        return [to_json(part, f"{where}[{place}]") for place, part in enumerate(value)]
    return _leaf(value, where)


def _leaf(value: object, where: str) -> JsonValue:
    if value is None:
        return "n:"
    if isinstance(value, bool):
        return f"b:{int(value)}"
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return f"f:{float(value).hex()}"
    if isinstance(value, str):
        return f"s:{value}"
    raise ValueError(f"{where} cannot be stored: it must be made of finite numbers and texts, got {_short(value)}")


def from_json(live: Plain, saved: JsonValue, where: str) -> Plain:
    """Read what stands for a value, in place of one of the same make.

    Args:
        live: the value in use; it is not changed.
        saved: what `to_json` wrote for a value with the same keys and lengths. Numbers and truth values may differ
            from the live ones; texts, and where there is nothing, must not.
        where: name of the value, for messages.

    Returns:
        The saved value, of the types of the live one; whole numbers and fractions may take each other's place.

    Raises:
        ValueError: it has another make, or `to_json` does not write such a thing.
    """
    if isinstance(live, Tensor) and live.dim() == 0:
        return torch.full_like(live, _number(saved, where))
    if isinstance(live, Mapping):
        return _read_map(live, saved, where)
    if isinstance(live, list | tuple):
        return _read_list(live, saved, where)
    if isinstance(live, bool):
        if saved not in ("b:0", "b:1"):
            raise ValueError(f"{where} must be a truth value, got {_short(saved)}")
        return saved == "b:1"
    if isinstance(live, int | float):
        return _number(saved, where)
    if saved != _leaf(live, where):
        raise ValueError(f"{where} must be {live!r} as in this node's settings, got {_short(saved)}")
    return live


def _number(saved: JsonValue, where: str) -> int | float:
    if isinstance(saved, int):
        return saved
    try:
        number = float.fromhex(saved[2:]) if isinstance(saved, str) and saved.startswith("f:") else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or saved != f"f:{number.hex()}":
        raise ValueError(f"{where} must be a finite number, got {_short(saved)}")
    return number


def _read_list(live: list[object] | tuple[object, ...], saved: JsonValue, where: str) -> Plain:
    if not isinstance(saved, list) or len(saved) != len(live):
        raise ValueError(f"{where} must be a list of {len(live)}, got {_short(saved)}")
    return type(live)(
        from_json(now, then, f"{where}[{i}]") for i, (now, then) in enumerate(zip(live, saved, strict=True))
    )


def _read_map(live: Mapping[object, object], saved: JsonValue, where: str) -> Plain:
    parts = saved.get(_MAP) if isinstance(saved, dict) and saved.keys() == {_MAP} else None
    in_order = _in_order(live)
    if (
        not isinstance(parts, list)
        or len(parts) != 2 * len(live)
        or parts[::2] != [_leaf(key, where) for key, _ in in_order]
    ):
        raise ValueError(f"{where} must be a map of {', '.join(str(key) for key, _ in in_order)}, got {_short(saved)}")
    read = {
        key: from_json(value, part, f"{where}.{key}") for (key, value), part in zip(in_order, parts[1::2], strict=True)
    }
    return read if type(live) is dict else type(live)(read)  # pyright: ignore[reportCallIssue]  # such as a Counter


def _in_order(values: Mapping[object, object]) -> list[tuple[object, object]]:
    return sorted(values.items(), key=_rank)


def _rank(pair: tuple[object, object]) -> tuple[bool, int, str]:
    key = pair[0]
    return (False, key, "") if isinstance(key, int) else (True, 0, str(key))


def _short(value: object) -> str:
    return repr(str(value)[:80])
