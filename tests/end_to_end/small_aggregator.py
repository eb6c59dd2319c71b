"""The least that an aggregator is: it gathers what landed, applies it to its own copy, and publishes manifests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from templar_pl import LocalNetwork
from templar_pl.chain import LocalChainConfig
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig, PeersConfig, WindowConfig
from templar_pl.errors import Fault
from templar_pl.exchange import AggregatePublisher, StandingManifest
from templar_pl.exchange.aggregates import FileBucket
from templar_pl.exchange.window_values import Collected, Limits
from templar_pl.protocol import Exclusion, Manifest
from templar_pl.protocol.fingerprint import fingerprint
from templar_pl.training.opening import open_round_trip
from templar_pl.training.patient_chain import PatientChain
from templar_pl.training.phases import PhaseClock
from templar_pl.training.run_digest import run_digest
from templar_pl.units import Uid, Window

UNFIT = Exclusion(Fault.LATE, "not wanted")


class SmallAggregator:
    """Writes the manifests of a run of a module whose optimizer is SGD."""

    def __init__(
        self,
        root: Path,
        module: LightningModule,
        compression: CompressionConfig,
        window: WindowConfig,
        *,
        chain: LocalChainConfig,
        lr: float,
    ) -> None:
        self.module, self._lr = module, lr
        self._updates: dict[Window, dict[str, Tensor]] = {}
        self.parameters = dict(module.named_parameters())
        shapes = {name: tuple(p.shape) for name, p in self.parameters.items()}
        codec = MomentumCodec(shapes, compression, torch.device("cpu"))
        self._digest = run_digest(self.parameters, compression, PeersConfig(), b"")
        self.connection = connection = LocalNetwork(str(root), hotkey="writer", chain=chain).open(
            self._digest, window, sends=False
        )
        identity = connection.identity(self._digest)
        limits = Limits(window.gather_timeout_seconds, 60.0, 15, 100, lambda: None)
        patient = PatientChain(connection.chain, PhaseClock(), patience_s=60.0, check_interrupt=lambda: None)
        self._round_trip = open_round_trip(codec, identity, connection, limits, chain=patient)
        bucket = connection.buckets.own()
        assert hasattr(bucket, "put_file")
        files: FileBucket = bucket  # pyright: ignore[reportAssignmentType]  # folders hold files
        self._publisher = AggregatePublisher(files, connection.run, root, connection.signer, connection.verify)

    def follow(self, window: Window, unwanted: frozenset[str] = frozenset()) -> Manifest:
        """Apply a window, without the payloads of some hotkeys, and return its manifest."""
        collected = self._round_trip.record.collect(window, None)
        peers = self.connection.chain.peers()
        kept = {uid for uid in collected.payloads if peers[uid].hotkey not in unwanted}
        before = fingerprint(self.parameters)
        payloads = [collected.payloads[uid].chunks for uid in sorted(kept)]
        self._updates[window] = update = self._round_trip.update(self._only(collected, kept))
        self._step(update if payloads else {})
        return Manifest(
            run=self._digest,
            window=window,
            payloads={uid: sha256 for uid, sha256 in collected.settlement.payloads.items() if uid in kept},
            left_out={uid: UNFIT for uid in collected.payloads if uid not in kept},
            opened_at=collected.settlement.opened_at,
            closed_at=collected.settlement.closed_at,
            before=before,
            after=fingerprint(self.parameters),
            steps=window + 1,
            learning_rate=self._lr,
        )

    def publish(self, manifest: Manifest) -> StandingManifest:
        """Put a manifest into the own bucket."""
        return self._publisher.publish_manifest(manifest)

    def publish_aggregate(self, standing: StandingManifest, *, sign: int = 1) -> None:
        """Put the aggregate of a window into the own bucket; with sign -1 that of another update."""
        update = {name: sign * signs for name, signs in self._updates[standing.manifest.window].items()}
        shapes = {name: tuple(signs.shape) for name, signs in update.items()}
        self._publisher.publish_aggregate(standing, sorted(update.items()), shapes)

    def close(self) -> None:
        """Leave the network."""
        self.connection.close()

    def _step(self, update: Mapping[str, Tensor]) -> None:
        optimizer = torch.optim.SGD(self.parameters.values(), lr=self._lr)
        for name, signs in update.items():
            self.parameters[name].grad = signs
        optimizer.step()
        optimizer.zero_grad()

    @staticmethod
    def _only(collected: Collected, kept: set[Uid]) -> Collected:
        payloads = {uid: payload for uid, payload in collected.payloads.items() if uid in kept}
        return Collected(collected.settlement, payloads, {}, 0)
