"""A validator's way through the windows of a run: look, evaluate, judge, write down, publish; then the next one."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from templar_pl.chain import Chain
from templar_pl.errors import ConfigError, StoreError
from templar_pl.hparams import HParams
from templar_pl.protocol import Signer, encode_score_record
from templar_pl.roles.own_copy import Evaluated, OwnCopy
from templar_pl.roles.payload_overlaps import Grids, find_overlaps
from templar_pl.roles.score_journal import Journal, Knowledge
from templar_pl.roles.score_publisher import ScorePublisher
from templar_pl.roles.score_records import make_record
from templar_pl.roles.sightings import Lookout, Sighting
from templar_pl.scoring import (
    Draw,
    Judgement,
    Lineage,
    SyncObservation,
    WindowRecords,
    choose_from,
    judge,
)
from templar_pl.scoring.draw import SECRET_BYTES
from templar_pl.training.patience import Patience
from templar_pl.units import Window

log = logging.getLogger(__name__)

LATE_WINDOWS = 1
"""Windows beyond `validator_offset` that a validator may be behind and still evaluates."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is judged, and by whom."""

    name: str
    """First part of all keys."""

    digest: bytes
    """32 bytes, of the settings and parameter shapes that all nodes share."""

    start_window: Window
    grids: Grids
    """The chunks of each parameter."""

    hparams: HParams
    signer: Signer


@dataclass(frozen=True, slots=True)
class Parts:
    """What a validator works with."""

    chain: Chain
    copy: OwnCopy
    lookout: Lookout
    journal: Journal
    publisher: ScorePublisher
    patience: Patience


