"""What a validator says of a window, signed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import DocumentError, Fault
from templar_pl.protocol import (
    MAX_SCORE_BYTES,
    UNKNOWN,
    EvaluationNote,
    JsonMap,
    MeasuredLosses,
    PenaltyNote,
    ScoredMiner,
    ScoreRecord,
    decode_score_record,
    encode_score_record,
)
from templar_pl.protocol.score_record import MAX_SCORED
from templar_pl.units import Hotkey, Uid, Window
from tests.protocol.documents import GOLDEN, slow_document, statements
from tests.protocol.judgements import score_record, score_records, score_statement, slow_score_record
from tests.protocol.samples import HashSigner, verify_hash

SIGNER = HashSigner()


def refusal(data: bytes) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        decode_score_record(data, verify_hash)
    assert len(str(caught.value)) < 500
    return caught.value


@given(score_records())
def test_a_record_has_the_bytes_of_the_slow_reference(wanted: ScoreRecord) -> None:
    assert encode_score_record(wanted, SIGNER) == slow_score_record(wanted)


@given(score_records())
def test_decoding_undoes_encoding_and_tells_who_signed(wanted: ScoreRecord) -> None:
    assert decode_score_record(encode_score_record(wanted, SIGNER), verify_hash) == (SIGNER.public_key, wanted)


def test_the_golden_record_is_read_and_written_as_ever() -> None:
    golden = (GOLDEN / "score_record_v1.json").read_bytes()

    assert encode_score_record(score_record(), SIGNER) == golden
    assert decode_score_record(golden, verify_hash)[1] == score_record()


def test_a_loss_that_is_no_number_travels_as_such() -> None:
    broken = MeasuredLosses(own_before=1.0, own_after=math.nan, random_before=1.0, random_after=-math.inf)
    note = score_record().evaluation
    assert isinstance(note, EvaluationNote)
    sent = encode_score_record(score_record(evaluation=replace(note, losses={Uid(3): broken})), SIGNER)

    read = decode_score_record(sent, verify_hash)[1].evaluation

    assert isinstance(read, EvaluationNote)
    assert math.isnan(read.losses[Uid(3)].own_after)
    assert read.losses[Uid(3)].random_after == -math.inf


def longest_record() -> ScoreRecord:
    """Return one in which everybody is out of sync and a copy, and as many as can be are evaluated."""
    uids = [Uid(uid) for uid in range(2**32 - MAX_SCORED, 2**32)]
    number, digits = math.nextafter(1.0, 0), "0" * 64
    miner = ScoredMiner(
        hotkey=Hotkey("5" * 64), fault=None, sha256=bytes(32), steps_behind=number, score=5e-324, weight=number
    )
    upload: JsonMap = {"sha256": digits, "uid": 2**32 - 1, "uploaded_at": (1.7e9 + 1 / 3).hex(), "window": 10**9 - 1}
    overlap: JsonMap = {"agreement": (-number).hex(), "first": upload, "parameters": {}, "second": upload}
    reasons: dict[str, JsonMap] = {"copied": overlap, "out_of_sync": {"steps_behind": number.hex()}}
    loss = MeasuredLosses(own_before=-number, own_after=-number, random_before=-number, random_after=-number)
    note = score_record().evaluation
    assert isinstance(note, EvaluationNote)
    return score_record(
        run="r" * 64,
        window=Window(10**9 - 1),
        miners=dict.fromkeys(uids, miner),
        penalties=tuple(PenaltyNote(uid, reason, evidence) for uid in uids for reason, evidence in reasons.items()),
        evaluation=replace(note, losses=dict.fromkeys(uids[:512], loss)),
    )


def test_the_longest_record_is_within_the_limit() -> None:
    data = encode_score_record(longest_record(), SIGNER)

    assert len(data) < MAX_SCORE_BYTES * 3 // 4
    assert decode_score_record(data, verify_hash)[1] == longest_record()


def test_a_record_beyond_the_limit_is_not_written() -> None:
    evidence: JsonMap = {f"e{number}": "x" * 1000 for number in range(1100)}
    penalties = tuple(PenaltyNote(Uid(3), "missing", evidence) for _ in range(2))

    with pytest.raises(ValueError, match="at most 2097152 bytes"):
        encode_score_record(score_record(penalties=penalties), SIGNER)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert refusal(data).fault is Fault.FORMAT


@given(statements)
def test_any_other_statement_is_refused(statement: JsonMap) -> None:
    assert refusal(slow_document("scores", statement, SIGNER)).fault is Fault.CONTENT


def test_too_many_bytes_are_refused() -> None:
    assert refusal(bytes(MAX_SCORE_BYTES + 1)).fault is Fault.SIZE


def test_a_document_of_another_kind_is_refused() -> None:
    assert refusal(slow_document("manifest", score_statement(score_record()), SIGNER)).fault is Fault.FORMAT


def miner(**changes: object) -> dict[str, object]:
    said = {"hotkey": "5Hot", "score": (1.0).hex(), "weight": (0.5).hex(), "sha256": "00" * 32} | changes
    return {"miners": {"3": {name: value for name, value in said.items() if value != ""}}, "penalties": []}


def note(**changes: object) -> dict[str, object]:
    evaluation = score_statement(score_record())["evaluation"]
    assert isinstance(evaluation, dict)
    return {"evaluation": evaluation | changes}


def losses(**changes: object) -> dict[str, object]:
    said = dict.fromkeys(("own_before", "own_after", "random_before", "random_after"), (1.0).hex())
    return note(losses={"3": said | changes})


NOTED = {"uid": 3, "reason": "missing", "evidence": {}}
WRONG_FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "a name of a run no key can have": ({"run": "My run"}, "a run name has"),
    "a digest too short": ({"digest": "00"}, "digest must be 64 of 0-9 and a-f"),
    "a window without a key": ({"window": 10**9}, r"window must be in 0\.\.999999999"),
    "a window as a text": ({"window": "1"}, "window must be a whole number, got a str"),
    "a field more": ({"more": 1}, "missing or not known: more"),
    "miners as a list": ({"miners": []}, "miners must be a map, got a list"),
    "a miner that is a text": ({"miners": {"3": "x"}}, "miners must be maps by uid, got '3'"),
    "a uid with a leading zero": ({"miners": {"03": {}}}, "miners must be maps by uid, got '03'"),
    "a uid too large": ({"miners": {str(2**32): miner()["miners"]["3"]}}, "at most 1024 uids in"),  # type: ignore[index]
    "a miner without a score": (miner(score=""), "missing or not known: score"),
    "a miner with neither hash nor fault": (miner(sha256=""), "sha256 of a payload that counts, or a fault"),
    "a miner with both": (miner(fault="late"), "sha256 of a payload that counts, or a fault"),
    "a fault that is not known": (miner(fault="ugly"), "'ugly' is not a valid Fault"),
    "a hotkey with a line": (miner(hotkey="a\nb"), "hotkey must be 1..64 printable"),
    "no hotkey": (miner(hotkey=0), "hotkey must be a text"),
    "a negative score": (miner(score=(-1.0).hex()), r"score must be in 0\.\."),
    "a score without end": (miner(score="inf"), "score must be a number as float.hex"),
    "a weight above 1": (miner(weight=(1.5).hex()), r"weight must be in 0\.\.1, got 1.5"),
    "negative steps": (miner(steps_behind=(-1.0).hex()), "steps_behind must be finite and at least 0"),
    "steps in words": (miner(steps_behind="far"), "steps_behind must be a number as float.hex"),
    "penalties as a map": ({"penalties": {}}, "penalties must be a list, got a dict"),
    "a penalty that is a text": ({"penalties": ["x"]}, "a penalty must be a map, got a str"),
    "a penalty without a reason": ({"penalties": [{"uid": 3, "evidence": {}}]}, "missing or not known: reason"),
    "a reason in capitals": ({"penalties": [NOTED | {"reason": "Bad"}]}, "reason of a penalty must be"),
    "evidence as a text": ({"penalties": [NOTED | {"evidence": "x"}]}, "evidence must be a map, got a str"),
    "a penalty of a stranger": ({"penalties": [NOTED | {"uid": 9}]}, r"of miners of the record, got uids \[9\]"),
    "penalties without end": ({"penalties": [NOTED] * 3073}, "at most 3072 penalties, got 3073"),
    "two secrets": ({"secret": "00" * 32}, "the secret of a window with an evaluation is in that"),
    "a secret of nothing": ({"evaluation": "late", "secret": ""}, "secret must be 64 of 0-9 and a-f"),
    "no evaluation and no words": ({"evaluation": ""}, "words must be 1..120 printable"),
    "an evaluation as a list": ({"evaluation": []}, "evaluation must be a map, got a list"),
    "a secret too short": (note(secret="00"), "secret must be 64 of 0-9 and a-f"),  # noqa: S106 - a public one
    "a negative rate": (note(rate=(-1.0).hex()), r"rate must be in 0\.\."),
    "losses of a stranger": (note(losses={"9": losses()["evaluation"]["losses"]["3"]}), "of miners of the record"),  # type: ignore[index]
    "a loss before that is no number": (losses(own_before="nan"), "own_before must be a number as float.hex"),
    "a loss after in another spelling": (losses(own_after="NaN"), "own_after must be a number as float.hex"),
    "losses without one": (note(losses={"3": {}}), "missing or not known: own_after"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_under_a_good_signature_is_refused_with_its_reason(name: str) -> None:
    changes, reason = WRONG_FIELDS[name]
    data = slow_document("scores", score_statement(score_record()) | changes, SIGNER)

    with pytest.raises(DocumentError, match=reason) as caught:
        decode_score_record(data, verify_hash)

    assert caught.value.fault is Fault.CONTENT


def test_a_state_that_was_never_there_is_told_from_one_that_nobody_looked_for() -> None:
    found = score_record(
        miners={Uid(uid): replace(score_record().miners[Uid(3)], steps_behind=behind)
                for uid, behind in [(3, None), (4, UNKNOWN), (20, 0.0)]}
    )  # fmt: skip

    read = decode_score_record(encode_score_record(found, SIGNER), verify_hash)[1]

    assert [read.miners[Uid(uid)].steps_behind for uid in (3, 4, 20)] == [None, "unknown", 0.0]


def test_too_many_miners_are_refused() -> None:
    one = score_record().miners[Uid(3)]

    with pytest.raises(ValueError, match="at most 1024 uids"):
        score_record(miners={Uid(uid): one for uid in range(MAX_SCORED + 1)}, penalties=(), evaluation="none")
