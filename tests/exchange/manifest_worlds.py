"""Miners that follow an aggregator, which the test lets write, be silent, or write nonsense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.errors import StoreError
from templar_pl.exchange import StandingManifest
from templar_pl.exchange.aggregates import fetch_manifest
from templar_pl.exchange.manifest_record import Following, ManifestRecord
from templar_pl.exchange.window_values import Outgoing
from templar_pl.protocol import encode_manifest, manifest_keys
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.peer import Peer
from templar_pl.units import Uid, Window
from tests.exchange.fakes import MemoryBucket
from tests.exchange.landed_worlds import CLOSED, DIGEST, NOW, Clock, Miner, World, do_nothing
from tests.exchange.manifests import LATE, manifest_of

LIVE, PAST = CLOSED - 0.1, CLOSED + 5
"""Seconds by the store's clock: uploads still go on, and are over."""
WAIT_S = 3.0


class SceneClock(Clock):
    """A chain that goes by the clock of the store."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene

    def seconds_left(self, window: Window) -> float:
        return self.upload_interval(window)[0] - self._scene.store_time


class Scene(World):
    """A world with an aggregator, whose bucket the test may break."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = SceneClock(self)
        self.writer = load_or_create_hotkey(folder, "writer")
        self.asked: list[Window] = []
        self.on_ask: Callable[[], None] = do_nothing

    def join(self, *names: str, first: int = 0, **limits: float) -> list[Follower]:
        return [Follower(self, self.add(name, **limits), Window(first)) for name in names]

    def publish(self, listed: Mapping[Uid, bytes], of: Window = NOW, **changes: object) -> None:
        """Write the manifest of a window: these payloads, and everybody else left out."""
        left_out = {uid: LATE for uid in self.register if uid not in listed}
        manifest = manifest_of(listed, **({"window": of, "left_out": left_out} | changes))
        self.put(encode_manifest(manifest, self.writer), of)

    def put(self, data: bytes, window: Window = NOW) -> None:
        MemoryBucket(self.disk, "writer", self.time).put(manifest_keys("run").key(window), data)

    def fetch(self, window: Window) -> StandingManifest:
        self.asked.append(window)
        self.on_ask()
        peer = Peer(Uid(99), self.writer.hotkey, self.writer.public_key, "writer")
        bucket = MemoryBucket(self.disk, "writer", self.time)
        return fetch_manifest(bucket, peer, "run", digest=DIGEST, window=window, verify=verify)

    def had(self, window: Window, uids: Collection[Uid]) -> Mapping[Uid, Peer]:
        return {uid: peer for uid, peer in self.register.items() if uid in uids}


class Follower:
    """A miner that follows the aggregator."""

    def __init__(self, scene: Scene, miner: Miner, first: Window) -> None:
        self.miner, self.uid, self.gets = miner, miner.uid, Counter[str]()
        following = Following(scene.fetch, scene.had, WAIT_S, first)
        self.record = ManifestRecord(
            miner.record,
            scene.clock,
            miner.identity,
            source=miner.source,
            limits=miner.limits,
            following=following,
        )
        self.broken: Callable[[str, str], None] = do_nothing
        miner.broken = self._before

    def send(self) -> Outgoing:
        return self.miner.send()

    def _before(self, name: str, key: str) -> None:
        self.gets[key] += name == "get"
        self.broken(name, key)


def key_of(uid: Uid) -> str:
    return payload_key("run", NOW, uid)


def unreadable(uids: Collection[Uid]) -> Callable[[str, str], None]:
    """Return what fails where the payloads of these uids are asked for."""
    keys = {key_of(uid) for uid in uids}

    def fail(_: str, key: str) -> None:
        if key in keys:
            raise StoreError("no connection")

    return fail
