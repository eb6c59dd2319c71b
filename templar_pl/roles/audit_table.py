"""What an audit found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from templar_pl.roles.audit_findings import AuditedWindow, Check, Finding, Verdict, first_fault, summary

_STYLES = {
    Verdict.NOTHING: "dim",
    Verdict.AGREES: "green",
    Verdict.GONE: "dim",
    Verdict.UNCHECKED: "dim",
    Verdict.DOUBT: "yellow",
    Verdict.UNKNOWN: "bold yellow",
    Verdict.DIFFERS: "bold red",
}
_MARKS = {
    Verdict.NOTHING: "-",
    Verdict.AGREES: "✓",
    Verdict.GONE: "gone",
    Verdict.UNCHECKED: "unchecked",
    Verdict.DOUBT: "doubt",
    Verdict.UNKNOWN: "unknown",
    Verdict.DIFFERS: "DIFFERS",
}
_PLAIN_OK = "ok"
_COUNTED = frozenset({Check.PAYLOADS, Check.LEFT_OUT})  # what agrees says how many


def show_windows(windows: Sequence[AuditedWindow], console: Console) -> None:
    """Print a table with a row for each window, what does not simply agree below it, and a line that sums it up."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("window", justify="right")
    for check in Check:
        table.add_column(check.value, no_wrap=True)
    is_plain = console.options.ascii_only
    for audited in windows:
        cells = [_cell(check, audited.findings[check], is_plain=is_plain) for check in Check]
        table.add_row(str(audited.window), *cells)
    console.print(table)
    for audited in windows:
        for check, finding in audited.findings.items():
            if finding.verdict in (Verdict.DOUBT, Verdict.UNKNOWN, Verdict.DIFFERS):
                # As text: what stands in brackets is no markup.
                words = f"window {audited.window}: {check}: {finding.verdict}: {finding.words}"
                console.print(Text(words, style=_STYLES[finding.verdict]))
    console.print(Text(summary(windows), style="bold"))


def as_json(windows: Sequence[AuditedWindow]) -> str:
    """Return an object with `agrees`, `summary`, `first_fault` (a window or null) and `windows`.

    Each window has `window`, `agrees` (nothing contradicts), `payloads_gone` (its update could not be held against
    them), and by the name of each check `verdict` and `words`.
    """
    fault = first_fault(windows)
    return json.dumps(
        {
            "agrees": fault is None,
            "summary": summary(windows),
            "first_fault": None if fault is None else fault.window,
            "windows": [
                {
                    "window": audited.window,
                    "agrees": audited.agrees,
                    "payloads_gone": audited.payloads_gone,
                    "checks": {check.value: asdict(finding) for check, finding in audited.findings.items()},
                }
                for audited in windows
            ],
        },
        indent=2,
        ensure_ascii=False,
    )


def _cell(check: Check, finding: Finding, *, is_plain: bool) -> Text:
    mark = _MARKS[finding.verdict]
    if finding.verdict == Verdict.AGREES:
        mark = _PLAIN_OK if is_plain else mark
        if check in _COUNTED:
            mark = f"{mark} {finding.words}"
    return Text(mark, style=_STYLES[finding.verdict])
