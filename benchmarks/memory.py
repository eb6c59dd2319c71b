"""How much memory an operation takes at its peak (Linux)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kilobytes(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def extra_bytes(operation: Callable[[], object]) -> int:
    """Return by how many bytes the resident memory grew at the most while an operation ran."""
    gc.collect()
    _RESET.write_text("5", encoding="ascii")  # sets the peak to what is resident now
    before = _kilobytes("VmRSS")
    operation()
    return max(0, _kilobytes("VmHWM") - before) * 1024
