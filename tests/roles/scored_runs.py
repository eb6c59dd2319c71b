"""A run on one machine whose miners really train, and whose clock stands where a test sets it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from templar_pl.chain import HotkeySigner, LocalChain, LocalChainConfig, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec, SparseChunks
from templar_pl.config import CompressionConfig, PeersConfig, ScoringConfig, WindowConfig
from templar_pl.exchange import LocalBuckets
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.window_values import Identity, Limits
from templar_pl.hparams import HParams
from templar_pl.protocol import Header, encode_payload, payload_key
from templar_pl.roles.own_copy import Guide, OwnCopy
from templar_pl.roles.score_journal import Journal
from templar_pl.roles.score_publisher import ScorePublisher
from templar_pl.roles.scorer import Parts, Run, Scorer
from templar_pl.roles.sightings import Lookout
from templar_pl.training.patience import Patience
from templar_pl.training.replica import Replica
from templar_pl.units import Uid, Window
from tests.chain.nodes import RUN as CHAIN_RUN
from tests.chain.nodes import ManualTime
from tests.training.scored_modules import Sums

CPU = torch.device("cpu")
RUN = "scored"
WINDOW_S, DELTA_S = 10.0, 4.0
CHAIN = LocalChainConfig(
    pace="wall", record_windows=False, seconds_per_block=1.0, blocks_per_window=10, delta_s=DELTA_S
)
COMPRESSION = CompressionConfig(topk=16, momentum_decay=0.5)
HPARAMS = HParams(
    compression=COMPRESSION,
    window=WindowConfig(stale_retention=40, checkpoint_frequency=1000),
    peers=PeersConfig(minimum_peers=1),
    scoring=ScoringConfig(validator_offset=2, windows_per_weights=5, uids_per_window=8, validator_sample_rate=1.0),
)
BATCHES, WIDTH, NOISE = 10, 48, 4.0


class Memory(LightningModule):
    """Learns rows by heart, so that a few windows tell who trained on which."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 1)
        with torch.no_grad():
            self.layer.weight.fill_(0.5)
            self.layer.bias.zero_()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        return (self.layer(inputs).squeeze(-1) - targets).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02)


def loader() -> DataLoader[Any]:
    return DataLoader(Sums(40, WIDTH, NOISE), batch_size=4)


def gradient_of(module: Memory, uid: int, window: Window) -> dict[str, Tensor | None]:
    """Return the mean gradient over the rows that are assigned to a miner."""
    rows = loader()
    assert isinstance(rows.dataset, Sums)
    rows.dataset.begin_window(Uid(uid), window)
    module.zero_grad()
    for number, batch in enumerate(rows):
        (module.training_step(batch, number) / BATCHES).backward()
    found = {
        name: None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }
    module.zero_grad()
    return found


@dataclass
class Miner:
    """Trains on its pages and puts what it sends into its bucket."""

    uid: Uid
    signer: HotkeySigner
    codec: MomentumCodec
    buckets: LocalBuckets

    def send_(self, world: World, window: Window, *, gradients: Mapping[str, Tensor | None] | None = None) -> None:
        module = world.model.module
        assert isinstance(module, Memory)
        found = gradient_of(module, self.uid, window) if gradients is None else gradients
        self.put(world, window, self.codec.send_(found, dict.fromkeys(found, world.model.learning_rate)))

    def put(
        self,
        world: World,
        window: Window,
        chunks: Mapping[str, SparseChunks],
        *,
        fingerprint: bytes | None = None,
        after_s: float | None = None,
    ) -> None:
        """Put a payload that lands so many seconds after the end of its window."""
        header = Header(
            run=world.model.digest,
            window=window,
            uid=self.uid,
            public_key=self.signer.public_key,
            pages=bytes(32),
            fingerprint=world.model.fingerprint() if fingerprint is None else fingerprint,
            loss=1.0,
            batches=BATCHES,
            tokens=0,
        )
        data = encode_payload(header, chunks, self.codec.grids, self.signer)
        world.place(self, window, data, 1.0 + 0.1 * self.uid if after_s is None else after_s)
        world.sent.setdefault(window, {})[self.uid] = chunks


