"""Which of two payloads is the copy of the other."""

from __future__ import annotations

from collections.abc import Sequence

from templar_pl.scoring.records import Overlap, Upload
from templar_pl.units import Uid

COPIED_SHARE = 0.75
"""Share of what two payloads of a window typically choose differently that must be alike in a copy.

Honest miners of the toy model agree to 0.55..0.72 in the first window, when all gradients point the same way, to less
than 0.35 from the sixth on and to 0.05..0.25 later. The most that any pair had in common beyond the median pair of its
window was 0.3 of what was left; a copy has all of it (`python -m benchmarks.payload_overlap`)."""


def copy_threshold(overlaps: Sequence[Overlap]) -> float:
    """Return the agreement from which on two payloads of a window are one.

    Honest miners agree the more the less noisy their gradients are, which changes from window to window and from run to
    run. So the window itself says what is usual: the lower median of all its pairs.

    Args:
        overlaps: of one window; better all pairs than some.

    Raises:
        ValueError: there are none.
    """
    if not overlaps:
        raise ValueError("the usual agreement of a window needs at least one pair of payloads")
    ascending = sorted(overlap.agreement for overlap in overlaps)
    typical = max(0.0, ascending[(len(ascending) - 1) // 2])
    return typical + COPIED_SHARE * (1 - typical)


def find_copies(overlaps: Sequence[Overlap]) -> dict[Uid, Overlap]:
    """Return the copies among the payloads of one window, {uid of the copy: the evidence}, in uid order.

    The later upload is the copy, by (window, store's time). If a store tells both the same time, nobody is accused: a
    thief could be quick enough to frame its victim, and the indicator, which no copy earns, judges both.

    Args:
        overlaps: of one window, in any order.
    """
    if not overlaps:
        return {}
    threshold = copy_threshold(overlaps)
    found: dict[Uid, Overlap] = {}
    for overlap in sorted(overlaps, key=_strongest_first):
        earlier, later = sorted((overlap.first, overlap.second), key=_age)
        if overlap.agreement >= threshold and _age(earlier) < _age(later):
            found.setdefault(later.uid, overlap)
    return dict(sorted(found.items()))


def _age(upload: Upload) -> tuple[int, float]:
    return upload.window, upload.uploaded_at


def _strongest_first(overlap: Overlap) -> tuple[float, list[tuple[int, float, int]]]:
    """Order the evidence against a copy: the highest agreement, then the oldest original."""
    uploads = [(upload.window, upload.uploaded_at, upload.uid) for upload in (overlap.first, overlap.second)]
    return -overlap.agreement, sorted(uploads)
