"""An audit says who was left out without a word and which payload landed at another time, and accuses nobody of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from templar_pl.errors import Fault
from templar_pl.exchange.judgements import publish_peer_list
from templar_pl.protocol import Exclusion, Peer, PeerListFile, peers_key
from templar_pl.protocol.selection import select_peers
from templar_pl.roles.audit_findings import Check, Finding, Verdict, first_fault, summary
from templar_pl.training.run_view import RunView
from templar_pl.units import Uid, Window
from tests.roles.audit_runs import COMPRESSION, DELTA_S, LEFT_OUT, RUN, SENDERS, START, Member, Miner, World

TARGET = START + 6  # all three miners sent
SILENT = START + 5  # uid 2 sent nothing
VALIDATOR = Uid(9)


def dated(path: Path, at: float) -> None:
    os.utime(path, (at, at))


def found(world: World, window: int, check: Check, **options: object) -> Finding:
    """Return what is found of a window that nobody else is accused for."""
    audited = world.audit(window, window, **options)  # type: ignore[arg-type]  # as `audit` has them
    assert first_fault(audited) is None, summary(audited)
    return next(a for a in audited if a.window == window).findings[check]


# When it landed.


@pytest.mark.parametrize(
    ("offset_s", "words"),
    [
        (-1.5, "s before uploads were accepted"),
        (0.0, ""),
        (DELTA_S / 2, ""),
        (DELTA_S, ""),
        (DELTA_S + 0.5, "uid 1 is listed, and what is there was written 0.500 s after uploads were accepted"),
        (3600.0, "3590.000 s after"),
    ],
)
def test_a_listed_payload_that_landed_when_uploads_were_not_open_is_named(
    world: World, offset_s: float, words: str
) -> None:
    dated(world.payload(TARGET, 1), world.manifest(TARGET).opened_at + offset_s)

    finding = found(world, TARGET, Check.IN_TIME)

    assert finding.verdict == (Verdict.DOUBT if words else Verdict.AGREES)
    assert words in finding.words


@pytest.mark.parametrize("more_s", [-1.0, 60.0])
def test_an_aggregator_that_says_other_times_than_the_run_has_does_not_agree(world: World, more_s: float) -> None:
    manifest = world.manifest(TARGET)
    world.lie(TARGET, closed_at=manifest.closed_at + more_s)

    fault = first_fault(world.audit(TARGET, TARGET))

    assert fault is not None
    assert fault.findings[Check.MANIFEST].verdict == Verdict.DIFFERS
    assert f"must be for {DELTA_S:g} s" in fault.findings[Check.MANIFEST].words


@pytest.mark.parametrize("late_s", [-2.0, 0.0, 30.0])
def test_an_aggregator_that_moves_the_times_of_a_window_does_not_agree_where_the_chain_tells_them(
    world: World, late_s: float
) -> None:
    ends = {w: world.manifest(w).opened_at for w in range(START, START + 12)}
    world.lie(TARGET, opened_at=ends[TARGET] + late_s, closed_at=ends[TARGET] + late_s + DELTA_S)

    fault = first_fault(world.audit(TARGET, TARGET, view=replace(world.view(), ends_at=ends.get)))

    if late_s:
        assert fault is not None
        words = f"its uploads began {late_s:.3f} s after its end by the clock of the chain"
        assert words in fault.findings[Check.MANIFEST].words
    else:
        assert fault is None


def test_when_deleted_payloads_landed_cannot_be_checked(world: World) -> None:
    for uid in (0, 2):
        world.payload(TARGET, uid).unlink()

    finding = found(world, TARGET, Check.IN_TIME, keep_windows=3)

    assert finding == Finding(Verdict.UNCHECKED, "when the payload(s) of uid 0, 2 landed cannot be told any more")
    assert summary(world.audit(keep_windows=3)).endswith("; in 1 of them something could not be checked")


# Who is not named.


def send(world: World, uid: int, window: int, *, after_s: float = 1.0) -> None:
    """Put a valid payload, so long after uploads were opened."""
    signer = world.miner(uid)
    Miner(Member(Uid(uid), signer, world.bucket(signer)), world.replica(), RUN, COMPRESSION).send(Window(window))
    dated(world.payload(window, uid), world.manifest(window).opened_at + after_s)


def unnamed(world: World, *, after_s: float = 1.0) -> World:
    """Have uid 2 send a payload that the manifest neither lists nor leaves out."""
    world.lie(SILENT, left_out={})
    send(world, LEFT_OUT, SILENT, after_s=after_s)
    return world


def with_validator(world: World, uids: tuple[int, ...] | None, effective_from: int = START) -> RunView:
    """Return the run as somebody sees it who names a validator, which publishes a list."""
    signer = world.key("validator")
    peer = Peer(VALIDATOR, signer.hotkey, signer.public_key, signer.hotkey)
    if uids is not None:
        listed = PeerListFile(
            run=RUN,
            window=Window(START),
            effective_from=Window(effective_from),
            uids=tuple(Uid(uid) for uid in uids),
        )
        publish_peer_list(world.bucket(signer), listed, signer)
    return replace(world.view({**world.peers(), VALIDATOR: peer}), validator=peer)


def test_who_is_left_out_without_a_word_is_named(world: World) -> None:
    finding = found(unnamed(world), SILENT, Check.NOT_NAMED)

    assert finding == Finding(Verdict.DOUBT, "uid 2 is not named, but a valid payload is there that landed in time")
    assert summary(world.audit()).endswith("; in 1 of them something is odd")


def test_who_is_left_out_without_a_word_is_named_though_strangers_take_the_places(world: World) -> None:
    strangers = [Uid(uid) for uid in range(100, 200)]
    luckier = [uid for uid in strangers if LEFT_OUT not in select_peers([LEFT_OUT, uid], 1, Window(SILENT))]
    world.lie(SILENT, left_out=dict.fromkeys(luckier[:3], Exclusion(Fault.MISSING, "there is no object")))
    send(world, LEFT_OUT, SILENT)

    assert found(world, SILENT, Check.NOT_NAMED, max_peers=3).verdict == Verdict.DOUBT


def is_silent(world: World) -> World:
    world.lie(SILENT, left_out={})
    return world


def is_late(world: World) -> World:
    return unnamed(world, after_s=DELTA_S + 1)


def is_early(world: World) -> World:
    return unnamed(world, after_s=-2)


def is_invalid(world: World) -> World:
    path = unnamed(world).payload(SILENT, LEFT_OUT)
    at = path.stat().st_mtime
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    dated(path, at)
    return world


@pytest.mark.parametrize("make", [is_silent, is_late, is_early, is_invalid])
def test_who_sent_nothing_that_counts_need_not_be_named(world: World, make: Callable[[World], World]) -> None:
    assert found(make(world), SILENT, Check.NOT_NAMED) == Finding(Verdict.AGREES)


def test_who_was_no_candidate_yet_need_not_be_named(world: World) -> None:
    def candidates(window: Window) -> Mapping[Uid, Peer]:
        return {uid: world.peers()[uid] for uid in SENDERS if uid != LEFT_OUT or window > SILENT}

    view = replace(unnamed(world).view(), candidates=candidates)

    assert found(world, SILENT, Check.NOT_NAMED, view=view) == Finding(Verdict.AGREES)


@pytest.mark.parametrize("max_peers", [2, 3])
def test_who_was_not_drawn_need_not_be_named(world: World, max_peers: int) -> None:
    window = next(w for w in range(START, START + 12) if LEFT_OUT not in select_peers(SENDERS, 2, Window(w)))
    listed = {uid: sha256 for uid, sha256 in world.manifest(window).payloads.items() if uid != LEFT_OUT}
    world.lie(window, payloads=listed, left_out={})
    if not world.payload(window, LEFT_OUT).exists():
        send(world, LEFT_OUT, window)

    audited = world.audit(window, window, max_peers=max_peers)

    finding = next(a for a in audited if a.window == window).findings[Check.NOT_NAMED]
    assert finding.verdict == (Verdict.AGREES if max_peers == 2 else Verdict.DOUBT)


@pytest.mark.parametrize(
    ("uids", "effective_from", "verdict"),
    [
        (None, START, Verdict.DOUBT),
        ((), START, Verdict.DOUBT),
        ((0, 1, 2), SILENT, Verdict.DOUBT),
        ((0, 1), SILENT, Verdict.AGREES),
        ((0, 1), SILENT + 1, Verdict.UNCHECKED),
        ((0, 1, 2), SILENT + 1, Verdict.UNCHECKED),
    ],
)
def test_the_list_of_a_validator_says_who_need_not_be_named(
    world: World, uids: tuple[int, ...] | None, effective_from: int, verdict: Verdict
) -> None:
    view = with_validator(unnamed(world), uids, effective_from)

    assert found(world, SILENT, Check.NOT_NAMED, view=view).verdict == verdict


def test_a_list_of_a_validator_that_is_not_named_cannot_be_judged_by(world: World) -> None:
    view = replace(with_validator(unnamed(world), (0, 1)), validator=None)

    finding = found(world, SILENT, Check.NOT_NAMED, view=view)

    assert finding.verdict == Verdict.UNCHECKED
    assert "a list of peers is published by uid 9: name a validator by --follow.validator" in finding.words


def test_a_list_that_cannot_be_read_cannot_be_judged_by(world: World) -> None:
    view = with_validator(unnamed(world), (0, 1))
    world.path(world.key("validator"), peers_key(RUN)).write_bytes(b"{}")

    finding = found(world, SILENT, Check.NOT_NAMED, view=view)

    assert finding.verdict == Verdict.UNCHECKED
    assert "the list of peers of uid 9 cannot be read" in finding.words


def test_a_list_that_cannot_be_read_cannot_be_judged_by_where_no_validator_is_named(world: World) -> None:
    view = replace(with_validator(unnamed(world), (0, 1)), validator=None)
    world.path(world.key("validator"), peers_key(RUN)).write_bytes(b"{}")

    finding = found(world, SILENT, Check.NOT_NAMED, view=view)

    assert finding.verdict == Verdict.UNCHECKED
    assert "the list of peers of uid 9 cannot be read" in finding.words
    assert "name a validator by --follow.validator" in finding.words


def test_who_is_not_named_and_may_have_deleted_what_it_sent_cannot_be_checked(world: World) -> None:
    world.lie(SILENT, left_out={})

    finding = found(world, SILENT, Check.NOT_NAMED, keep_windows=3)

    assert finding == Finding(
        Verdict.UNCHECKED, "uid 2 is not named, and what it sent, if anything, is not kept any more"
    )


def test_who_is_not_named_and_cannot_be_reached_cannot_be_checked(world: World) -> None:
    away = {LEFT_OUT: replace(world.peers()[LEFT_OUT], address="no/bucket")}
    view = replace(unnamed(world).view(), candidates=lambda _: away)

    assert found(world, SILENT, Check.NOT_NAMED, view=view).verdict == Verdict.UNCHECKED
