"""A run written by hand, with real documents in a real store and on a real chain whose clock stands still."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from templar_pl.chain import HotkeySigner, LocalChain, LocalChainConfig, load_or_create_hotkey, new_hotkey, verify
from templar_pl.errors import Fault
from templar_pl.exchange import LocalBuckets
from templar_pl.exchange.aggregates import AggregatePublisher
from templar_pl.protocol import Manifest
from templar_pl.protocol.keys import debug_keys, score_keys
from templar_pl.protocol.manifest import Exclusion
from templar_pl.protocol.score_document import encode_score_record
from templar_pl.protocol.score_record import ScoredMiner, ScoreRecord
from templar_pl.roles.swarm_history import Watched, Watcher
from templar_pl.training import WindowReport
from templar_pl.training.report import Norms, Tally
from templar_pl.units import Hotkey, Uid, Window

RUN = "local-1234"
DIGEST = hashlib.sha256(b"settings").digest()
GENESIS = 1_800_000_000.0
CONFIG = LocalChainConfig(pace="wall", seconds_per_block=1.0, blocks_per_window=10, delta_s=2, record_windows=False)
NORMS = Norms(mean_grad=1.0, max_grad=1.0, min_grad=1.0, grad_std=0.0, mean_weight=1.0, mean_momentum=1.0)


def state(window: int) -> bytes:
    """Return the fingerprint that all should hold before a window."""
    return hashlib.sha256(f"parameters before {window}".encode()).digest()


class WrittenRun:
    """A run whose nodes are in files only. Uids are given in the order of the names."""

    def __init__(self, folder: Path, miners: Sequence[str], *, opened: int = 12) -> None:
        self._folder, self._opened = folder, opened
        self.names = [*miners, "validator", "aggregator"]
        self.signers = {name: load_or_create_hotkey(folder / "hotkeys", name) for name in self.names}
        self.hotkeys = {name: signer.hotkey for name, signer in self.signers.items()}
        self.uids = {name: Uid(number) for number, name in enumerate(self.names)}
        for name, signer in self.signers.items():
            chain = self._chain(signer, GENESIS)
            assert chain.register(sends=name in miners) == self.uids[name]
            chain.commit(signer.hotkey)
            chain.close()
        self.chain = self._chain(new_hotkey(), GENESIS + 10 * opened)

    def watcher(self, *, aggregator: bool = True, validator: bool = True) -> Watcher:
        """Return what reads it."""
        hotkeys: dict[str, Hotkey] = self.hotkeys
        return Watcher(
            Watched(
                run=RUN,
                digest=DIGEST,
                chain=self.chain,
                buckets=LocalBuckets(self._folder / "store", "nobody"),
                verify=verify,
                aggregator=hotkeys["aggregator"] if aggregator else None,
                validator=hotkeys["validator"] if validator else None,
            )
        )

    def report(self, name: str, window: int, loss: float = 2.0, *, before: bytes | None = None, why: str = "") -> None:
        """Have a miner report a window."""
        tally = Tally()
        tally.add(torch.tensor(loss), 10)
        report = WindowReport(
            window=Window(window),
            applied=window + 1,
            tally=tally,
            total_tokens=10,
            peers_tokens=20,
            learning_rate=0.1,
            parameters_before=state(window) if before is None else before,
            norms=NORMS,
            participants=2,
            peers=(Uid(0), Uid(1)),
            put_failed=why,
            bytes_up=0 if why else 100,
            bytes_down=200,
        )
        self.put(name, debug_keys(RUN, self.uids[name]).key(Window(window)), report.to_json())

    def manifest(
        self, window: int, *, before: bytes | None = None, by: str = "aggregator", digest: bytes = DIGEST
    ) -> None:
        """Have the aggregator say what a window was."""
        manifest = Manifest(
            run=digest,
            window=Window(window),
            payloads={Uid(0): bytes(32)},
            left_out={Uid(1): Exclusion(Fault.LATE, "late")},
            opened_at=1.0,
            closed_at=3.0,
            before=state(window) if before is None else before,
            after=state(window + 1),
            steps=window + 1,
            learning_rate=0.1,
        )
        bucket = LocalBuckets(self._folder / "store", self.hotkeys["aggregator"]).own()
        publisher = AggregatePublisher(bucket, RUN, self._folder, self.signers[by], verify)
        publisher.publish_manifest(manifest)

    def score(self, window: int, scores: Mapping[str, float], *, by: str = "validator") -> None:
        """Have the validator say what it gave each miner."""
        miners = {
            self.uids[name]: ScoredMiner(
                hotkey=self.hotkeys[name], fault=None, sha256=bytes(32), steps_behind=0.0, score=score, weight=0.0
            )
            for name, score in scores.items()
        }
        record = ScoreRecord(
            run=RUN, digest=DIGEST, window=Window(window), miners=miners, penalties=(), evaluation="nobody was there"
        )
        self.put("validator", score_keys(RUN).key(Window(window)), encode_score_record(record, self.signers[by]))

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Have the validator set weights."""
        chain = self._chain(self.signers["validator"], GENESIS + 10 * self._opened)
        chain.set_weights({self.uids[name]: weight for name, weight in weights.items()})
        chain.close()

    def put(self, name: str, key: str, data: bytes) -> None:
        """Write an object into a node's bucket."""
        LocalBuckets(self._folder / "store", self.hotkeys[name]).own().put(key, data)

    def _chain(self, signer: HotkeySigner, now: float) -> LocalChain:
        chain = LocalChain(self._folder / "chain.sqlite", signer, CONFIG, run=DIGEST.hex(), now=lambda: now)
        chain.open()
        return chain
