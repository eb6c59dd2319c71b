"""A swarm as a table that changes while it runs, or as one line a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from templar_pl.roles.supervisor import State
from templar_pl.roles.swarm_history import History
from templar_pl.roles.swarm_plan import SENDERS, Kind
from templar_pl.roles.swarm_verdict import Outcome, Verdict
from templar_pl.training.report import format_bytes
from templar_pl.units import Uid, Window

_HEADS = ("uid", "name", "role", "state", "window", "loss", "peers", "score", "weight", "up", "down", "in sync")
_LEFT = {"name", "role", "state", "in sync"}
_BEHIND = 2
"""Windows since its last report from which on a node that runs is catching up."""

_STYLES = {"running": "green", "failed": "bold red", "no": "bold red", "yes": "green"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A node as it is now; what is not known is None."""

    uid: Uid | None
    name: str
    kind: Kind
    state: str
    window: Window | None = None
    loss: float | None = None
    peers: int | None = None
    score: float | None = None
    weight: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    in_sync: bool | None = None

    def cells(self) -> list[str]:
        """Return what stands in the table."""
        return [
            _text(self.uid),
            self.name,
            "aggregator" if self.kind is Kind.AGGREGATOR else str(self.kind),
            self.state,
            _text(self.window),
            _text(self.loss, ".4f"),
            _text(self.peers),
            _text(self.score, ".3f"),
            _text(self.weight, ".3f"),
            "" if self.bytes_up is None else format_bytes(self.bytes_up),
            "" if self.bytes_down is None else format_bytes(self.bytes_down),
            {True: "yes", False: "no", None: ""}[self.in_sync],
        ]


def row_of(history: History, name: str, kind: Kind, uid: Uid | None, state: State) -> Row:
    """Return what is known of a node now.

    Args:
        history: what was read.
        name: of the node.
        kind: of the node.
        uid: None if it has none yet.
        state: as its supervisor has it.
    """
    if kind is Kind.AGGREGATOR:
        return Row(uid=uid, name=name, kind=kind, state=state, window=max(history.manifests, default=None))
    if kind is Kind.VALIDATOR:
        return Row(uid=uid, name=name, kind=kind, state=state, window=max(history.scores, default=None))
    report = None if uid is None else history.newest(uid)
    if uid is None or report is None:
        return Row(uid=uid, name=name, kind=kind, state="joining" if state is State.RUNNING else state)
    said, reports = history.before(report.window), history.reports[uid].values()
    is_behind = state is State.RUNNING and report.window < history.window - _BEHIND
    return Row(
        uid=uid,
        name=name,
        kind=kind,
        state="catching up" if is_behind else state,
        window=report.window,
        loss=report.loss,
        peers=len(report.peers),
        score=history.last_scores.get(uid),
        weight=history.weights.get(uid, 0.0) if history.weights else None,
        bytes_up=sum(each.bytes_up for each in reports),
        bytes_down=sum(each.bytes_down for each in reports),
        in_sync=None if said is None else report.before == said,
    )


class Screen(Protocol):
    """Where a swarm is shown."""

    def show(self, history: History, rows: Sequence[Row], progress: str) -> None:
        """Show how it is now."""
        ...

    def close(self) -> None:
        """Show no more."""
        ...


class LiveTable:
    """A table in a terminal."""

    def __init__(self, console: Console) -> None:
        """Begin to show it."""
        # Drawn when there is something new: a thread that draws would be forked with every node.
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, history: History, rows: Sequence[Row], progress: str) -> None:  # noqa: ARG002 - of the protocol
        """Draw the table anew."""
        self._live.update(live_table(rows, progress), refresh=True)

    def close(self) -> None:
        """Leave the last table where it is."""
        self._live.stop()


