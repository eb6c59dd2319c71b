"""What a validator saw and decided in one window, signed, with the evidence to judge it again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from templar_pl.config import MAX_PEERS
from templar_pl.errors import Fault
from templar_pl.protocol.document import JsonMap
from templar_pl.protocol.fields import DIGEST_BYTES, check_between, check_digests
from templar_pl.protocol.keys import MAX_UID, MAX_WINDOW, score_keys
from templar_pl.units import Hotkey, Uid, Window

MAX_SCORED = 1024
"""Miners of a record; no subnet of Bittensor has as many."""

MAX_WORDS = 120
"""Characters of the words with which nobody is evaluated."""

UNKNOWN = "unknown"
"""Stands for parameters that the validator never had."""

_MAX_HOTKEY = 64
_MAX_PENALTIES = 3 * MAX_SCORED  # a miner is silent, or out of sync and a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredMiner:
    """What is said of one registered miner. Raises `ValueError` for a value out of range."""

    hotkey: Hotkey
    """1..64 printable ASCII characters."""

    fault: Fault | None
    """Why its payload does not count; None if it does."""

    sha256: bytes | None
    """Of its payload, 32 bytes; None if it does not count."""

    steps_behind: float | str | None
    """Windows since the validator's parameters were those that its gradient was taken at, at least 0; UNKNOWN if they
    never were; None if that was not looked at, or the validator cannot know."""

    score: float
    """After this window; finite, at least 0."""

    weight: float
    """What it has earned, as a share of all; 0..1."""

    def __post_init__(self) -> None:
        if not (1 <= len(self.hotkey) <= _MAX_HOTKEY and self.hotkey.isascii() and self.hotkey.isprintable()):
            raise ValueError(f"hotkey must be 1..{_MAX_HOTKEY} printable ASCII characters, got {self.hotkey[:80]!r}")
        if (self.fault is None) == (self.sha256 is None):
            raise ValueError("a miner has the sha256 of a payload that counts, or a fault")
        if self.sha256 is not None and len(self.sha256) != DIGEST_BYTES:
            raise ValueError(f"sha256 must have {DIGEST_BYTES} bytes, got {len(self.sha256)}")
        behind = self.steps_behind
        if isinstance(behind, str):
            if behind != UNKNOWN:
                raise ValueError(f"steps_behind must be a number or {UNKNOWN}, got {behind[:40]!r}")
        elif behind is not None and not 0 <= behind < math.inf:
            raise ValueError(f"steps_behind must be finite and at least 0, got {behind}")
        check_between(self, score=(0, math.nextafter(math.inf, 0)), weight=(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLosses:
    """Mean losses over the same batches before and after one payload was applied alone."""

    own_before: float
    """On pages assigned to the miner; finite."""

    own_after: float
    """Any number, NaN and infinity included."""

    random_before: float
    """On random pages; finite."""

    random_after: float
    """Any number."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.own_before) and math.isfinite(self.random_before)):
            raise ValueError(f"losses before must be finite, got {self.own_before} and {self.random_before}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationNote:
    """How payloads were evaluated; with it and the public objects anybody can do it again."""

    fingerprint: bytes
    """Of the parameters that they were applied to; 32 bytes."""

    rate: float
    """By which the signs of an update were multiplied; finite, at least 0."""

    secret: bytes
    """32 bytes that all draws follow from."""

    random_pages: bytes
    """Digest of the random pages; 32 bytes."""

    losses: Mapping[Uid, MeasuredLosses]
    """Of those who were evaluated; at most MAX_PEERS."""

    def __post_init__(self) -> None:
        check_digests(self, "fingerprint", "secret", "random_pages")
        check_between(self, rate=(0, math.nextafter(math.inf, 0)))
        if len(self.losses) > MAX_PEERS:
            raise ValueError(f"at most {MAX_PEERS} are evaluated, got {len(self.losses)}")


@dataclass(frozen=True, slots=True)
class PenaltyNote:
    """Why a score was cut once."""

    uid: Uid
    reason: str
    """1..32 characters of a-z and underscore."""

    evidence: JsonMap

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z_]{1,32}", self.reason):
            raise ValueError(f"the reason of a penalty must be 1..32 of a-z and underscore, got {self.reason[:40]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecord:
    """A window as a validator judged it. Raises `ValueError` for a value out of range."""

    run: str
    """Name of the run, the first part of all its keys."""

    digest: bytes
    """Of the run's settings, as payloads carry it; 32 bytes."""

    window: Window
    """0..MAX_WINDOW."""

    miners: Mapping[Uid, ScoredMiner]
    """All that were registered; at most MAX_SCORED, uids 0..MAX_UID."""

    penalties: tuple[PenaltyNote, ...]
    """By uid and reason; of these miners."""

    evaluation: EvaluationNote | str
    """How some of them were evaluated, or why nobody was, in at most MAX_WORDS printable ASCII characters."""

    secret: bytes | None = None
    """32 bytes that all draws follow from, where nobody was evaluated; else they are in `evaluation`."""

    def __post_init__(self) -> None:
        score_keys(self.run)  # refuses a name that no key could have
        check_digests(self, "digest")
        check_between(self, window=(0, MAX_WINDOW))
        if self.secret is not None:
            check_digests(self, "secret")
            if not isinstance(self.evaluation, str):
                raise ValueError("the secret of a window with an evaluation is in that, not beside it")
        if len(self.miners) > MAX_SCORED or not all(0 <= uid <= MAX_UID for uid in self.miners):
            raise ValueError(f"a record is of at most {MAX_SCORED} uids in 0..{MAX_UID}, got {len(self.miners)}")
        if len(self.penalties) > _MAX_PENALTIES:
            raise ValueError(f"there are at most {_MAX_PENALTIES} penalties, got {len(self.penalties)}")
        words = self.evaluation
        if isinstance(words, str) and not (1 <= len(words) <= MAX_WORDS and words.isascii() and words.isprintable()):
            raise ValueError(f"words must be 1..{MAX_WORDS} printable ASCII characters, got {words[:200]!r}")
        evaluated = set() if isinstance(self.evaluation, str) else self.evaluation.losses.keys()
        if strangers := (evaluated | {penalty.uid for penalty in self.penalties}) - self.miners.keys():
            raise ValueError(f"what is said must be of miners of the record, got uids {sorted(strangers)[:8]}")
