"""What a validator holds of one miner, and how one window's observations change it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from templar_pl.scoring.ratings import Rating
from templar_pl.scoring.scores import beyond_chance, final_score, moving_average, sync_score
from templar_pl.units import Hotkey, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerState:
    """Everything that a miner's score is made of."""

    hotkey: Hotkey
    """Another hotkey under the same uid is another miner."""

    waiting_since: Window
    """Window of the last evaluation; of a miner that had none, the window in which it was first seen."""

    off_list_since: Window
    """Window of the last list of peers that it was on; of a miner that was on none, the window in which it was first
    seen."""

    silent: int
    """Windows since its last payload that counted, of those this validator saw; 0 if the last one did. A miner that
    never sent anything has the number after which scores start anew."""

    rating: Rating = field(default_factory=Rating)
    """By comparison with others."""

    indicator: float = 0.0
    """Moving average of the binary indicator, -1..1."""

    sync: float = 0.0
    """Sync score of the last payload, 0..1."""

    penalties: int = 0
    """That count now: each takes a quarter of the score."""

    observations: int = 0
    """That the indicator is the average of."""

    def score(self, alpha: float) -> float:
        """Return the final score, at least 0, of indicators that were averaged with `alpha`."""
        indicator = beyond_chance(self.indicator, self.observations, alpha)
        return final_score(self.rating.ordinal, indicator, self.sync, self.penalties)

    def seen(self, *, is_present: bool) -> MinerState:
        """Count a window in which its payload counted, or one more silent one."""
        return replace(self, silent=0 if is_present else self.silent + 1)

    def penalised(self, new_penalties: int, most: int) -> MinerState:
        """Add the penalties of a window, up to `most` in all; a window without any takes one back.

        A window of a silent miner is never without one, as long as its score is not reset.
        """
        penalties = min(most, self.penalties + new_penalties) if new_penalties else max(0, self.penalties - 1)
        return replace(self, penalties=penalties)

    def synced(self, steps_behind: float | None, max_steps_behind: float) -> MinerState:
        """Take over which parameters its last gradient was taken at."""
        return replace(self, sync=sync_score(steps_behind, max_steps_behind))

    def indicated(self, observation: float, alpha: float) -> MinerState:
        """Average one more binary indicator."""
        indicator = moving_average(self.indicator, observation, alpha)
        return replace(self, indicator=indicator, observations=self.observations + 1)

    def evaluated(self, window: Window, rating: Rating) -> MinerState:
        """Take over a new rating."""
        return replace(self, rating=rating, waiting_since=window)

    def listed(self, window: Window) -> MinerState:
        """Take over that it was on the list of peers then."""
        return replace(self, off_list_since=window)

    def reset(self) -> MinerState:
        """Forget all but who it is, how long it is silent and how long it has waited."""
        return MinerState(
            hotkey=self.hotkey,
            waiting_since=self.waiting_since,
            off_list_since=self.off_list_since,
            silent=self.silent,
        )