class Lines:
    """One line a window."""

    def __init__(self, console: Console) -> None:
        """Begin with nothing said."""
        self._console, self._said = console, Window(-1)

    def show(self, history: History, rows: Sequence[Row], progress: str) -> None:
        """Say how it is, if that was not said in this window."""
        if history.window > self._said:
            self._said = history.window
            self._console.print(line_of(history, rows, progress), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing: every line stands."""


def live_table(rows: Sequence[Row], progress: str) -> Table:
    """Return all nodes as a table."""
    table = _table(_HEADS, _LEFT, progress)
    for row in rows:
        table.add_row(*[Text(cell, style=_STYLES.get(cell, "")) for cell in row.cells()])
    return table


def line_of(history: History, rows: Sequence[Row], progress: str) -> str:
    """Return all nodes in one line."""
    honest = [row for row in rows if row.kind is Kind.MINER]
    losses = [row.loss for row in honest if row.loss is not None and math.isfinite(row.loss)]
    known = [row.in_sync for row in honest if row.in_sync is not None]
    parts = [f"window {history.window} is open ({progress})"]
    if losses:
        parts.append(f"loss {sum(losses) / len(losses):.4f}")
    if known:
        parts.append(f"in sync {sum(known)}/{len(known)}")
    parts.append(f"manifests to {_text(max(history.manifests, default=None)) or '-'}")
    parts.append(f"scores to {_text(max(history.scores, default=None)) or '-'}")
    weights = [f"{row.name} {row.weight:.3f}" for row in rows if row.weight is not None and row.kind in SENDERS]
    parts += ["weights " + ", ".join(weights)] if weights else []
    parts += [f"{row.name} {row.state}" for row in rows if row.state not in (State.RUNNING, State.WAITING)]
    return " | ".join(parts)


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print a table of what each node came to, and what follows."""
    heads = (
        "uid",
        "name",
        "role",
        "restarts",
        "counted",
        "in sync from",
        "compared",
        "differs",
        "score",
        "weight",
        "ratio",
        "up",
    )
    table, shares = _table(heads, {"name", "role"}, ""), verdict.shares
    for outcome in verdict.outcomes:
        table.add_row(
            _text(outcome.uid),
            outcome.name,
            str(outcome.kind),
            str(outcome.restarts) if outcome.kept_alive else f"{outcome.restarts}, given up",
            str(outcome.counted),
            _text(outcome.in_sync_from),
            str(outcome.compared),
            _windows(outcome.differs_in),
            _text(outcome.score, ".3f"),
            _text(outcome.weight, ".3f"),
            _ratio(shares.get(outcome.name)),
            format_bytes(outcome.bytes_up),
        )
    console.print(table)
    for line in verdict_lines(verdict):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return what follows, a line for each question."""
    before, after = verdict.loss_at
    count = verdict.last - verdict.first + 1
    lines = [
        f"windows {verdict.first} to {verdict.last}: {count}, of which {verdict.manifests} have a manifest",
        f"loss: {before:.4f} at first, {after:.4f} at last: it {'fell' if verdict.loss_fell else 'DID NOT FALL'}",
        *_equality(verdict),
    ]
    lines += _earnings(verdict)
    restarted = [_comeback(outcome) for outcome in verdict.outcomes if outcome.restarts]
    lines.append(f"restarted: {', '.join(restarted) or 'nobody'}")
    late = [o for o in verdict.honest if o.in_sync_from is not None and not o.is_there_from(verdict.first)]
    lines += [f"{outcome.name} joined: in sync from window {outcome.in_sync_from} on" for outcome in late]
    lines += [f"{outcome.name} COULD NOT BE KEPT ALIVE" for outcome in verdict.outcomes if not outcome.kept_alive]
    return lines


def _earnings(verdict: Verdict) -> list[str]:
    """Say who earned nothing, and whether adversaries earned little."""
    lines = [f"{name} is honest and EARNED NOTHING" for name in verdict.earned_nothing]
    if verdict.best_adversary is None or verdict.adversaries_earn_less is None:
        return lines
    answer = "yes" if verdict.adversaries_earn_less else "NO"
    share = (
        f"the best has {verdict.best_adversary:.3f} of it"
        if math.isfinite(verdict.best_adversary)
        else f"{' and '.join(verdict.earned_nothing)} earned nothing, and nobody earns less than that"
    )
    return [*lines, f"every adversary earns less than a third of the worst honest miner: {answer}, {share}"]


def _comeback(outcome: Outcome) -> str:
    words = f"{outcome.name} {outcome.restarts}x"
    if outcome.kind is not Kind.MINER:
        return words
    return f"{words} and {'came back' if outcome.is_there_at_the_end else 'DID NOT COME BACK'}"


def _equality(verdict: Verdict) -> list[str]:
    honest = [outcome for outcome in verdict.outcomes if outcome.kind is Kind.MINER]
    if verdict.equal:
        compared = sum(outcome.compared for outcome in honest)
        return [f"all {len(honest)} honest miners are equal, bit for bit, in {compared} comparisons"]
    lines = [f"manifest {window} BEGINS ELSEWHERE than {window - 1} ended" for window in verdict.broken_manifests]
    for outcome in honest:
        if outcome.differs_in:
            lines.append(f"{outcome.name} DIFFERS in windows {_windows(outcome.differs_in)}")
        elif not outcome.is_there_at_the_end:
            lines.append(f"{outcome.name} was NOT THERE AT THE END: nothing says what its parameters are")
    return lines


def _ratio(share: float | None) -> str:
    return "" if share is None or not math.isfinite(share) else f"{share:.2f}"


def _windows(windows: Sequence[Window]) -> str:
    shown = ", ".join(map(str, windows[:8]))
    return shown if len(windows) <= 8 else f"{shown}, ... ({len(windows)})"


def _table(heads: Sequence[str], left: set[str], title: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", no_wrap=True)
    return table


def _text(value: float | None, form: str = "") -> str:
    return "" if value is None else format(value, form)
