"""A validator's whole knowledge, window after window."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.config import PeersConfig, ScoringConfig
from templar_pl.errors import Fault
from templar_pl.scoring import (
    Evaluation,
    Judgement,
    Losses,
    Overlap,
    Presence,
    Rating,
    Reason,
    ScoringState,
    SyncObservation,
    WindowRecords,
    choose_from,
    judge,
    rate,
)
from templar_pl.units import Hotkey, Uid, Window
from tests.scoring.simulation import CAST, Network, simulate, upload_of

SCORING, PEERS = ScoringConfig(), PeersConfig(recent_windows=2, reset_inactivity_windows=4, minimum_peers=1)
ME = Uid(0)


def presence(uid: int = 0, *, fault: Fault | None = None, hotkey: str = "a") -> Presence:
    return Presence(uid=Uid(uid), hotkey=Hotkey(hotkey), fault=fault)


def evaluation(uid: int, own: float, on_random: float) -> Evaluation:
    """Improvements of a loss of 1."""
    return Evaluation(uid=Uid(uid), own=Losses(1.0, 1 - own), random=Losses(1.0, 1 - on_random))


def run(*windows: WindowRecords, state: ScoringState | None = None) -> Judgement:
    judgement = Judgement(state or ScoringState(), ())
    for records in windows:
        judgement = judge(judgement.state, records, SCORING, PEERS)
    return judgement


def window_of(window: int, *presences: Presence, **observed: tuple[object, ...]) -> WindowRecords:
    return WindowRecords(window=Window(window), presences=presences, **observed)  # pyright: ignore[reportArgumentType] - the fields differ


GOOD = window_of(
    1,
    presence(0),
    presence(1),
    evaluations=(evaluation(0, 0.2, 0.1), evaluation(1, 0.0, 0.05)),
    syncs=(SyncObservation(uid=ME, steps_behind=0.0), SyncObservation(uid=Uid(1), steps_behind=1.5)),
)


def test_one_window_by_hand() -> None:
    miners = run(GOOD).state.miners

    ratings = rate({ME: Rating(), Uid(1): Rating()}, {ME: 0.1, Uid(1): 0.05}, beta=20.0, tau=0.1)
    assert [miner.rating for miner in miners.values()] == [ratings[ME], ratings[Uid(1)]]
    assert [miner.indicator for miner in miners.values()] == [0.05, -0.05]
    assert [miner.sync for miner in miners.values()] == [1.0, 0.5]
    assert [(miner.silent, miner.penalties, miner.waiting_since) for miner in miners.values()] == [(0, 0, 1)] * 2


def test_a_score_is_the_product_of_its_parts() -> None:
    state = run(GOOD, replace(GOOD, window=Window(2))).state
    me = replace(state.miners[ME], penalties=1, sync=0.5)

    chance = (0.05**2 + 0.0475**2) ** 0.5
    assert me.score(0.05) == pytest.approx(0.75 * me.rating.ordinal * (0.0975 - chance) * 0.5)
    assert state.weights(SCORING) == {ME: 1.0}


@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_within_a_window_does_not_matter_to_the_bit(seed: int, chance: random.Random) -> None:
    network, there, back = Network(seed), ScoringState(), ScoringState()
    for window in map(Window, range(1, 5)):
        silent = frozenset(uid for uid in network.cast if chance.random() < 0.2)
        presences = network.presences(silent)
        chosen = choose_from(there, presences, window, 4)
        records = network.records(window, presences, chosen, detects_copies=True)
        shuffled = replace(
            records,
            presences=tuple(chance.sample(presences, len(presences))),
            evaluations=tuple(reversed(records.evaluations)),
            syncs=tuple(reversed(records.syncs)),
            overlaps=tuple(chance.sample(records.overlaps, len(records.overlaps))),
        )
        first, second = judge(there, records, SCORING, PEERS), judge(back, shuffled, SCORING, PEERS)
        there, back = first.state, second.state
        assert first == second
        assert list(there.miners) == sorted(there.miners)


@given(st.integers(0, 10**6), st.data())
def test_who_gains_more_on_both_kinds_of_pages_never_scores_lower(seed: int, data: st.DataObject) -> None:
    """With all else equal, and no tie."""
    network, worse = Network(seed, ("honest",) * 5), simulate(seed, windows=6, cast=("honest",) * 5)
    uid = data.draw(st.sampled_from(sorted(network.cast)))
    records = network.records(Window(500), network.presences(), sorted(network.cast), detects_copies=False)
    gain = data.draw(st.floats(0.0, 0.01))
    before = next(record for record in records.evaluations if record.uid == uid)
    own, on_random = (
        Losses(losses.before, losses.after - gain * losses.before) for losses in (before.own, before.random)
    )
    better = Evaluation(uid=uid, own=replace(own, after=own.after - 1e-9), random=on_random)
    others = tuple(record for record in records.evaluations if record.uid != uid)

    scores = [
        judge(worse, replace(records, evaluations=(*others, mine)), SCORING, PEERS).state.scores(SCORING)[uid]
        for mine in (before, better)
    ]
    assert scores[0] <= scores[1] + 1e-9


def test_a_silent_miner_loses_a_quarter_each_window_and_then_all() -> None:
    absent = [window_of(window, presence(fault=Fault.LATE), presence(1)) for window in range(3, 7)]
    state, cuts = run(GOOD, replace(GOOD, window=Window(2))).state, []
    for records in absent:
        judgement = run(records, state=state)
        state = judgement.state
        cuts.append([(penalty.reason, penalty.evidence) for penalty in judgement.penalties if penalty.uid == ME])

    assert cuts == [
        [(Reason.MISSING, {"fault": "late", "silent": 1})],
        [(Reason.MISSING, {"fault": "late", "silent": 2})],
        [(Reason.INACTIVE, {"fault": "late", "silent": 3})],
        [],
    ]
    me = state.miners[ME]
    assert (me.rating, me.indicator, me.observations, me.penalties, me.silent) == (Rating(), 0, 0, 0, 4)


def test_each_clean_window_takes_one_penalty_back() -> None:
    state = run(GOOD, *(window_of(window, presence(fault=Fault.SIZE), presence(1)) for window in (2, 3))).state
    penalties = []
    for window in (4, 5, 6):
        state = run(window_of(window, presence(), presence(1)), state=state).state
        penalties.append(state.miners[ME].penalties)

    assert penalties == [1, 0, 0]
    assert state.miners[ME].indicator == 0.05


@pytest.mark.parametrize(("steps", "evidence"), [(3.0, "0x1.8000000000000p+1"), (None, "unknown"), (2.9, None)])
def test_who_is_out_of_sync_is_cut_with_the_steps_as_evidence(steps: float | None, evidence: str | None) -> None:
    records = replace(GOOD, syncs=(SyncObservation(uid=ME, steps_behind=steps),))
    judgement = run(records)

    found = [(penalty.uid, penalty.reason, penalty.evidence) for penalty in judgement.penalties]
    assert found == ([(ME, Reason.OUT_OF_SYNC, {"steps_behind": evidence})] if evidence else [])
    assert judgement.state.miners[ME].penalties == len(found)


def test_a_copy_comes_last_and_its_indicator_falls_evaluated_or_not() -> None:
    copied = Overlap(first=upload_of(1, 1, 1.0), second=upload_of(0, 1, 2.0), agreement=1.0)
    seen = run(replace(GOOD, overlaps=(copied,)))
    unseen = run(replace(GOOD, overlaps=(copied,), evaluations=(evaluation(1, 0.1, 0.0),)))

    assert [(penalty.uid, penalty.reason) for penalty in seen.penalties] == [(ME, Reason.COPIED)]
    assert seen.penalties[0].to_json() == {
        "evidence": copied.to_json(),
        "reason": "copied",
        "uid": 0,
        "window": 1,
    }
    assert seen.state.miners[ME].rating.mu < 25 < seen.state.miners[Uid(1)].rating.mu
    assert seen.state.miners[ME].indicator == unseen.state.miners[ME].indicator == -0.05
    assert (unseen.state.miners[ME].rating, unseen.state.miners[ME].penalties) == (Rating(), 1)


def test_penalties_end_where_silence_would_have_reset_the_score() -> None:
    stale = [
        window_of(window, presence(), syncs=(SyncObservation(uid=ME, steps_behind=None),)) for window in range(1, 20)
    ]

    assert run(*stale).state.miners[ME].penalties == PEERS.reset_inactivity_windows


def test_another_hotkey_under_the_uid_is_another_miner() -> None:
    state = run(GOOD, window_of(2, presence(hotkey="b"), presence(1))).state

    assert (state.miners[ME].hotkey, state.miners[ME].indicator, state.miners[ME].waiting_since) == ("b", 0, 2)
    assert state.miners[Uid(1)].indicator == -0.05


def test_who_is_not_registered_any_more_is_forgotten() -> None:
    assert run(GOOD, window_of(2, presence(1))).state.miners.keys() == {1}


def test_a_miner_that_never_sent_anything_is_neither_cut_nor_listed() -> None:
    judgement = run(*(window_of(window, presence(fault=Fault.MISSING), presence(1)) for window in (1, 2, 3)))

    assert judgement.penalties == ()
    assert judgement.state.miners[ME].penalties == 0
    assert judgement.state.peer_list.uids == (1,)


def test_windows_the_validator_missed_are_nobodys_silence() -> None:
    state = run(GOOD, window_of(100, presence(fault=Fault.MISSING), presence(1))).state

    assert (state.miners[ME].silent, state.miners[ME].penalties) == (1, 1)


@pytest.mark.parametrize("window", [0, 1])
def test_a_window_is_not_judged_twice(window: int) -> None:
    with pytest.raises(ValueError, match=f"must be of a window after 1, got {window}"):
        run(GOOD, replace(GOOD, window=Window(window)))


def test_the_state_before_stays_as_it_was() -> None:
    state = run(GOOD).state
    before = replace(state)
    run(window_of(2, presence(fault=Fault.MISSING)), state=state)

    assert state == before
    assert state.miners[ME].silent == 0


def test_those_who_waited_longest_and_newcomers_behind_them_are_chosen() -> None:
    state = run(GOOD, window_of(2, presence(0), presence(1), presence(2), evaluations=(evaluation(0, 0.1, 0.0),))).state
    present = (presence(0), presence(1), presence(2), presence(3), presence(4, fault=Fault.LATE))

    assert choose_from(state, present, Window(3), 1) == [1]
    assert sorted(choose_from(state, present, Window(3), 4)) == [0, 1, 2, 3]
    assert 1 in choose_from(state, present, Window(3), 2)
    assert choose_from(state, (presence(1, hotkey="b"), presence(0)), Window(3), 1) == [0]


def test_the_peer_list_follows_the_weights() -> None:
    peers = replace(PEERS, max_topk_peers=4, peer_list_window_margin=3)
    state, network = ScoringState(), Network(5)
    for window in map(Window, range(41)):
        presences = network.presences()
        records = network.records(window, presences, sorted(network.cast), detects_copies=True)
        state = judge(state, records, SCORING, peers).state

    assert [CAST[uid] for uid in state.peer_list.uids] == ["honest"] * 4
    assert (state.peer_list.effective_from - SCORING.validator_offset) % 5 == 3


def test_a_list_holds_from_so_many_windows_after_the_one_that_is_open_when_it_is_made() -> None:
    scoring, peers = replace(SCORING, validator_offset=7), replace(PEERS, peer_list_window_margin=3)

    state = judge(ScoringState(), window_of(4, presence(0)), scoring, peers).state

    assert state.peer_list.effective_from == 4 + 7 + 3


def test_every_miner_is_listed_in_its_turn_but_who_is_penalised() -> None:
    peers = replace(PEERS, max_topk_peers=2, peer_replacement_frequency=1)
    miners = [presence(uid) for uid in range(8)]
    stale = (SyncObservation(uid=ME, steps_behind=None),)
    state, lists = ScoringState(), []
    for window in range(1, 60):
        state = judge(state, window_of(window, *miners, syncs=stale), SCORING, peers).state
        lists.append(set(state.peer_list.uids))

    assert set().union(*lists[20:40]) == set().union(*lists[40:]) == set(range(1, 8))
    assert {state.miners[uid].off_list_since for uid in state.peer_list.uids} == {59}
    assert state.miners[ME].off_list_since < 20


def test_a_miner_that_cannot_be_looked_at_is_no_guest() -> None:
    peers = replace(PEERS, max_topk_peers=2, peer_replacement_frequency=1)
    state, lists = ScoringState(), []
    for window in range(1, 60):
        hidden = presence(7, fault=Fault.UNSEEN if window > 10 else None)
        state = judge(state, window_of(window, *map(presence, range(7)), hidden), SCORING, peers).state
        lists.append(set(state.peer_list.uids))

    assert set().union(*lists[20:]) == set(range(7))
    assert state.miners[Uid(7)].silent == 0


@given(st.integers(1, 6), st.lists(st.sampled_from([None, Fault.LATE, Fault.MISSING]), max_size=6))
def test_windows_in_which_a_miner_could_not_be_looked_at_change_nothing_for_it(
    unseen: int, before: list[Fault | None]
) -> None:
    known = run(GOOD, *(window_of(2 + n, presence(fault=fault), presence(1)) for n, fault in enumerate(before))).state

    judgement = run(*(window_of(20 + n, presence(fault=Fault.UNSEEN), presence(1)) for n in range(unseen)), state=known)

    assert replace(judgement.state.miners[ME], off_list_since=Window(0)) == replace(
        known.miners[ME], off_list_since=Window(0)
    )
    assert judgement.penalties == ()
