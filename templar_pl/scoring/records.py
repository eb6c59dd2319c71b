"""What a validator saw of the miners in one window: plain values that can be written down as evidence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, Union

from templar_pl.errors import Fault
from templar_pl.units import Hotkey, Uid, Window

# Unions of names that are not there yet cannot be written with a bar before Python 3.14.
JsonValue: TypeAlias = Union[int, str, "list[JsonValue]", "JsonMap"]
JsonMap: TypeAlias = "dict[str, JsonValue]"
"""What a signed document is made of; a fraction is the text of `float.hex`, which loses nothing."""

SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a registered miner published for the window."""

    uid: Uid
    hotkey: Hotkey
    """That the chain has registered for the uid in this window."""

    fault: Fault | None
    """Why its payload does not count; None if it does. UNSEEN says nothing of the miner."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The mean loss over the same batches, before and after one payload was applied alone."""

    before: float
    """Finite: it is the validator's own model."""

    after: float
    """Whatever a stranger's payload made of it, NaN and infinity included."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.before):
            raise ValueError(f"the loss before a payload is applied must be finite, got {self.before}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one miner's payload did to the loss."""

    uid: Uid
    own: Losses
    """On pages that were assigned to the miner in this window."""

    random: Losses
    """On pages that the miner could not know of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncObservation:
    """Which parameters a miner's gradient was taken at."""

    uid: Uid
    steps_behind: float | None
    """Windows since the validator's own parameters were those, 0 if they are equal; None if they never were."""

    def __post_init__(self) -> None:
        if self.steps_behind is not None and not 0 <= self.steps_behind < math.inf:
            raise ValueError(f"uid {self.uid}: steps_behind must be finite and at least 0, got {self.steps_behind}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One payload as it lies in a bucket."""

    uid: Uid
    window: Window
    uploaded_at: float
    """UTC seconds by the clock of the store, as finely as the store tells them; many tell whole seconds."""

    sha256: str
    """Of the object; 64 hexadecimal digits."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.uploaded_at):
            raise ValueError(f"uid {self.uid}: uploaded_at must be finite, got {self.uploaded_at}")
        if len(self.sha256) != SHA256_DIGITS:
            raise ValueError(f"uid {self.uid}: sha256 must have {SHA256_DIGITS} digits, got {len(self.sha256)}")

    def to_json(self) -> JsonMap:
        """Return the fields."""
        return {
            "sha256": self.sha256,
            "uid": self.uid,
            "uploaded_at": self.uploaded_at.hex(),
            "window": self.window,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How far two payloads chose the same coefficients."""

    first: Upload
    second: Upload
    agreement: float
    """Over all that was compared; 0 as by chance, 1 if all places are the same; at most 1 (`overlap.py`)."""

    def __post_init__(self) -> None:
        if self.first.uid == self.second.uid:
            raise ValueError(f"an overlap needs payloads of two miners, got uid {self.first.uid} twice")
        # NaN is refused too: it compares as false.
        if not self.agreement <= 1:
            raise ValueError(f"the agreement must be at most 1, got {self.agreement}")

    def to_json(self) -> JsonMap:
        """Return the fields, the older upload first. With both hashes anybody can compare the payloads again."""
        first, second = sorted((self.first, self.second), key=lambda up: (up.window, up.uploaded_at, up.uid))
        return {
            "agreement": float(self.agreement).hex(),
            "first": first.to_json(),
            "second": second.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRecords:
    """All that was seen of one window; the order within a tuple means nothing."""

    window: Window
    presences: tuple[Presence, ...]
    """One for each registered miner: who is not here is not registered any more, and is forgotten."""

    evaluations: tuple[Evaluation, ...] = ()
    """Of those who were chosen; their payloads count."""

    syncs: tuple[SyncObservation, ...] = ()
    """Of those whose payloads count."""

    overlaps: tuple[Overlap, ...] = ()
    """Of pairs of this window's payloads that count, or of one of them and an earlier window's."""

    def __post_init__(self) -> None:
        counted = {presence.uid for presence in self.presences if presence.fault is None}
        self._check_each_once("presence", (presence.uid for presence in self.presences))
        for what, observed in (("evaluation", self.evaluations), ("sync observation", self.syncs)):
            self._check_each_once(what, (record.uid for record in observed))
            if strangers := {record.uid for record in observed} - counted:
                raise ValueError(
                    f"window {self.window}: {what} of uids {sorted(strangers)}, whose payloads do not count"
                )
        pairs = (tuple(sorted((up.uid, up.window) for up in (o.first, o.second))) for o in self.overlaps)
        self._check_each_once("overlap", pairs)
        for overlap in self.overlaps:
            uploads = (overlap.first, overlap.second)
            is_known = [upload.window < self.window or upload.uid in counted for upload in uploads]
            windows = [upload.window for upload in uploads]
            if max(windows) != self.window or not all(is_known):
                raise ValueError(
                    f"window {self.window}: overlap of uids {[upload.uid for upload in uploads]}, windows {windows}; "
                    "one must be of this window, none later, and payloads of this window must count"
                )

    def _check_each_once(self, what: str, uids: Iterable[object]) -> None:
        if twice := [uid for uid, times in Counter(uids).items() if times > 1]:
            raise ValueError(f"window {self.window}: more than one {what} of uids {twice}")
