"""Windows of records as a validator would see them, of honest miners and of one adversary of each kind.

The noise is what trainings of the toy model showed, two momentum decays of 60 windows each, with six miners of 8
sequences a window and payloads applied with a fifth of the learning rate: see `Noise`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from templar_pl.config import PeersConfig, ScoringConfig
from templar_pl.errors import Fault
from templar_pl.scoring import (
    Evaluation,
    Losses,
    Overlap,
    Presence,
    ScoringState,
    SyncObservation,
    Upload,
    WindowRecords,
    choose_from,
    judge,
)
from templar_pl.units import Hotkey, Uid, Window

SHARED_MEAN, SHARED_SPREAD = 0.003, 0.0023
"""Relative improvement on random pages that all honest payloads of a window have in common, and its spread."""

HONEST_AGREEMENT = (0.02, 0.25)
"""Range of the agreement of honest pairs, from the tenth window on."""


@dataclass(frozen=True)
class Noise:
    """Improvements of one kind of miner: on random pages relative to the honest, and on its own above random ones."""

    offset: float
    spread: float
    advantage: float
    advantage_spread: float


NOISE = {
    "honest": Noise(0.0, 0.001, 0.002, 0.0019),
    "lazy": Noise(0.0002, 0.0015, 0.0, 0.0017),
    "stale": Noise(-0.0015, 0.0018, 0.0008, 0.0015),
    "liar": Noise(-0.0015, 0.0018, 0.0008, 0.0015),  # stale, and says that it is not
    "noisy": Noise(-0.003, 0.00013, 0.0, 0.00013),
    "copycat": Noise(0.0, 0.0, 0.0, 0.0017),
}
STALE_STEPS = 2.0
"""Of the stale miner, which is the harder to see the fewer they are."""

CAST = ("honest", "honest", "honest", "honest", "copycat", "noisy", "lazy", "stale")
VICTIM = Uid(0)


class Network:
    """Draws the records of one window after the other."""

    def __init__(self, seed: int, cast: tuple[str, ...] = CAST) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a simulation must repeat
        self.cast = dict(zip(map(Uid, range(len(cast))), cast, strict=True))

    def presences(self, silent: frozenset[Uid] = frozenset()) -> tuple[Presence, ...]:
        return tuple(
            Presence(uid=uid, hotkey=Hotkey(f"hotkey-{uid}"), fault=Fault.MISSING if uid in silent else None)
            for uid in self.cast
        )

    def records(
        self, window: Window, presences: tuple[Presence, ...], chosen: list[Uid], *, detects_copies: bool
    ) -> WindowRecords:
        present = [seen.uid for seen in presences if seen.fault is None]
        improvements = self._improvements()
        return WindowRecords(
            window=window,
            presences=presences,
            evaluations=tuple(self._evaluation(uid, *improvements[uid]) for uid in chosen),
            syncs=tuple(
                SyncObservation(uid=uid, steps_behind=STALE_STEPS if self.cast[uid] == "stale" else 0.0)
                for uid in present
            ),
            overlaps=tuple(self._overlaps(window, present)) if detects_copies else (),
        )

    def _improvements(self) -> dict[Uid, tuple[float, float]]:
        """Return uid -> relative improvement on own and on random pages."""
        shared, gauss = self._random.gauss(SHARED_MEAN, SHARED_SPREAD), self._random.gauss
        found: dict[Uid, tuple[float, float]] = {}
        for uid, kind in self.cast.items():
            noise = NOISE[kind]
            base = 0.003 if kind == "noisy" else shared  # noise does not follow what others find
            on_random = base + noise.offset + gauss(0, noise.spread)
            if kind == "copycat":
                on_random = found[VICTIM][1]
            found[uid] = on_random + gauss(noise.advantage, noise.advantage_spread), on_random
        return found

    def _evaluation(self, uid: Uid, own: float, on_random: float) -> Evaluation:
        before = self._random.uniform(2, 4), self._random.uniform(2, 4)
        return Evaluation(
            uid=uid,
            own=Losses(before[0], before[0] * (1 - own)),
            random=Losses(before[1], before[1] * (1 - on_random)),
        )

    def _overlaps(self, window: Window, present: list[Uid]) -> Iterator[Overlap]:
        uploads = {uid: upload_of(uid, window, 10.0 if self.cast[uid] == "copycat" else 1.0 + uid) for uid in present}
        for first in present:
            for second in present:
                if first < second:
                    is_copy = first == VICTIM and self.cast[second] == "copycat"
                    agreement = 1.0 if is_copy else self._random.uniform(*HONEST_AGREEMENT)
                    yield Overlap(first=uploads[first], second=uploads[second], agreement=agreement)


def upload_of(uid: int, window: int, uploaded_at: float) -> Upload:
    return Upload(uid=Uid(uid), window=Window(window), uploaded_at=uploaded_at, sha256=f"{uid:064x}")


def simulate(
    seed: int,
    *,
    windows: int = 30,
    cast: tuple[str, ...] = CAST,
    scoring: ScoringConfig | None = None,
    detects_copies: bool = True,
) -> ScoringState:
    """Return the state after so many windows."""
    scoring = scoring or ScoringConfig()
    network, state = Network(seed, cast), ScoringState()
    for window in map(Window, range(100, 100 + windows)):
        presences = network.presences()
        chosen = choose_from(state, presences, window, scoring.uids_per_window)
        records = network.records(window, presences, chosen, detects_copies=detects_copies)
        state = judge(state, records, scoring, PeersConfig()).state
    return state
