"""Records of validators to test with, and slow references for their bytes."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from templar_pl.errors import Fault
from templar_pl.protocol import (
    UNKNOWN,
    EvaluationNote,
    HeldList,
    JsonMap,
    MeasuredLosses,
    PeerListFile,
    PenaltyNote,
    ScoredMiner,
    ScoreRecord,
)
from templar_pl.units import Hotkey, Uid, Window
from tests.protocol.documents import digests, slow_document, statements
from tests.protocol.samples import RUN, HashSigner

runs = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
windows = st.integers(0, 10**9 - 1).map(Window)
uids = st.integers(0, 2**32 - 1).map(Uid)
finite = st.floats(allow_nan=False, allow_infinity=False)
at_least_0 = st.floats(0, allow_infinity=False)
# NaN is left out: it is not equal to itself; a test of its own has it.
losses = st.builds(
    MeasuredLosses,
    own_before=finite,
    own_after=st.floats(allow_nan=False),
    random_before=finite,
    random_after=st.floats(allow_nan=False),
)


@st.composite
def scored_miners(draw: st.DrawFn) -> ScoredMiner:
    fault = draw(st.none() | st.sampled_from(Fault))
    return ScoredMiner(
        hotkey=Hotkey(draw(st.from_regex(r"[ -~]{1,64}", fullmatch=True))),
        fault=fault,
        sha256=draw(digests) if fault is None else None,
        steps_behind=draw(st.none() | st.just(UNKNOWN) | at_least_0),
        score=draw(at_least_0),
        weight=draw(st.floats(0, 1)),
    )


@st.composite
def score_records(draw: st.DrawFn) -> ScoreRecord:
    miners = draw(st.dictionaries(uids, scored_miners(), min_size=1, max_size=4))
    some = st.sampled_from(sorted(miners))
    note = st.builds(
        EvaluationNote,
        fingerprint=digests,
        rate=at_least_0,
        secret=digests,
        random_pages=digests,
        losses=st.dictionaries(some, losses, max_size=3),
    )
    reasons = st.from_regex("[a-z_]{1,32}", fullmatch=True)
    evaluation = draw(note | st.from_regex(r"[ -~]{1,120}", fullmatch=True))
    return ScoreRecord(
        run=draw(runs),
        digest=draw(digests),
        window=draw(windows),
        miners=miners,
        penalties=tuple(draw(st.lists(st.builds(PenaltyNote, some, reasons, statements), max_size=3))),
        evaluation=evaluation,
        secret=draw(st.none() | digests) if isinstance(evaluation, str) else None,
    )


def score_record(**changes: object) -> ScoreRecord:
    miner = ScoredMiner(hotkey=Hotkey("5Hot"), fault=None, sha256=b"p" * 32, steps_behind=1.0, score=3.5, weight=0.25)
    absent = ScoredMiner(
        hotkey=Hotkey("5Cold"), fault=Fault.LATE, sha256=None, steps_behind=None, score=0.0, weight=0.0
    )
    note = EvaluationNote(
        fingerprint=b"f" * 32,
        rate=0.5,
        secret=b"s" * 32,
        random_pages=b"r" * 32,
        losses={Uid(3): MeasuredLosses(own_before=2.5, own_after=2.25, random_before=3.0, random_after=math.inf)},
    )
    values = {
        "run": "my-run",
        "digest": RUN,
        "window": Window(42),
        "miners": {Uid(3): miner, Uid(20): absent},
        "penalties": (PenaltyNote(Uid(20), "missing", {"fault": "late", "silent": 1}),),
        "evaluation": note,
    }
    return ScoreRecord(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


def score_statement(record: ScoreRecord) -> JsonMap:
    miners: JsonMap = {}
    for uid, miner in record.miners.items():
        said: JsonMap = {"hotkey": miner.hotkey, "score": miner.score.hex(), "weight": miner.weight.hex()}
        if miner.fault:
            said["fault"] = str(miner.fault)
        if miner.sha256:
            said["sha256"] = miner.sha256.hex()
        if miner.steps_behind == UNKNOWN:
            said["steps_behind"] = "unknown"
        elif isinstance(miner.steps_behind, float):
            said["steps_behind"] = miner.steps_behind.hex()
        miners["%d" % uid] = said  # noqa: UP031 - another way than the code's
    return ({} if record.secret is None else {"secret": record.secret.hex()}) | {
        "digest": record.digest.hex(),
        "evaluation": evaluation_statement(record.evaluation),
        "miners": miners,
        "penalties": [{"evidence": p.evidence, "reason": p.reason, "uid": p.uid} for p in record.penalties],
        "run": record.run,
        "window": record.window,
    }


def evaluation_statement(note: EvaluationNote | str) -> str | JsonMap:
    if isinstance(note, str):
        return note
    measured: JsonMap = {
        "%d" % uid: {  # noqa: UP031
            "own_before": loss.own_before.hex(),
            "own_after": loss.own_after.hex(),
            "random_before": loss.random_before.hex(),
            "random_after": loss.random_after.hex(),
        }
        for uid, loss in note.losses.items()
    }
    return {
        "fingerprint": note.fingerprint.hex(),
        "losses": measured,
        "random_pages": note.random_pages.hex(),
        "rate": note.rate.hex(),
        "secret": note.secret.hex(),
    }


def slow_score_record(record: ScoreRecord) -> bytes:
    return slow_document("scores", score_statement(record), HashSigner())


ascending_uids = st.sets(uids, max_size=8).map(lambda chosen: tuple(sorted(chosen)))


@st.composite
def _peer_lists(draw: st.DrawFn) -> PeerListFile:
    starts = sorted(draw(st.sets(windows, min_size=1, max_size=6)))
    earlier = tuple(HeldList(start, draw(ascending_uids)) for start in starts[:-1])
    return PeerListFile(
        run=draw(runs),
        window=draw(windows),
        effective_from=starts[-1],
        uids=draw(ascending_uids),
        earlier=earlier or None,
    )


peer_lists = _peer_lists()


def peer_list(**changes: object) -> PeerListFile:
    values = {
        "run": "my-run",
        "window": Window(40),
        "effective_from": Window(42),
        "uids": (Uid(1), Uid(3), Uid(20)),
    }
    return PeerListFile(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


def peer_list_statement(wanted: PeerListFile) -> JsonMap:
    statement: JsonMap = {
        "effective_from": wanted.effective_from,
        "run": wanted.run,
        "uids": list(wanted.uids),
        "window": wanted.window,
    }
    if wanted.earlier is not None:
        statement["earlier"] = [
            {"effective_from": each.effective_from, "uids": list(each.uids)} for each in wanted.earlier
        ]
    return statement
