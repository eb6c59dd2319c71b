"""What follows from findings: the worst one counts, the first window is named, and a report says all of it."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from templar_pl.roles.audit_findings import (
    NOTHING,
    AuditedWindow,
    Check,
    Finding,
    Verdict,
    first_fault,
    joined,
    summary,
)
from templar_pl.roles.audit_table import as_json, show_windows
from templar_pl.units import Window

ORDER = list(Verdict)
FINE = {Verdict.NOTHING, Verdict.AGREES, Verdict.GONE, Verdict.UNCHECKED, Verdict.DOUBT}
findings = st.builds(Finding, st.sampled_from(Verdict), st.text("abc [/]", max_size=9))
windows = st.lists(st.fixed_dictionaries(dict.fromkeys(Check, findings)), max_size=5).map(
    lambda each: [AuditedWindow(Window(7 + i), found) for i, found in enumerate(each)]
)


def window(number: int, **changes: Finding) -> AuditedWindow:
    agreeing = {check: Finding(Verdict.AGREES) for check in Check}
    return AuditedWindow(Window(number), agreeing | {Check(name): found for name, found in changes.items()})


@given(st.lists(findings))
def test_the_worst_finding_counts_and_keeps_the_words_of_all_that_tell_something(drawn: list[Finding]) -> None:
    telling = [f for f in drawn if f.verdict not in (Verdict.NOTHING, Verdict.AGREES)]

    found = joined(drawn, otherwise=Finding(Verdict.AGREES, "otherwise"))

    if not telling:
        assert found == Finding(Verdict.AGREES, "otherwise")
    else:
        assert found.verdict == max((f.verdict for f in telling), key=ORDER.index)
        assert sorted(found.words) == sorted("; ".join(f.words for f in telling))


@given(windows)
def test_a_window_agrees_if_everything_was_judged_and_nothing_contradicts(drawn: list[AuditedWindow]) -> None:
    wrong = [a for a in drawn if {f.verdict for f in a.findings.values()} - FINE]

    assert [a for a in drawn if not a.agrees] == wrong
    assert first_fault(drawn) == (wrong[0] if wrong else None)
    assert all(bool(a.fault()) for a in wrong)


@given(windows)
def test_nobody_reads_that_windows_agree_whose_payloads_are_gone(drawn: list[AuditedWindow]) -> None:
    unseen = [a for a in drawn if a.findings[Check.PAYLOADS].verdict == Verdict.GONE and a.is_window]

    said = summary(drawn)

    assert not (unseen and re.search(r"\d agrees?\b", said))
    assert [a for a in drawn if a.is_window and a.payloads_gone] == unseen


@given(windows)
def test_programs_and_people_are_told_the_same(drawn: list[AuditedWindow]) -> None:
    console = Console(file=io.StringIO(), width=500, highlight=False)
    show_windows(drawn, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]  # it is the one above
    read = json.loads(as_json(drawn))

    assert printed.splitlines()[-1].rstrip() == summary(drawn).rstrip()
    assert read["summary"] == summary(drawn)
    assert read["agrees"] == (first_fault(drawn) is None)
    assert [w["window"] for w in read["windows"]] == [a.window for a in drawn]
    for a, w in zip(drawn, read["windows"], strict=True):
        assert w["agrees"] == a.agrees
        assert w["payloads_gone"] == (a.findings[Check.PAYLOADS].verdict == Verdict.GONE)
        assert {Check(name): Finding(**found) for name, found in w["checks"].items()} == a.findings


@pytest.mark.parametrize(
    ("audited", "words"),
    [
        ([], "no window was audited"),
        ([window(3)], "window 3 agrees"),
        ([window(3), window(4)], "windows 3..4 agree"),
        ([window(3), window(4, manifest=NOTHING)], "window 3 agrees"),
        (
            [window(3, payloads=Finding(Verdict.GONE, "old")), window(4)],
            "windows 3..4 contradict nothing, but in 1 of them payloads are gone: the update was not held against them",
        ),
        (
            [
                window(3, payloads=Finding(Verdict.GONE, "old"), aggregate=Finding(Verdict.UNCHECKED, "stands")),
                window(4, payloads=Finding(Verdict.GONE, "old")),
            ],
            "windows 3..4 contradict nothing, but in 2 of them payloads are gone: the update was not held "
            "against them; in 1 of them something could not be checked",
        ),
        (
            [window(3, payloads=Finding(Verdict.GONE, "old"))],
            "window 3 contradicts nothing, but in 1 of them payloads are gone: the update was not held against them",
        ),
        (
            [window(3, payloads=Finding(Verdict.DOUBT, "odd")), window(4)],
            "windows 3..4 agree; in 1 of them something is odd",
        ),
        (
            [window(n, **{"in time": Finding(Verdict.UNCHECKED, "not kept")}) for n in (3, 4)],
            "windows 3..4 agree; in 2 of them something could not be checked",
        ),
        (
            [window(3, manifest=Finding(Verdict.UNCHECKED, "deleted")), window(4), window(5)],
            "windows 4..5 agree; 1 were deleted while they were audited",
        ),
        (
            [window(3, manifest=Finding(Verdict.DOUBT, "odd")), window(4, payloads=Finding(Verdict.UNCHECKED, "old"))],
            "windows 3..4 agree; in 1 of them something is odd; in 1 of them something could not be checked",
        ),
        (
            [window(3), window(4, aggregate=Finding(Verdict.UNKNOWN, "a"), manifest=Finding(Verdict.DIFFERS, "b"))],
            "window 4 does not agree: manifest: b; aggregate: a",
        ),
        (
            [window(n, fingerprint=Finding(Verdict.DIFFERS, "x")) for n in (3, 4)],
            "window 3 does not agree: fingerprint: x (2 of windows 3..4 do not)",
        ),
    ],
)
def test_a_sentence_sums_it_up(audited: list[AuditedWindow], words: str) -> None:
    assert summary(audited) == words