@dataclass
class World:
    """A chain, buckets, miners, and the model that all of them hold alike."""

    folder: Path
    now: ManualTime = field(default_factory=ManualTime)
    miners: list[Miner] = field(default_factory=list)
    sent: dict[Window, dict[Uid, Mapping[str, SparseChunks]]] = field(default_factory=dict)
    hparams: HParams = HPARAMS

    def __post_init__(self) -> None:
        self.model = self.replica()
        self.validator = load_or_create_hotkey(self.folder / "keys", "validator")
        self.chain = self.chain_of(self.validator)
        self.chain.register(sends=False)
        self.chain.commit(self.validator.hotkey)
        self.buckets = LocalBuckets(self.folder / "store", self.validator.hotkey)

    def replica(self, module: LightningModule | None = None) -> Replica:
        return Replica(module or Memory(), COMPRESSION, self.hparams.peers, b"", CPU)

    def add(self, count: int) -> None:
        """Register miners, who count from the next window on."""
        shapes = {name: tuple(p.shape) for name, p in self.model.parameters.items()}
        for _ in range(count):
            signer = load_or_create_hotkey(self.folder / "keys", f"miner-{len(self.miners)}")
            chain = self.chain_of(signer)
            uid = chain.register()
            chain.commit(signer.hotkey)
            chain.close()
            codec = MomentumCodec(shapes, COMPRESSION, CPU)
            self.miners.append(Miner(uid, signer, codec, LocalBuckets(self.folder / "store", signer.hotkey)))

    def open(self, window: int, *, into_s: float = 5.0) -> None:
        """Let a window be open since some seconds."""
        self.now.utc = self.chain.timestamp(0) + WINDOW_S * window + into_s  # type: ignore[arg-type]  # block 0

    def place(self, miner: Miner, window: Window, data: bytes, after_s: float) -> None:
        key = payload_key(RUN, window, miner.uid)
        miner.buckets.own().put(key, data)
        landed = self.chain.upload_interval(window)[0] + after_s
        os.utime(self.folder / "store" / miner.signer.hotkey / key, (landed, landed))

    def train(self, windows: Iterable[int], odd: Callable[[World, Window], None] | None = None) -> None:
        """Have all miners send for some windows, and the model follow; `odd` does what is not honest."""
        for window in map(Window, windows):
            honest = self.miners if odd is None else self.miners[:-1]
            for miner in honest:
                miner.send_(self, window)
            if odd is not None:
                odd(self, window)
            self.model.apply(self.model.codec.updates([*dict(sorted(self.sent[window].items())).values()]))

    def chain_of(self, signer: HotkeySigner) -> LocalChain:
        """Return the chain as a node sees it."""
        chain = LocalChain(self.folder / "chain.sqlite", signer, CHAIN, run=CHAIN_RUN, now=self.now)
        chain.open()
        return chain


def limits_and_identity(world: World, *, timeout_s: float = 5.0) -> tuple[Identity, Limits]:
    """Return who the validator of a world is, and how long it waits."""
    hotkey = world.validator.hotkey
    limits = Limits(timeout_s=timeout_s, patience_s=1.0, max_peers=512, keep_windows=40, check_interrupt=lambda: None)
    identity = Identity(RUN, world.model.digest, Uid(0), address=hotkey, signer=world.validator, verify=verify)
    return identity, limits


class Replay:
    """Brings a replica through the windows by the payloads that a world remembers."""

    def __init__(self, world: World, replica: Replica) -> None:
        self._world, self._replica = world, replica

    @property
    def window(self) -> Window:
        return Window(self._replica.applied)

    def follow(self, now: Callable[[], Window]) -> None:
        while self.window < now():
            sent = self._world.sent.get(self.window, {})
            self._replica.apply(self._replica.codec.updates([*dict(sorted(sent.items())).values()]))

    def said_before(self, window: Window) -> bytes | None:
        return None

    def recover(self, until: Window, *, is_vain: bool) -> str:
        return "nobody publishes checkpoints"


def validator_of(
    world: World,
    folder: Path | None = None,
    *,
    replica: Replica | None = None,
    guide: Guide | None = None,
    note: Callable[[OwnCopy], None] = lambda copy: None,
    lost: str = "",
) -> tuple[Scorer, Journal]:
    """Return a validator of a world, in its first or in a later life."""
    patience = Patience(1.0, lambda: None)
    replica = replica or world.replica()
    journal = Journal(folder or world.folder / "validator", Window(0))
    identity, limits = limits_and_identity(world)
    source = PayloadSource(replica.codec, identity, world.buckets, limits)
    lookout = Lookout(world.chain, world.buckets, RUN, source, patience, doubt_span=25)
    publisher = ScorePublisher(world.buckets.own(), world.chain, identity, journal=journal, keep_windows=40)
    copy = OwnCopy(replica, guide or Replay(world, replica), loader(), world.hparams.scoring, patience)
    copy.lost = lost
    run = Run(RUN, replica.digest, Window(0), replica.codec.grids, world.hparams, world.validator)
    parts = Parts(world.chain, copy, lookout, journal, publisher, patience)
    return Scorer(run, parts, lambda: note(copy)), journal
