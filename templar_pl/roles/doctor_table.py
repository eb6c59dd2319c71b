"""The rows of `doctor` as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from templar_pl.roles.doctor_rows import Row, State

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.SKIPPED: "dim"}
_MARKS = {State.OK: "✓", State.WARNING: "!", State.FAILED: "✗", State.SKIPPED: "-"}
_PLAIN_MARKS = {State.OK: "ok", State.WARNING: "!!", State.FAILED: "XX", State.SKIPPED: "-"}


def show_table(rows: Sequence[Row], console: Console) -> None:
    """Print a table, and a line that sums it up."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("found, and how to mend it", overflow="fold")
    is_plain = console.options.ascii_only
    marks, arrow = (_PLAIN_MARKS, "->") if is_plain else (_MARKS, "→")
    for row in rows:
        # As text: what stands in brackets is no markup.
        found = Text(row.found)
        if row.mend:
            found.append(f"\n{arrow} {row.mend}", style="bold")
        table.add_row(Text(marks[row.state], style=_STYLES[row.state]), row.check, found)
    console.print(table)
    console.print(summary(rows))


def summary(rows: Sequence[Row]) -> str:
    """Return what follows from the rows, in one line."""
    count = Counter(row.state for row in rows)
    numbers = ", ".join(f"{state} {count[state]}" for state in State)
    verdict = "something would stop the run" if count[State.FAILED] else "nothing here would stop the run"
    return f"{numbers}: {verdict}"


def as_json(rows: Sequence[Row]) -> str:
    """Return a list of objects with `check`, `state` (ok, warning, failed, skipped), `found` and `mend`."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
