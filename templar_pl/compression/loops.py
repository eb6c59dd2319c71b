"""How numpy walks over arrays that are not one row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_SHORT = 1024


@contextmanager
def row_by_row() -> Iterator[None]:
    """Let numpy take arrays row by row inside the block, wherever a row has 1024 elements or more.

    Otherwise it gathers shorter rows than its buffer has room for, 8192 elements, in that buffer, if an operand is
    broadcast over them or they lie apart. To compare each row of 4096 with a number of its own takes three times as
    long then. Other threads do not see the change.
    """
    before = np.setbufsize(_SHORT)
    try:
        yield
    finally:
        np.setbufsize(before)
