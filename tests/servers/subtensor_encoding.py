"""Plain values as bytes and back: JSON, with byte strings as hexadecimal digits under a name of their own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

_BYTES = "$bytes"

_LENGTH_BYTES = 4


def encode(value: Any) -> bytes:
    """Return a plain value as bytes; equal values give equal bytes.

    Raises:
        TypeError: it holds something other than None, bool, int, float, str, bytes, lists and dicts.
    """
    return json.dumps(value, default=_bytes_to_json, sort_keys=True, separators=(",", ":")).encode()


def decode(data: bytes) -> Any:
    """Return the value that `encode` made bytes of; tuples come back as lists."""
    return json.loads(data, object_hook=_json_to_bytes)


def _bytes_to_json(value: object) -> dict[str, str]:
    if isinstance(value, (bytes, bytearray)):
        return {_BYTES: value.hex()}
    raise TypeError(f"only plain values can be sent, got {type(value).__name__}")


def _json_to_bytes(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value[_BYTES]) if value.keys() == {_BYTES} else value


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """Read one value from a connection.

    Raises:
        asyncio.IncompleteReadError: the other side has closed it.
        OSError: it is broken.
    """
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
    return decode(await reader.readexactly(length))


def frame(value: Any) -> bytes:
    """Return a value as it goes over a connection: its length in 4 bytes, then its bytes."""
    data = encode(value)
    return len(data).to_bytes(_LENGTH_BYTES) + data
