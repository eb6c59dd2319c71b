"""A validator's record of a window <-> a signed document."""

from __future__ import annotations

import re

from templar_pl.errors import Fault
from templar_pl.protocol.document import JsonMap, open_document, sign_document
from templar_pl.protocol.fields import check_names, digest_of, number_of, text_of, whole_of
from templar_pl.protocol.score_record import (
    UNKNOWN,
    EvaluationNote,
    MeasuredLosses,
    PenaltyNote,
    ScoredMiner,
    ScoreRecord,
)
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Hotkey, Uid, Window

MAX_SCORE_BYTES = 2**21
"""A miner takes some 200 bytes, 1000 with all its penalties and losses; a record has 1024 at most."""

_KIND = "scores"
_UID = re.compile(r"0|[1-9][0-9]{0,9}")
_FIELDS = {"run", "digest", "window", "miners", "penalties", "evaluation"}
_LOSSES = ("own_before", "own_after", "random_before", "random_after")


def encode_score_record(record: ScoreRecord, signer: Signer) -> bytes:
    """Write and sign a record.

    Raises:
        ValueError: its evidence takes it beyond MAX_SCORE_BYTES bytes, or holds what no statement is made of.
    """
    miners: JsonMap = {str(uid): _miner_to_json(miner) for uid, miner in record.miners.items()}
    evaluation = record.evaluation
    statement: JsonMap = {
        "run": record.run,
        "digest": record.digest.hex(),
        "window": record.window,
        "miners": miners,
        "penalties": [
            {"uid": penalty.uid, "reason": penalty.reason, "evidence": penalty.evidence} for penalty in record.penalties
        ],
        "evaluation": evaluation if isinstance(evaluation, str) else _evaluation_to_json(evaluation),
    }
    data = sign_document(_KIND, statement, signer)
    if len(data) > MAX_SCORE_BYTES:
        raise ValueError(f"a record has at most {MAX_SCORE_BYTES} bytes, got {len(data)}")
    return data


def decode_score_record(data: bytes, verify: Verify) -> tuple[bytes, ScoreRecord]:
    """Read and check a record.

    Args:
        data: bytes of any content and length.
        verify: checks a signature.

    Returns:
        The public key of whoever signed it, which may be anybody, and what it says.

    Raises:
        DocumentError: the bytes are no such record, or the signature is not good. The fault is SIZE, FORMAT, SIGNATURE
            or CONTENT.
    """
    return open_document(_KIND, data, verify, max_bytes=MAX_SCORE_BYTES).read(_read_record, "record of scores")


def _miner_to_json(miner: ScoredMiner) -> JsonMap:
    fields: JsonMap = {
        "hotkey": miner.hotkey,
        "score": float(miner.score).hex(),
        "weight": float(miner.weight).hex(),
    }
    if miner.fault is not None:
        fields["fault"] = miner.fault.value
    if miner.sha256 is not None:
        fields["sha256"] = miner.sha256.hex()
    if miner.steps_behind is not None:
        behind = miner.steps_behind
        fields["steps_behind"] = behind if isinstance(behind, str) else float(behind).hex()
    return fields


def _evaluation_to_json(evaluation: EvaluationNote) -> JsonMap:
    losses: JsonMap = {
        str(uid): {name: float(getattr(measured, name)).hex() for name in _LOSSES}
        for uid, measured in evaluation.losses.items()
    }
    return {
        "fingerprint": evaluation.fingerprint.hex(),
        "rate": float(evaluation.rate).hex(),
        "secret": evaluation.secret.hex(),
        "random_pages": evaluation.random_pages.hex(),
        "losses": losses,
    }


def _read_record(statement: JsonMap) -> ScoreRecord:
    """Return what a statement says. Raises `ValueError` if it is no record."""
    check_names(statement, _FIELDS)
    penalties = statement["penalties"]
    if not isinstance(penalties, list):
        raise ValueError(f"penalties must be a list, got a {type(penalties).__name__}")
    evaluation = statement["evaluation"]
    return ScoreRecord(
        run=text_of(statement, "run"),
        digest=digest_of(statement, "digest"),
        window=Window(whole_of(statement, "window")),
        miners={uid: _read_miner(fields) for uid, fields in _by_uid(statement, "miners").items()},
        penalties=tuple(_read_penalty(penalty) for penalty in penalties),
        evaluation=evaluation if isinstance(evaluation, str) else _read_evaluation(_map_of(statement, "evaluation")),
    )


def _read_miner(fields: JsonMap) -> ScoredMiner:
    check_names(fields, {"hotkey", "score", "weight", *(fields.keys() & {"fault", "sha256", "steps_behind"})})
    behind: float | str | None = None
    if "steps_behind" in fields:
        behind = UNKNOWN if fields["steps_behind"] == UNKNOWN else number_of(fields, "steps_behind")
    return ScoredMiner(
        hotkey=Hotkey(text_of(fields, "hotkey")),
        fault=Fault(text_of(fields, "fault")) if "fault" in fields else None,
        sha256=digest_of(fields, "sha256") if "sha256" in fields else None,
        steps_behind=behind,
        score=number_of(fields, "score"),
        weight=number_of(fields, "weight"),
    )


def _read_evaluation(fields: JsonMap) -> EvaluationNote:
    check_names(fields, {"fingerprint", "rate", "secret", "random_pages", "losses"})
    return EvaluationNote(
        fingerprint=digest_of(fields, "fingerprint"),
        rate=number_of(fields, "rate"),
        secret=digest_of(fields, "secret"),
        random_pages=digest_of(fields, "random_pages"),
        losses={uid: _read_losses(losses) for uid, losses in _by_uid(fields, "losses").items()},
    )


def _read_losses(fields: JsonMap) -> MeasuredLosses:
    check_names(fields, set(_LOSSES))
    return MeasuredLosses(
        own_before=number_of(fields, "own_before"),
        own_after=_any_number_of(fields, "own_after"),
        random_before=number_of(fields, "random_before"),
        random_after=_any_number_of(fields, "random_after"),
    )


def _read_penalty(penalty: object) -> PenaltyNote:
    if not isinstance(penalty, dict):
        raise ValueError(f"a penalty must be a map, got a {type(penalty).__name__}")
    check_names(penalty, {"uid", "reason", "evidence"})
    return PenaltyNote(Uid(whole_of(penalty, "uid")), text_of(penalty, "reason"), _map_of(penalty, "evidence"))


def _by_uid(fields: JsonMap, name: str) -> dict[Uid, JsonMap]:
    """Return a map of maps by uid, in uid order."""
    found: dict[Uid, JsonMap] = {}
    for text, value in _map_of(fields, name).items():
        if not _UID.fullmatch(text) or not isinstance(value, dict):
            raise ValueError(f"{name} must be maps by uid, got {text[:40]!r}")
        found[Uid(int(text))] = value
    return dict(sorted(found.items()))


def _map_of(fields: JsonMap, name: str) -> JsonMap:
    value = fields[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a map, got a {type(value).__name__}")
    return value


def _any_number_of(fields: JsonMap, name: str) -> float:
    """Return the number that a text says in the form of `float.hex`: finite, or nan, inf or -inf."""
    text = text_of(fields, name)
    return float(text) if text in ("nan", "inf", "-inf") else number_of(fields, name)
