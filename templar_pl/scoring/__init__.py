"""Pure functions from records to scores and weights."""

from templar_pl.scoring.choice import choose_evaluated
from templar_pl.scoring.copies import find_copies
from templar_pl.scoring.draw import Draw
from templar_pl.scoring.lineage import Lineage
from templar_pl.scoring.miner import MinerState
from templar_pl.scoring.overlap import Places, agreement_of, compare_payloads, count_shared
from templar_pl.scoring.peer_list import NO_PEERS, PeerList, next_peer_list, rotated_peer_list
from templar_pl.scoring.penalties import Penalty, Reason, judge_window
from templar_pl.scoring.ratings import Rating, rate
from templar_pl.scoring.records import Evaluation, Losses, Overlap, Presence, SyncObservation, Upload, WindowRecords
from templar_pl.scoring.scores import (
    beyond_chance,
    binary_indicator,
    final_score,
    gradient_score,
    moving_average,
    relative_improvement,
    sync_score,
)
from templar_pl.scoring.state import Judgement, ScoringState, choose_from, judge
from templar_pl.scoring.state_text import StateError, read_state, write_state
from templar_pl.scoring.weights import weights_of

__all__ = [
    "NO_PEERS",
    "Draw",
    "Evaluation",
    "Judgement",
    "Lineage",
    "Losses",
    "MinerState",
    "Overlap",
    "PeerList",
    "Penalty",
    "Places",
    "Presence",
    "Rating",
    "Reason",
    "ScoringState",
    "StateError",
    "SyncObservation",
    "Upload",
    "WindowRecords",
    "agreement_of",
    "beyond_chance",
    "binary_indicator",
    "choose_evaluated",
    "choose_from",
    "compare_payloads",
    "count_shared",
    "final_score",
    "find_copies",
    "gradient_score",
    "judge",
    "judge_window",
    "moving_average",
    "next_peer_list",
    "rate",
    "read_state",
    "relative_improvement",
    "rotated_peer_list",
    "sync_score",
    "weights_of",
    "write_state",
]
