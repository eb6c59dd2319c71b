"""Replays windows and holds the parameters they lead to, and their updates, against what the store says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from templar_pl.errors import AggregateError, StoreError
from templar_pl.exchange import read_aggregate
from templar_pl.protocol import Manifest, Shapes, Verify
from templar_pl.roles.audit_findings import NOTHING, Check, Finding, Verdict
from templar_pl.roles.audit_store import Evidence, StoredAggregate
from templar_pl.training.replica import Replica

Update = Iterable[tuple[str, Tensor]]


class Compared:
    """An update on its way into the model, held against an aggregate tensor by tensor."""

    def __init__(self, update: Update, aggregate: Iterator[tuple[str, Tensor]]) -> None:
        """Store both.

        Args:
            update: name and -1, 0 or 1 for every element of each parameter, by name.
            aggregate: the same, as it was read; may raise `AggregateError` or `StoreError` at any step.
        """
        self._update, self._aggregate = update, aggregate
        self.finding = NOTHING
        """What was found so far; complete when the update was read to its end."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the update."""
        for name, tensor in self._update:
            self._compare(name, tensor)
            yield name, tensor
        if self.finding == NOTHING:
            self.finding = Finding(Verdict.AGREES)
            self._next()  # to the end, where the signature is

    def _compare(self, name: str, tensor: Tensor) -> None:
        if self.finding != NOTHING or (read := self._next()) is None:
            return
        other = read[1]
        differing = int((tensor.cpu().to(torch.int8) != other).sum())
        if differing:
            words = f"{differing} of {other.numel()} elements of {name} differ from what the payloads make"
            self.finding = Finding(Verdict.DIFFERS, words)

    def _next(self) -> tuple[str, Tensor] | None:
        try:
            return next(self._aggregate, None)
        except (AggregateError, StoreError) as error:
            self.finding = Finding(Verdict.DIFFERS, str(error))
            return None


class Replay:
    """The parameters of a run, window after window."""

    def __init__(self, replica: Replica, verify: Verify, check_interrupt: Callable[[], None]) -> None:
        """Begin with the parameters that a replica has.

        Args:
            replica: of the model; belongs to the replay from here on.
            verify: checks a signature.
            check_interrupt: asked before each tensor; raises what should end the audit.
        """
        self.replica, self._verify, self._check_interrupt = replica, verify, check_interrupt
        self._shapes: Shapes = replica.shapes
        self.lost = ""
        """Why the parameters are not those of the run; empty if they are, as far as is known."""

        self._is_excused = False

        self.at = replica.fingerprint()
        """Fingerprint of the parameters; without meaning while lost."""

    def go_on_from(self, applied: int) -> None:
        """Go on from what was just loaded into the replica, so many windows of the run applied."""
        self.replica.applied = applied
        self.lost, self.at = "", self.replica.fingerprint()

    def lose(self, why: str, *, is_excused: bool = False) -> None:
        """Note that the parameters are not those of the run any more; `is_excused` if that is nobody's fault."""
        self.lost, self._is_excused = why, is_excused

    def step(self, found: Evidence) -> None:
        """Apply a window, and add what follows to its findings.

        The payloads count; where they cannot be had all, the aggregate stands for them.
        """
        manifest = found.manifest
        if manifest is not None and not self.lost:
            self._compare_start(found, manifest)
        if found.payloads is not None:
            chunks = [payload.chunks for payload in found.payloads.values()]
            self._apply_payloads(found, self.replica.codec.updates(chunks))
        elif found.aggregate is not None:
            self._apply_aggregate(found, found.aggregate)
        elif not self.lost:
            why = f"of window {found.window} neither all payloads nor an aggregate can be used"
            self.lose(why, is_excused=found.is_deleted)
        self._compare_end(found, manifest)

    def _compare_start(self, found: Evidence, manifest: Manifest) -> None:
        if (rate := self.replica.learning_rate) != manifest.learning_rate:
            words = f"its learning rate is {manifest.learning_rate!r}, the schedule has {rate!r}"
            found.add(Check.MANIFEST, Finding(Verdict.DIFFERS, words))
        if self.at != manifest.before:
            words = f"it begins with parameters {_short(manifest.before)}, the replay has {_short(self.at)}"
            found.add(Check.FINGERPRINT, Finding(Verdict.DIFFERS, words))
            self.lose(f"the replay and the manifest of window {found.window} begin with other parameters")

    def _apply_payloads(self, found: Evidence, update: Update) -> None:
        compared = None
        if found.aggregate is not None:
            update = compared = Compared(update, self._read(found.aggregate))
        if not self.lost:
            self._apply(update)
        elif compared is not None:
            for _ in compared:  # the update follows from the payloads alone
                pass
        if compared is not None:
            found.add(Check.AGGREGATE, compared.finding)

    def _apply_aggregate(self, found: Evidence, aggregate: StoredAggregate) -> None:
        tensors = self._read(aggregate)
        try:
            if not self.lost:
                self._apply(tensors)
            for _ in tensors:  # of which nothing is left if it was applied
                pass
        except (AggregateError, StoreError) as error:
            found.add(Check.AGGREGATE, Finding(Verdict.DIFFERS, str(error)))
            self.lose(f"the aggregate of window {found.window} cannot be read to its end")
        else:
            found.add(Check.AGGREGATE, Finding(Verdict.UNCHECKED, "stands for the payloads"))

    def _apply(self, update: Update) -> None:
        self.replica.apply(self._watched(update))
        self.at = self.replica.fingerprint()

    def _watched(self, update: Update) -> Update:
        for tensor in update:
            self._check_interrupt()
            yield tensor

    def _compare_end(self, found: Evidence, manifest: Manifest | None) -> None:
        if self.lost:
            found.add(Check.FINGERPRINT, Finding(_unknown(is_excused=self._is_excused), self.lost))
        elif manifest is None:
            words = "no manifest says what it must be"
            found.add(Check.FINGERPRINT, Finding(_unknown(is_excused=found.is_deleted), words))
        elif self.at != manifest.after:
            words = f"the window leads to parameters {_short(self.at)}, the manifest says {_short(manifest.after)}"
            found.add(Check.FINGERPRINT, Finding(Verdict.DIFFERS, words))
        else:
            found.add(Check.FINGERPRINT, Finding(Verdict.AGREES, _short(self.at)))

    def _read(self, aggregate: StoredAggregate) -> Iterator[tuple[str, Tensor]]:
        return read_aggregate(aggregate.path, self._shapes, aggregate.head, self._verify)


def _unknown(*, is_excused: bool) -> Verdict:
    return Verdict.UNCHECKED if is_excused else Verdict.UNKNOWN


def _short(digest: bytes) -> str:
    return digest.hex()[:16]
