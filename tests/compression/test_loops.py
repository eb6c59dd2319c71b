from __future__ import annotations

import threading

import numpy as np
import pytest

from templar_pl.compression.loops import row_by_row


def test_numpy_is_as_before_after_the_block_and_after_an_error() -> None:
    before = np.getbufsize()

    with row_by_row():
        assert np.getbufsize() < before
    assert np.getbufsize() == before

    with pytest.raises(ValueError, match="inside"), row_by_row():
        raise ValueError("inside")
    assert np.getbufsize() == before


def test_other_threads_keep_theirs() -> None:
    before, seen = np.getbufsize(), []

    with row_by_row():
        other = threading.Thread(target=lambda: seen.append(np.getbufsize()))
        other.start()
        other.join()

    assert seen == [before]
