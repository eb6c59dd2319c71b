"""The table of docs/reliability.md: what nodes did about each fault."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.fault_list import Fault
from tests.end_to_end.watch import Watch

HEAD = "| fault | on | window applied after | payloads applied | left out, as logged | own payload | parameters |"
SECONDS = 2  # column that differs from run to run
NOTHING = "—"

# In a log, and in the table; where nodes differ in one of these, the first one tells more.
REASONS = (
    (r"written [\d.]+ s after uploads were accepted", "written … s after uploads were accepted"),
    (r"the store answered \d+", ""),
    (r"the store fell silent", ""),
    (r"the connection broke", ""),
    (r"no connection", ""),
    (r"there is no such object", ""),
    (r"the store has not answered", ""),
    (r"the store did not answer", ""),
    (r"the body took too long", ""),
)


@dataclass(frozen=True)
class Row:
    """One fault and its outcome."""

    fault: str
    where: str
    seconds: float
    """From the end of the window until the last node had applied it."""

    applied: str
    left_out: str
    own: str
    agree: str

    def cells(self) -> list[str]:
        """Return the columns as text."""
        return [
            *(self.fault, self.where, f"{self.seconds:.1f} s", self.applied),
            *(self.left_out, self.own, self.agree),
        ]


def observe(watch: Watch, fault: Fault, window: int, uids: Mapping[str, int], agree: str) -> Row:
    """Read out of the logs what nodes did about a fault in a window."""
    applied = {name: watch.applied[name][window] for name in watch.applied}
    names = {uid: name for name, uid in uids.items()}
    left_out: dict[str, set[int]] = {}
    for one in applied.values():
        for uid, text in one.skipped.items():
            left_out.setdefault(names[uid], set()).add(_reason(text))
    own = {}
    for name, one in applied.items():
        text = watch.nodes[name].text()
        if one.not_sent:
            assert f"window {window}: own payload not sent, kept in the momentum" in text, text
            own[name] = f"kept in the momentum: {_word(_reason(one.not_sent), one.not_sent)}"
        elif f"window {window}: the own payload landed after all" in text:
            own[name] = "taken for lost, landed after all"
    why = {
        name: _word(min(reasons), " ".join(one.line for one in applied.values()))
        for name, reasons in sorted(left_out.items())
    }
    return Row(
        fault.name,
        fault.where,
        max(one.seen_at for one in applied.values()) - watch.end_of(window),
        _together({name: str(one.peers) for name, one in applied.items()}, len(applied)),
        _together(why, len(applied)),
        _together(own, len(applied)),
        agree,
    )


def render(rows: Iterable[Row]) -> str:
    """Return the table."""
    lines = [HEAD, "|" + " --- |" * HEAD.count(" | ") + " --- |"]
    return "\n".join([*lines, *("| " + " | ".join(row.cells()) + " |" for row in rows)]) + "\n"


def stable(table: str) -> list[list[str]]:
    """Return the cells of all lines of a table but the seconds."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return [cells[:SECONDS] + cells[SECONDS + 1 :] for cells in lines]


def table_of(document: str) -> str:
    """Return the table inside a document; empty if there is none."""
    lines = document.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.strip() == HEAD]
    if not starts:
        return ""
    end = next((n for n, line in enumerate(lines) if n > starts[0] and not line.startswith("|")), len(lines))
    return "".join(lines[starts[0] : end])


def write(path: Path, rows: Sequence[Row]) -> None:
    """Put the table in place of the one inside a document."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(table_of(text), render(rows)), encoding="utf-8")


def _reason(text: str) -> int:
    """Return which of REASONS a line of a log tells."""
    found = [number for number, (pattern, _) in enumerate(REASONS) if re.search(pattern, text)]
    assert found, f"no reason in: {text}"
    return found[0]


def _word(number: int, text: str) -> str:
    pattern, word = REASONS[number]
    found = re.search(pattern, text)
    assert found is not None
    return word or found[0]


def _together(by_name: Mapping[str, str], count: int) -> str:
    """Say what holds for which node: once, if it is the same for all."""
    texts = set(by_name.values())
    if not texts:
        return NOTHING
    if len(texts) == 1 and len(by_name) == count:
        return texts.pop() if texts <= {"0", "1", "2", "3"} else f"all: {texts.pop()}"
    return "; ".join(f"{name}: {text}" for name, text in by_name.items())
