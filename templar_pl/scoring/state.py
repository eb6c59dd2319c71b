"""Everything a validator knows about the miners of a run, and how one window's records change it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from templar_pl.config import PeersConfig, ScoringConfig
from templar_pl.errors import Fault
from templar_pl.scoring.choice import choose_evaluated
from templar_pl.scoring.miner import MinerState
from templar_pl.scoring.peer_list import NO_PEERS, PeerList, rotated_peer_list
from templar_pl.scoring.penalties import Penalty, Reason, judge_window
from templar_pl.scoring.ratings import rate
from templar_pl.scoring.records import Presence, WindowRecords
from templar_pl.scoring.scores import WORST, binary_indicator, gradient_score
from templar_pl.scoring.weights import weights_of
from templar_pl.units import Uid, Window

BEFORE_THE_FIRST = Window(-1)
"""The last window of a state that has not seen any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringState:
    """A validator's knowledge after some window; never changed, only followed by another one."""

    window: Window = BEFORE_THE_FIRST
    """Last one it has seen."""

    miners: Mapping[Uid, MinerState] = field(default_factory=lambda: MappingProxyType({}))
    """Registered miners, in uid order."""

    peer_list: PeerList = NO_PEERS
    """Last one that was made."""

    def scores(self, scoring: ScoringConfig) -> dict[Uid, float]:
        """Return the final score of every miner, at least 0."""
        return {uid: miner.score(scoring.binary_score_ma_alpha) for uid, miner in self.miners.items()}

    def weights(self, scoring: ScoringConfig) -> dict[Uid, float]:
        """Return what each miner has earned, as `weights_of` says; empty if nobody has earned anything."""
        return weights_of(self.scores(scoring), scoring.power_normalisation)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from a window."""

    state: ScoringState
    penalties: tuple[Penalty, ...]
    """With their evidence, ordered by uid and reason."""


def judge(state: ScoringState, records: WindowRecords, scoring: ScoringConfig, peers: PeersConfig) -> Judgement:
    """Score one window.

    Who could not be looked at (`Fault.UNSEEN`) stays as it was, and is no guest of a list of peers that follows.

    Windows come in ascending order. One that the validator did not see may be left out: it counts neither as silence
    nor as presence.

    Args:
        state: after the windows before.
        records: of the window, in any order within it.
        scoring: how payloads are judged.
        peers: how long silence is allowed, and how peers are listed.

    Raises:
        ValueError: the window is not later than those the state has seen.
    """
    if records.window <= state.window:
        raise ValueError(f"records must be of a window after {state.window}, got {records.window}")
    presences = sorted(records.presences, key=lambda seen: seen.uid)
    miners = {seen.uid: _seen(state, seen, records.window, peers) for seen in presences}
    penalties = judge_window(records, miners, scoring, peers)
    unseen = {seen.uid for seen in presences if seen.fault is Fault.UNSEEN}
    miners |= _cut({uid: miner for uid, miner in miners.items() if uid not in unseen}, penalties, peers)
    for sync in records.syncs:
        miners[sync.uid] = miners[sync.uid].synced(sync.steps_behind, scoring.sync_max_steps_behind)
    copied = {penalty.uid for penalty in penalties if penalty.reason is Reason.COPIED}
    miners |= _indicated(miners, records, copied, scoring)
    miners |= _rated(miners, records, copied, scoring)
    following = ScoringState(window=records.window, miners=MappingProxyType(miners), peer_list=state.peer_list)
    return Judgement(_listed(following, unseen, scoring, peers), tuple(penalties))


def choose_from(state: ScoringState, presences: tuple[Presence, ...], window: Window, count: int) -> list[Uid]:
    """Choose whom to evaluate in a window, before its records are complete.

    Args:
        state: after the windows before.
        presences: of the window; only those whose payloads count are chosen from.
        window: to be evaluated.
        count: how many at most; `uids_per_window`.
    """
    present = [seen for seen in presences if seen.fault is None]
    known = {seen.uid: state.miners.get(seen.uid) for seen in present}
    waiting = {
        seen.uid: miner.waiting_since
        if (miner := known[seen.uid]) is not None and miner.hotkey == seen.hotkey
        else window
        for seen in present
    }
    return choose_evaluated(window, waiting, count)


def _seen(state: ScoringState, seen: Presence, window: Window, peers: PeersConfig) -> MinerState:
    """Return a miner with the window counted as seen or silent; a new one for a new uid or hotkey."""
    miner = state.miners.get(seen.uid)
    if miner is None or miner.hotkey != seen.hotkey:
        miner = MinerState(
            hotkey=seen.hotkey, waiting_since=window, off_list_since=window, silent=peers.reset_inactivity_windows
        )
    if seen.fault is not Fault.UNSEEN:
        miner = miner.seen(is_present=seen.fault is None)
    return miner.reset() if miner.silent >= peers.reset_inactivity_windows else miner


def _cut(miners: Mapping[Uid, MinerState], penalties: list[Penalty], peers: PeersConfig) -> dict[Uid, MinerState]:
    """Count the penalties of a window; more than silence until the reset would bring are of no use."""
    counts = dict.fromkeys(miners, 0)
    for penalty in penalties:
        counts[penalty.uid] += 1
    return {uid: miner.penalised(counts[uid], peers.reset_inactivity_windows) for uid, miner in miners.items()}


def _indicated(
    miners: Mapping[Uid, MinerState], records: WindowRecords, copied: set[Uid], scoring: ScoringConfig
) -> dict[Uid, MinerState]:
    """Average the indicators of the evaluated; a copy shows that nothing was trained, evaluated or not."""
    observed = {evaluation.uid: binary_indicator(evaluation) for evaluation in records.evaluations}
    observed |= dict.fromkeys(copied, -1)
    return {uid: miners[uid].indicated(seen, scoring.binary_score_ma_alpha) for uid, seen in observed.items()}


def _rated(
    miners: Mapping[Uid, MinerState], records: WindowRecords, copied: set[Uid], scoring: ScoringConfig
) -> dict[Uid, MinerState]:
    """Compare the evaluated; a copy comes last."""
    results = {
        evaluation.uid: WORST if evaluation.uid in copied else gradient_score(evaluation)
        for evaluation in records.evaluations
    }
    ratings = {uid: miners[uid].rating for uid in results}
    rated = rate(ratings, results, beta=scoring.openskill_beta, tau=scoring.openskill_tau)
    return {uid: miners[uid].evaluated(records.window, rating) for uid, rating in rated.items()}


def _listed(state: ScoringState, unseen: Collection[Uid], scoring: ScoringConfig, peers: PeersConfig) -> ScoringState:
    """Return the state with the list of peers that follows from it.

    A window is judged `validator_offset` windows after it was open, so a list holds from as many windows later: all
    can read it before.
    """
    active = [uid for uid, miner in state.miners.items() if miner.silent <= peers.recent_windows]
    welcome = [uid for uid in active if uid not in unseen and not state.miners[uid].penalties]
    waiting = {uid: state.miners[uid].off_list_since for uid in welcome}
    weights = state.weights(scoring)
    listed = rotated_peer_list(state.peer_list, state.window, active, weights, waiting, peers)
    if listed is not state.peer_list:
        listed = replace(listed, effective_from=Window(listed.effective_from + scoring.validator_offset))
    miners = {uid: miner.listed(state.window) if uid in listed.uids else miner for uid, miner in state.miners.items()}
    return ScoringState(window=state.window, miners=MappingProxyType(miners), peer_list=listed)