class Scorer:
    """Judges window after window, `validator_offset` behind the one that is open."""

    def __init__(self, run: Run, parts: Parts, note: Callable[[], None]) -> None:
        """Store the parts.

        Args:
            run: what is judged.
            parts: to do it with.
            note: called after each window that was judged, before the next one is followed.
        """
        self._run, self._parts, self._note = run, parts, note
        self._numbers = run.hparams
        self._before: Sighting | None = None

    def run(self, max_windows: int | None) -> None:
        """Judge windows.

        Args:
            max_windows: stop after so many; None for never.

        Raises:
            OutOfSyncError: the own copy cannot follow the run.
            StoreError: no store answered for too long, or the disk failed.
            ChainError: the chain did not answer for too long.
            ConfigError: what is on the disk is of another chain.
        """
        knowledge, judged = self._parts.journal.read(), 0
        if knowledge.scoring.window >= self._run.start_window:
            log.info("window %d was the last that was judged", knowledge.scoring.window)
            knowledge = self._publish(knowledge)
        while max_windows is None or judged < max_windows:
            knowledge = self._publish(self.judge(self._await_turn(knowledge), knowledge))
            self._note()
            judged += 1

    def judge(self, window: Window, knowledge: Knowledge) -> Knowledge:
        """Judge one window and write down what follows; nothing is published.

        Args:
            window: whose time for uploads is over, later than those judged before.
            knowledge: after the window judged before.
        """
        lineage = knowledge.lineage
        if self._parts.copy.window <= window:
            lineage = self._parts.copy.follow(window, lineage)
        sighting = self._parts.lookout.look(window)
        doubt = self._parts.copy.compare(sighting, lineage)
        lineage = lineage.forgotten() if doubt else lineage
        draw = Draw(secrets.token_bytes(SECRET_BYTES))  # what is drawn now nobody knew while payloads could be changed
        evaluated = Evaluated((), doubt) if doubt else self._evaluate(sighting, knowledge, draw)
        records = WindowRecords(
            window=window,
            presences=sighting.presences,
            evaluations=evaluated.evaluations,
            syncs=() if doubt else self._syncs(sighting, lineage),
            overlaps=find_overlaps(sighting, self._sighting_before(window), self._run.grids, draw.seed("chunks")),
        )
        judgement = judge(knowledge.scoring, records, self._numbers.scoring, self._numbers.peers)
        record = make_record(
            (self._run.name, self._run.digest), sighting, records, judgement, evaluated.note, self._numbers.scoring
        )
        if isinstance(evaluated.note, str):
            record = replace(record, secret=draw.secret)  # payloads were compared by it
        knowledge = Knowledge(judgement.state, lineage, knowledge.weights_window)
        self._parts.journal.write(knowledge, encode_score_record(record, self._run.signer))
        self._before = sighting
        _say(records, evaluated, judgement)
        return knowledge

    def _publish(self, knowledge: Knowledge) -> Knowledge:
        return self._parts.publisher.publish(knowledge, self._numbers.scoring)

    def _await_turn(self, knowledge: Knowledge) -> Window:
        """Wait until the next window is to be judged, and return it."""
        offset = self._numbers.scoring.validator_offset
        while True:
            opened = self._opened()
            window = self._next(knowledge, opened)
            if opened >= window + offset:
                return window
            self._parts.patience.pause(self._seconds_until(Window(window + offset)))

    def _seconds_until(self, window: Window) -> float:
        """Return the seconds until a window opens, but no more than one, and not so few that nothing can change."""
        chain = self._parts.chain
        left_s = self._parts.patience.insist(
            "the chain does not answer", lambda: chain.seconds_left(Window(window - 1))
        )
        return min(1.0, max(0.05, left_s))

    def _next(self, knowledge: Knowledge, opened: Window) -> Window:
        """Return the window to judge next; those whose payloads are deleted are left out."""
        offset, keep = self._numbers.scoring.validator_offset, self._numbers.window.stale_retention
        last, newest = knowledge.scoring.window, max(self._run.start_window, opened - offset)
        if last < self._run.start_window:
            return Window(newest)
        if last >= opened:
            raise ConfigError(
                f"window {last} was judged, but the chain is at window {opened} only: it is not the one that was "
                "judged. Move the folder of this validator away, or give the run another name"
            )
        if opened - (last + 1) < keep:
            return Window(last + 1)
        log.warning("windows %d to %d are not judged: their payloads are deleted by now", last + 1, newest - 1)
        return Window(newest)

    def _opened(self) -> Window:
        return self._parts.patience.insist("the chain does not answer", self._parts.chain.window)

    def _evaluate(self, sighting: Sighting, knowledge: Knowledge, draw: Draw) -> Evaluated:
        window, copy, scoring = sighting.window, self._parts.copy, self._numbers.scoring
        opened = self._opened()
        if opened - window > scoring.validator_offset + LATE_WINDOWS:
            return Evaluated((), f"window {opened} is open already: there was no time to evaluate")
        if copy.window != window:
            return Evaluated((), f"the own copy stands before window {copy.window}, beyond this one")
        chosen = choose_from(knowledge.scoring, sighting.presences, window, scoring.uids_per_window)
        if not chosen:
            return Evaluated((), "no payload counts")
        return copy.evaluate(sighting, chosen, draw)

    def _syncs(self, sighting: Sighting, lineage: Lineage) -> tuple[SyncObservation, ...]:
        max_steps = self._numbers.scoring.sync_max_steps_behind
        seen = [
            lineage.observe(uid, fetched.payload.header.fingerprint, sighting.window, max_steps)
            for uid, fetched in sighting.payloads.items()
        ]
        return tuple(observation for observation in seen if observation is not None)

    def _sighting_before(self, window: Window) -> Sighting | None:
        """Return what was published for the window before; looked at once more after a restart."""
        before = Window(window - 1)
        if before < self._run.start_window:
            return None
        if self._before is not None and self._before.window == before:
            return self._before
        try:
            return self._parts.lookout.look(before)
        except StoreError as error:
            log.warning("window %d: payloads are not compared with those before: %s", window, error)
            return None


def _say(records: WindowRecords, evaluated: Evaluated, judgement: Judgement) -> None:
    """Log what was made of a window."""
    counted, registered = sum(seen.fault is None for seen in records.presences), len(records.presences)
    if isinstance(evaluated.note, str):
        why = evaluated.note
        log.info("window %d: %d of %d miners sent, nobody is evaluated: %s", records.window, counted, registered, why)
    else:
        uids = ", ".join(str(found.uid) for found in evaluated.evaluations)
        log.info("window %d: %d of %d miners sent, evaluated: uids %s", records.window, counted, registered, uids)
    for cut in judgement.penalties:
        log.info("window %d: uid %d loses a quarter of its score: %s", cut.window, cut.uid, cut.reason)
