"""`audit`: replays windows of a run from what is stored, and says of each whether it all agrees. It only looks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from templar_pl.command_line import EXIT_STOPPED
from templar_pl.roles.audit_findings import AuditedWindow, first_fault
from templar_pl.roles.audit_run import RunAudit, Span
from templar_pl.roles.audit_table import as_json, show_windows
from templar_pl.roles.node import Node
from templar_pl.training.run_view import RunView

log = logging.getLogger(__name__)

WIDTH = 120
"""Columns where the output is no terminal."""


def run_audit(node: Node) -> int:
    """Audit, print what was found to standard output, and return 0, or 1 if a window does not agree.

    The node's own options are `first` and `last`, whole numbers or None, and `json`. What was found so far is printed
    too where an error or a signal ends it.

    Raises:
        ConfigError: there is no such run or window, or nobody whose word counts.
        ChainError: the chain cannot be reached.
        StoreError: the store, or the own disk, fails.
        OutOfSyncError: the disk failed while a checkpoint was loaded.
    """
    hparams = node.hparams
    replica = node.replica()
    view = node.network.view(replica.digest, hparams.window)
    found: list[AuditedWindow] = []
    try:
        with TemporaryDirectory(prefix="templar-audit-") as folder:
            audit = RunAudit(view, replica, hparams, Path(folder), node.check_interrupt)
            span = audit.begin(node.options["first"], node.options["last"])
            _say(view, span)
            with _progress(span) as advance:
                for audited in audit.windows(span):
                    found.append(audited)
                    advance()
    finally:
        view.close()
        if found:
            _print(found, json=node.options["json"])
    return 0 if first_fault(found) is None else EXIT_STOPPED


def _say(view: RunView, span: Span) -> None:
    whose = f"windows of run {view.run} by uid {view.aggregator.uid} ({view.aggregator.hotkey})"
    log.info("auditing %s: %d..%d, replayed from window %d on", whose, span.first, span.last, span.begin)


@contextmanager
def _progress(span: Span) -> Iterator[Callable[[], None]]:
    """Show how far the audit is, on standard error."""
    columns = (TextColumn("audit"), BarColumn(), MofNCompleteColumn(), TextColumn("windows"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("audit", total=span.last - span.begin + 1)
        yield lambda: progress.advance(task)


def _print(found: list[AuditedWindow], *, json: bool) -> None:
    if json:
        sys.stdout.write(as_json(found) + "\n")
        return
    show_windows(found, Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False))
