"""A validator's record of a window <-> a signed document."""

from __future__ import annotations

from templar_pl.protocol.document import JsonValue
from templar_pl.protocol.fields import read_map, read_number
from templar_pl.protocol.form import (
    ANY_NUMBER,
    DIGEST,
    FAULT,
    MAP,
    NUMBER,
    TEXT,
    WHOLE,
    Field,
    Form,
    Record,
    by_uid,
    list_of,
    nested,
)
from templar_pl.protocol.score_record import (
    UNKNOWN,
    EvaluationNote,
    MeasuredLosses,
    PenaltyNote,
    ScoredMiner,
    ScoreRecord,
)
from templar_pl.protocol.signing import Signer, Verify

MAX_SCORE_BYTES = 2**21
"""A miner takes some 200 bytes, 1000 with all its penalties and losses; a record has 1024 at most."""


def encode_score_record(record: ScoreRecord, signer: Signer) -> bytes:
    """Write and sign a record. Raises `ValueError` as `Form.encode`; evidence may take it beyond MAX_SCORE_BYTES."""
    return _FORM.encode(record, signer)


def decode_score_record(data: bytes, verify: Verify) -> tuple[bytes, ScoreRecord]:
    """Read and check a record; arguments, result and errors as of `Form.decode`."""
    return _FORM.decode(data, verify)


def _write_steps(steps: float | str) -> str:
    return steps if isinstance(steps, str) else float(steps).hex()


def _read_steps(value: JsonValue, name: str) -> float | str:
    return UNKNOWN if value == UNKNOWN else read_number(value, name)


def _write_evaluation(evaluation: EvaluationNote | str) -> JsonValue:
    return evaluation if isinstance(evaluation, str) else _EVALUATION.write(evaluation)


def _read_evaluation(value: JsonValue, name: str) -> EvaluationNote | str:
    return value if isinstance(value, str) else _EVALUATION.read(read_map(value, name))


_MINER = Record(
    ScoredMiner,
    {"hotkey": TEXT, "score": NUMBER, "weight": NUMBER},
    {"fault": FAULT, "sha256": DIGEST, "steps_behind": Field(_write_steps, _read_steps)},
)
_LOSSES = Record(
    MeasuredLosses,
    {"own_before": NUMBER, "own_after": ANY_NUMBER, "random_before": NUMBER, "random_after": ANY_NUMBER},
)
_EVALUATION = Record(
    EvaluationNote,
    {"fingerprint": DIGEST, "rate": NUMBER, "secret": DIGEST, "random_pages": DIGEST, "losses": by_uid(_LOSSES)},
)
_PENALTY = Record(PenaltyNote, {"uid": WHOLE, "reason": TEXT, "evidence": MAP})
_FORM = Form(
    kind="scores",
    what="record of scores",
    max_bytes=MAX_SCORE_BYTES,
    record=Record(
        ScoreRecord,
        {
            "run": TEXT,
            "digest": DIGEST,
            "window": WHOLE,
            "miners": by_uid(_MINER),
            "penalties": list_of(nested(_PENALTY), "a penalty"),
            "evaluation": Field(_write_evaluation, _read_evaluation),
        },
        optional={"secret": DIGEST},
    ),
)
