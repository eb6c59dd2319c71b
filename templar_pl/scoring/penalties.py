"""Who is penalised in a window, why, and with what evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from templar_pl.config import PeersConfig, ScoringConfig
from templar_pl.errors import Fault
from templar_pl.scoring.copies import find_copies
from templar_pl.scoring.miner import MinerState
from templar_pl.scoring.records import JsonMap, Presence, SyncObservation, WindowRecords
from templar_pl.units import Uid, Window


class Reason(StrEnum):
    """Why a score is cut, as a word that can be counted."""

    MISSING = "missing"
    """No payload of this window counts."""

    INACTIVE = "inactive"
    """No payload counted for more than `recent_windows`."""

    OUT_OF_SYNC = "out_of_sync"
    """The gradient was taken at parameters `sync_max_steps_behind` or more windows old, or at unknown ones."""

    COPIED = "copied"
    """The payload is somebody else's."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """A score is cut once."""

    uid: Uid
    window: Window
    reason: Reason
    evidence: JsonMap
    """What was seen; enough to judge again from the public objects."""

    def to_json(self) -> JsonMap:
        """Return the fields."""
        return {"evidence": self.evidence, "reason": str(self.reason), "uid": self.uid, "window": self.window}


def judge_window(
    records: WindowRecords, miners: Mapping[Uid, MinerState], scoring: ScoringConfig, peers: PeersConfig
) -> list[Penalty]:
    """Return the penalties of a window, ordered by uid and reason.

    Args:
        records: what was seen.
        miners: all registered miners, with this window counted as seen or silent.
        scoring: for `sync_max_steps_behind`.
        peers: for `recent_windows` and `reset_inactivity_windows`.
    """
    penalties = [
        *(_absence(absent, miners[absent.uid], records.window, peers) for absent in _absent(records, miners, peers)),
        *(
            Penalty(sync.uid, records.window, Reason.OUT_OF_SYNC, {"steps_behind": _steps(sync)})
            for sync in records.syncs
            if sync.steps_behind is None or sync.steps_behind >= scoring.sync_max_steps_behind
        ),
        *(
            Penalty(uid, records.window, Reason.COPIED, overlap.to_json())
            for uid, overlap in find_copies(records.overlaps).items()
        ),
    ]
    return sorted(penalties, key=lambda penalty: (penalty.uid, penalty.reason))


def _absent(records: WindowRecords, miners: Mapping[Uid, MinerState], peers: PeersConfig) -> list[Presence]:
    """Return who is silent and has a score that can be cut."""
    limit = peers.reset_inactivity_windows
    silent = [seen for seen in records.presences if seen.fault not in (None, Fault.UNSEEN)]
    return [seen for seen in silent if miners[seen.uid].silent < limit]


def _absence(absent: Presence, miner: MinerState, window: Window, peers: PeersConfig) -> Penalty:
    reason = Reason.INACTIVE if miner.silent > peers.recent_windows else Reason.MISSING
    fault = absent.fault or Fault.MISSING
    return Penalty(absent.uid, window, reason, {"fault": str(fault), "silent": miner.silent})


def _steps(sync: SyncObservation) -> str:
    return "unknown" if sync.steps_behind is None else float(sync.steps_behind).hex()
