"""A window as it was judged -> the record that is published of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from templar_pl.config import ScoringConfig
from templar_pl.protocol import (
    UNKNOWN,
    EvaluationNote,
    MeasuredLosses,
    PenaltyNote,
    ScoredMiner,
    ScoreRecord,
)
from templar_pl.roles.sightings import Sighting
from templar_pl.scoring import Evaluation, Judgement, ScoringState, WindowRecords
from templar_pl.units import Uid


def note_losses(evaluations: Sequence[Evaluation]) -> dict[Uid, MeasuredLosses]:
    """Return what payloads did to the losses, as records say it."""
    return {
        found.uid: MeasuredLosses(
            own_before=found.own.before,
            own_after=found.own.after,
            random_before=found.random.before,
            random_after=found.random.after,
        )
        for found in evaluations
    }


def make_record(
    run: tuple[str, bytes],
    sighting: Sighting,
    records: WindowRecords,
    judgement: Judgement,
    evaluation: EvaluationNote | str,
    scoring: ScoringConfig,
) -> ScoreRecord:
    """Return the record of a window.

    Args:
        run: its name and digest.
        sighting: what was published for the window.
        records: what it was judged by.
        judgement: what followed.
        evaluation: how payloads were evaluated, or why none was.
        scoring: how scores and weights are made.
    """
    # Scoring and protocol are strangers, and so are their types of one shape: a map of texts, numbers and maps.
    penalties = tuple(PenaltyNote(cut.uid, str(cut.reason), dict(cut.evidence)) for cut in judgement.penalties)
    return ScoreRecord(
        run=run[0],
        digest=run[1],
        window=records.window,
        miners=_miners(sighting, records, judgement.state, scoring),
        penalties=penalties,
        evaluation=evaluation,
    )


def _miners(
    sighting: Sighting, records: WindowRecords, state: ScoringState, scoring: ScoringConfig
) -> dict[Uid, ScoredMiner]:
    """Return what is said of each miner that was registered."""
    scores, weights = state.scores(scoring), state.weights(scoring)
    behind: Mapping[Uid, float | str] = {
        sync.uid: UNKNOWN if sync.steps_behind is None else sync.steps_behind for sync in records.syncs
    }
    return {
        seen.uid: ScoredMiner(
            hotkey=seen.hotkey,
            fault=seen.fault,
            sha256=sighting.payloads[seen.uid].sha256 if seen.fault is None else None,
            steps_behind=behind.get(seen.uid),
            score=scores[seen.uid],
            weight=min(1.0, weights.get(seen.uid, 0.0)),
        )
        for seen in records.presences
    }
