"""Records that contradict themselves are refused."""

from __future__ import annotations

import math

import pytest

from templar_pl.errors import Fault
from templar_pl.scoring import Evaluation, Losses, Overlap, Presence, SyncObservation, Upload, WindowRecords
from templar_pl.units import Hotkey, Uid, Window
from tests.scoring.simulation import upload_of

HERE = tuple(Presence(uid=Uid(uid), hotkey=Hotkey("a"), fault=None) for uid in range(2))
AWAY = Presence(uid=Uid(2), hotkey=Hotkey("c"), fault=Fault.SIGNATURE)
LOSSES = Losses(1.0, 1.0)


def evaluated(uid: int) -> Evaluation:
    return Evaluation(uid=Uid(uid), own=LOSSES, random=LOSSES)


def overlap(first: Upload, second: Upload, agreement: float = 0.1) -> Overlap:
    return Overlap(first=first, second=second, agreement=agreement)


def test_a_payload_of_this_window_may_be_compared_with_an_earlier_one_of_anybody() -> None:
    older = overlap(upload_of(0, 5, 1.0), upload_of(7, 4, 1.0))

    assert WindowRecords(window=Window(5), presences=HERE, overlaps=(older,)).overlaps == (older,)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"presences": (*HERE, HERE[0])}, r"window 5: more than one presence of uids \[0\]"),
        ({"evaluations": (evaluated(1), evaluated(1))}, r"more than one evaluation of uids \[1\]"),
        ({"evaluations": (evaluated(2),)}, r"evaluation of uids \[2\], whose payloads do not count"),
        ({"syncs": (SyncObservation(uid=Uid(9), steps_behind=0),)}, r"sync observation of uids \[9\]"),
        ({"overlaps": (overlap(upload_of(0, 5, 1), upload_of(2, 5, 1)),)}, r"overlap of uids \[0, 2\]"),
        ({"overlaps": (overlap(upload_of(0, 5, 1), upload_of(1, 6, 1)),)}, r"windows \[5, 6\]"),
        ({"overlaps": (overlap(upload_of(0, 4, 1), upload_of(1, 4, 1)),)}, r"windows \[4, 4\]"),
        (
            {"overlaps": tuple(overlap(upload_of(a, 5, 1), upload_of(1 - a, 5, 1)) for a in (0, 1))},
            "more than one overlap",
        ),
    ],
)
def test_records_of_a_window_must_fit_together(records: dict[str, tuple[object, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowRecords(**{"window": Window(5), "presences": (*HERE, AWAY), **records})  # pyright: ignore[reportArgumentType] - fields that differ


@pytest.mark.parametrize("steps", [-1.0, math.nan, math.inf])
def test_steps_behind_are_finite_and_not_negative(steps: float) -> None:
    with pytest.raises(ValueError, match="uid 3: steps_behind must be finite and at least 0"):
        SyncObservation(uid=Uid(3), steps_behind=steps)


@pytest.mark.parametrize("agreement", [math.nan, 1.01])
def test_an_agreement_is_at_most_one(agreement: float) -> None:
    with pytest.raises(ValueError, match="agreement must be at most 1"):
        overlap(upload_of(0, 5, 1.0), upload_of(1, 5, 1.0), agreement)


def test_a_payload_does_not_overlap_with_its_own_miner() -> None:
    with pytest.raises(ValueError, match="got uid 1 twice"):
        overlap(upload_of(1, 5, 1.0), upload_of(1, 4, 1.0))


def test_an_upload_has_a_time_and_a_hash() -> None:
    with pytest.raises(ValueError, match="uploaded_at must be finite"):
        upload_of(1, 5, math.nan)
    with pytest.raises(ValueError, match="sha256 must have 64 digits, got 2"):
        Upload(uid=Uid(1), window=Window(5), uploaded_at=0.0, sha256="ab")
