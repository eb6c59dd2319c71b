"""Which of two payloads is the copy of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from templar_pl.scoring.records import Overlap, Upload
from templar_pl.units import Uid

COPIED_SHARE = 0.75
"""How much of what two payloads usually choose differently is alike in a copy.

On the toy model the payloads of miners who trained for themselves had at most 0.32 of it in common, over 174 windows
with batches of 1 and 8 Ki tokens, while their agreement itself went from 0.88 in the first window down to 0.02; a
copy has all of it. Accusing the honest costs more than missing a copy in parts, which the indicator sees, so the
limit is nearer to 1 (`python benchmarks/payload_overlap.py`)."""

_Key = tuple[Uid, int]  # of an upload: uid and window


def find_copies(overlaps: Sequence[Overlap]) -> dict[Uid, Overlap]:
    """Return the copies among the payloads of one window, {uid of the copy: the evidence}, in uid order.

    The later upload is the copy, by (window, store's time). If a store tells both the same time, nobody is accused: a
    thief could be quick enough to frame its victim, and the indicator, which no copy earns, judges both.

    Args:
        overlaps: of one window, in any order; of all pairs, or of all that hold a payload in question.
    """
    agreements = _agreements(overlaps)
    found: dict[Uid, Overlap] = {}
    for overlap in sorted(overlaps, key=_strongest_first):
        earlier, later = sorted((overlap.first, overlap.second), key=_age)
        # Below this share no pair is a copy, whatever is usual; so few pairs need a closer look.
        is_suspect = overlap.agreement >= COPIED_SHARE and _age(earlier) < _age(later)
        if is_suspect and overlap.agreement >= copy_threshold(overlap, agreements):
            found.setdefault(later.uid, overlap)
    return dict(sorted(found.items()))


def copy_threshold(overlap: Overlap, agreements: Mapping[_Key, Mapping[_Key, float]]) -> float:
    """Return the agreement from which on two payloads are one.

    Honest miners agree the more the less noisy their gradients are, which changes from window to window and from run to
    run. So third payloads say what is usual: how close the closer of the two is to each, the upper quartile of that.
    Noise of fewer miners than are honest cannot lower it much. Copies of one another raise it, but identical ones reach
    it always; where there is no third payload, only those do.

    Args:
        overlap: of the two payloads.
        agreements: (uid, window) of each payload -> the same of each it was compared with -> their agreement.
    """
    first, second = _key(overlap.first), _key(overlap.second)
    others = (agreements[first].keys() | agreements[second].keys()) - {first, second}
    closest = sorted(
        (max(agreements[mine].get(other, 0.0) for mine in (first, second)) for other in others), reverse=True
    )
    usual = max(0.0, closest[len(closest) // 4]) if closest else 1.0
    return usual + COPIED_SHARE * (1 - usual)


def _agreements(overlaps: Sequence[Overlap]) -> dict[_Key, dict[_Key, float]]:
    """Return every agreement under both of its payloads."""
    agreements: dict[_Key, dict[_Key, float]] = {}
    for overlap in overlaps:
        first, second = _key(overlap.first), _key(overlap.second)
        agreements.setdefault(first, {})[second] = overlap.agreement
        agreements.setdefault(second, {})[first] = overlap.agreement
    return agreements


def _key(upload: Upload) -> _Key:
    return upload.uid, upload.window


def _age(upload: Upload) -> tuple[int, float]:
    return upload.window, upload.uploaded_at


def _strongest_first(overlap: Overlap) -> tuple[float, list[tuple[int, float, int]]]:
    """Order the evidence against a copy: the highest agreement, then the oldest original."""
    uploads = [(upload.window, upload.uploaded_at, upload.uid) for upload in (overlap.first, overlap.second)]
    return -overlap.agreement, sorted(uploads)
