"""What an audit finds of each window, and what follows from it. Pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from templar_pl.units import Window


class Check(StrEnum):
    """What of a window is looked at."""

    CHECKPOINT = "checkpoint"
    """The checkpoints that stand before the window: signature, hashes, and the state that the replay has there."""

    MANIFEST = "manifest"
    """Signature, run, window, what it goes on from, steps and learning rate."""

    PAYLOADS = "payloads"
    """Each that is listed: there, hash, signature, sender, window, content."""

    LEFT_OUT = "left out"
    """Each that is not: no valid one landed in time."""

    IN_TIME = "in time"
    """Each that is listed: when it landed, by its store."""

    NOT_NAMED = "not named"
    """Each of whom the manifest says nothing: it was no candidate, or sent nothing that counts."""

    AGGREGATE = "aggregate"
    """Notice, hash, signature, manifest, and the update that the payloads make, bit for bit."""

    FINGERPRINT = "fingerprint"
    """The replayed parameters before and after the window are those of the manifest."""


class Verdict(StrEnum):
    """How a check ended. The later ones are the worse ones."""

    NOTHING = "nothing"
    """There was nothing to look at."""

    AGREES = "agrees"
    GONE = "gone"
    """What was to be looked at is not kept any more, as it may be; something else stands for it, unproven."""

    UNCHECKED = "unchecked"
    """It could not be looked at, since what would tell it is not kept; nothing speaks against it."""

    DOUBT = "doubt"
    """Odd, but no proof of anything: somebody should look."""

    UNKNOWN = "unknown"
    """It could not be judged, since something else is missing or wrong."""

    DIFFERS = "differs"
    """The store contradicts itself."""


_RANK = {verdict: place for place, verdict in enumerate(Verdict)}
_FAULTS = frozenset({Verdict.UNKNOWN, Verdict.DIFFERS})


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    verdict: Verdict
    words: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether a window with it does not agree."""
        return self.verdict in _FAULTS


NOTHING = Finding(Verdict.NOTHING)


def joined(findings: Iterable[Finding], otherwise: Finding = NOTHING) -> Finding:
    """Return several findings as one: the worst verdict, and the words of all that do not simply agree.

    Args:
        findings: any number.
        otherwise: what is returned if all agree or there is nothing.
    """
    telling = [finding for finding in findings if _RANK[finding.verdict] > _RANK[Verdict.AGREES]]
    if not telling:
        return otherwise
    telling.sort(key=lambda finding: -_RANK[finding.verdict])  # stable: of one verdict the first stays first
    return Finding(telling[0].verdict, "; ".join(finding.words for finding in telling))


@dataclass(frozen=True)
class AuditedWindow:
    """What was found of one window."""

    window: Window
    findings: Mapping[Check, Finding]
    """Of every check."""

    @property
    def is_window(self) -> bool:
        """Whether it is more than a checkpoint behind the last window."""
        return self.findings[Check.MANIFEST] != NOTHING

    @property
    def is_skipped(self) -> bool:
        """Whether it was deleted before anything could be said of it."""
        return self.findings[Check.MANIFEST].verdict == Verdict.UNCHECKED

    @property
    def agrees(self) -> bool:
        """Whether nothing contradicts anything, and nothing is missing that must be there."""
        return not any(finding.is_fault for finding in self.findings.values())

    @property
    def payloads_gone(self) -> bool:
        """Whether nobody can tell any more if its update is that of the listed payloads."""
        return self.findings[Check.PAYLOADS].verdict == Verdict.GONE

    def fault(self) -> str:
        """Return what is wrong, the worst first; empty if it agrees."""
        wrong = [(check, finding) for check, finding in self.findings.items() if finding.is_fault]
        wrong.sort(key=lambda item: -_RANK[item[1].verdict])
        return "; ".join(f"{check}: {finding.words}" for check, finding in wrong)


def first_fault(windows: Sequence[AuditedWindow]) -> AuditedWindow | None:
    """Return the first window that does not agree."""
    return next((audited for audited in windows if not audited.agrees), None)


def summary(windows: Sequence[AuditedWindow]) -> str:
    """Say in one sentence what was found."""
    whole = [audited.window for audited in windows if audited.is_window and not audited.is_skipped]
    num_skipped = sum(audited.is_skipped for audited in windows)
    skipped = f"; {num_skipped} were deleted while they were audited" if num_skipped else ""
    if not whole:
        return f"no window was audited{skipped}"
    span = f"windows {whole[0]}..{whole[-1]}" if len(whole) > 1 else f"window {whole[0]}"
    wrong = [audited for audited in windows if not audited.agrees]
    if wrong:
        others = f" ({len(wrong)} of {span} do not)" if len(wrong) > 1 else ""
        return f"window {wrong[0].window} does not agree: {wrong[0].fault()}{others}"
    more = [(Verdict.DOUBT, "is odd"), (Verdict.UNCHECKED, "could not be checked")]
    told = [audited for audited in windows if not audited.is_skipped]
    counts = [(_num_with(told, verdict), words) for verdict, words in more]
    others = "".join(f"; in {count} of them something {words}" for count, words in counts if count)
    return f"{span} {_good(told, is_one=len(whole) == 1)}{others}{skipped}"


def _good(windows: Sequence[AuditedWindow], *, is_one: bool) -> str:
    """Say how well windows agree of which none contradicts anything."""
    ending = "s" if is_one else ""
    if num_gone := sum(audited.payloads_gone for audited in windows):
        gone = f"in {num_gone} of them payloads are gone: the update was not held against them"
        return f"contradict{ending} nothing, but {gone}"
    return f"agree{ending}"


def _num_with(windows: Sequence[AuditedWindow], verdict: Verdict) -> int:
    return sum(any(finding.verdict == verdict for finding in audited.findings.values()) for audited in windows)
