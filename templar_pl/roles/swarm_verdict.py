"""What became of a swarm: a pure function of what was read of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from templar_pl.roles.swarm_history import History, Report
from templar_pl.roles.swarm_plan import ADVERSARIES, SENDERS, Kind
from templar_pl.units import Uid, Window

FAIR_SHARE = 1 / 3
"""An adversary must earn less than this share of what the worst honest miner does."""

ENDS = 3
"""Windows at the beginning and at the end over which the loss is averaged; never more than half of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """A node and what its supervisor knows of it."""

    name: str
    kind: Kind
    uid: Uid | None
    """None if it never got one."""

    restarts: int
    kept_alive: bool
    """False if it was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one node came to in the counted windows."""

    name: str
    kind: Kind
    uid: Uid | None
    restarts: int
    kept_alive: bool
    counted: int
    """Windows that its payload is part of."""

    in_sync_from: Window | None
    """The first window that it reported of; None for who reports nothing."""

    compared: int
    """Windows of which its parameters were compared with those of the manifests, or of the others without them."""

    differs_in: tuple[Window, ...]
    """Those in which they were others."""

    is_there_at_the_end: bool
    """Whether its parameters after the last counted window were compared."""

    score: float | None
    weight: float | None
    bytes_up: int
    bytes_down: int

    def is_there_from(self, window: Window) -> bool:
        """Whether it took part in a window or in one before."""
        return self.in_sync_from is not None and self.in_sync_from <= window


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a swarm."""

    first: Window
    last: Window
    """Counted windows, both included."""

    outcomes: tuple[Outcome, ...]
    manifests: int
    """Counted windows that have one."""

    broken_manifests: tuple[Window, ...]
    """Windows whose manifest does not begin where that of the window before ended."""

    losses: Mapping[Window, float]
    """Mean loss of the honest miners in each counted window."""

    @property
    def honest(self) -> list[Outcome]:
        """Those of the honest miners."""
        return [outcome for outcome in self.outcomes if outcome.kind is Kind.MINER]

    @property
    def differs(self) -> bool:
        """Whether an honest node held other bits than it should, at any time since it was in sync."""
        return bool(self.broken_manifests) or any(outcome.differs_in for outcome in self.honest)

    @property
    def equal(self) -> bool:
        """Whether all honest nodes held the same bits, from when each was in sync to the end."""
        return not self.differs and all(outcome.is_there_at_the_end for outcome in self.honest)

    @property
    def kept_alive(self) -> bool:
        """Whether no node was given up."""
        return all(outcome.kept_alive for outcome in self.outcomes)

    @property
    def loss_at(self) -> tuple[float, float]:
        """The mean loss over the first ENDS windows and over the last ENDS; NaN without any."""
        losses = [self.losses[window] for window in sorted(self.losses)]
        ends = max(1, min(ENDS, len(losses) // 2))
        return _mean(losses[:ends]), _mean(losses[-ends:])

    @property
    def loss_fell(self) -> bool:
        """Whether the loss is lower at the end than at the beginning."""
        before, after = self.loss_at
        return after < before

    @property
    def shares(self) -> dict[str, float]:
        """The weight of each node as a share of the smallest of an honest miner that was there all along.

        By name; infinite where that one earned nothing, empty where nobody has set weights.
        """
        honest = [o.weight for o in self._always_there if o.weight is not None]
        if not honest:
            return {}
        weights = {outcome.name: outcome.weight for outcome in self.outcomes if outcome.weight is not None}
        return {name: weight / min(honest) if min(honest) > 0 else math.inf for name, weight in weights.items()}

    @property
    def earned_nothing(self) -> list[str]:
        """Names of the honest miners that were there all along and have no weight, though there are weights."""
        return [outcome.name for outcome in self._always_there if outcome.weight == 0]

    @property
    def best_adversary(self) -> float | None:
        """The largest share of an adversary; None if there is none, or nobody has set weights."""
        shares, adversaries = self.shares, [o.name for o in self.outcomes if o.kind in ADVERSARIES]
        return max((shares[name] for name in adversaries if name in shares), default=None)

    @property
    def adversaries_earn_less(self) -> bool | None:
        """Whether every adversary earns less than FAIR_SHARE of every honest miner; None if nobody can say."""
        return None if self.best_adversary is None else self.best_adversary < FAIR_SHARE

    @property
    def _always_there(self) -> list[Outcome]:
        return [outcome for outcome in self.honest if outcome.is_there_from(self.first)]


def judge(history: History, fates: Sequence[Fate], first: Window, last: Window) -> Verdict:
    """Say what became of a swarm.

    Args:
        history: all that was read of it.
        fates: of its nodes.
        first: counted window.
        last: counted window, at least `first`.
    """
    windows = [Window(number) for number in range(first, last + 1)]
    honest = [fate.uid for fate in fates if fate.kind is Kind.MINER and fate.uid is not None]
    reports = {uid: history.reports.get(uid, {}) for uid in honest}
    expected = {window: _expected(history, reports, window) for window in [*windows, Window(last + 1)]}
    losses = {window: [r.loss for _, r in _of_window(reports, window) if math.isfinite(r.loss)] for window in windows}
    return Verdict(
        first=first,
        last=last,
        outcomes=tuple(_outcome(history, fate, windows, expected) for fate in fates),
        manifests=sum(window in history.manifests for window in windows),
        broken_manifests=tuple(window for window in windows if _is_broken(history, window)),
        losses={window: _mean(values) for window, values in losses.items() if values},
    )


def as_json(verdict: Verdict) -> str:
    """Return the verdict as one JSON object; NaN and infinity become null."""
    before, after = verdict.loss_at
    said = {
        "equal": verdict.equal,
        "kept_alive": verdict.kept_alive,
        "loss_fell": verdict.loss_fell,
        "loss": [_number(before), _number(after)],
        "windows": [verdict.first, verdict.last],
        "manifests": verdict.manifests,
        "broken_manifests": list(verdict.broken_manifests),
        "best_adversary": _number(verdict.best_adversary),
        "adversaries_earn_less": verdict.adversaries_earn_less,
        "earned_nothing": verdict.earned_nothing,
        "losses": {str(window): _number(loss) for window, loss in verdict.losses.items()},
        "nodes": [asdict(outcome) for outcome in verdict.outcomes],
    }
    return json.dumps(said, indent=2)


def _expected(history: History, reports: Mapping[Uid, Mapping[Window, Report]], window: Window) -> str | None:
    """Return what all should hold before a window: by the manifests, else what most honest miners hold."""
    said = history.before(window)
    if said is not None:
        return said
    count = Counter(sorted(report.before for _, report in _of_window(reports, window)))
    return count.most_common(1)[0][0] if count else None


def _of_window(reports: Mapping[Uid, Mapping[Window, Report]], window: Window) -> Iterator[tuple[Uid, Report]]:
    return ((uid, by_window[window]) for uid, by_window in reports.items() if window in by_window)


def _is_broken(history: History, window: Window) -> bool:
    here, before = history.manifests.get(window), history.manifests.get(Window(window - 1))
    return here is not None and before is not None and here.before != before.after


def _outcome(history: History, fate: Fate, windows: Sequence[Window], expected: Mapping[Window, str | None]) -> Outcome:
    reports = {} if fate.uid is None else history.reports.get(fate.uid, {})
    reported = [reports[window] for window in windows if window in reports]
    compared = [window for window, said in expected.items() if said is not None and window in reports]
    return Outcome(
        name=fate.name,
        kind=fate.kind,
        uid=fate.uid,
        restarts=fate.restarts,
        kept_alive=fate.kept_alive,
        counted=sum(not report.put_failed for report in reported),
        in_sync_from=min(reports, default=None),
        compared=len(compared),
        differs_in=tuple(window for window in compared if reports[window].before != expected[window]),
        is_there_at_the_end=Window(windows[-1] + 1) in compared,
        score=None if fate.uid is None else history.last_scores.get(fate.uid),
        weight=_weight(history, fate),
        bytes_up=sum(report.bytes_up for report in reported),
        bytes_down=sum(report.bytes_down for report in reported),
    )


def _weight(history: History, fate: Fate) -> float | None:
    """Return the share of a miner; None if nobody has set any, or it does not send."""
    if not history.weights or fate.uid is None or fate.kind not in SENDERS:
        return None
    return history.weights.get(fate.uid, 0.0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
