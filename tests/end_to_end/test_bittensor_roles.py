"""A whole run on a subnet: aggregator, validator and miners by their commands, each with a bucket on an S3 store."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from templar_pl.chain import BittensorConfig, verify
from templar_pl.errors import ObjectMissingError
from templar_pl.protocol import Manifest, decode_manifest, decode_score_record, manifest_keys, payload_keys, score_keys
from templar_pl.protocol.header import HEADER_BYTES, unpack_header
from templar_pl.protocol.keys import debug_keys
from templar_pl.protocol.score_document import EvaluationNote
from templar_pl.units import Uid, Window
from tests.end_to_end.node import Node
from tests.end_to_end.subnet_world import NETUID, SubnetWorld, subnet_world
from tests.servers.nodes import node_buckets

MINERS = ("alice", "bob")
STAKES = {"leader": 1000.0, "judge": 10.0}
NAMES = (*STAKES, *MINERS)
# A miner that missed a window joins again only if the manifest of one is out long before the next one ends.
BLOCK_S, BLOCKS_PER_WINDOW, DELTA_S = 0.5, 10, 1.0
TIMING = (
    f"--window.blocks_per_window={BLOCKS_PER_WINDOW}",
    f"--window.time_window_delta_seconds={DELTA_S}",
    "--window.gather_timeout_seconds=6",
    "--window.checkpoint_frequency=2",
    "--scoring.windows_per_weights=1",
    "--scoring.validator_sample_rate=1",
    "--scoring.binary_score_ma_alpha=0.5",  # few windows are enough to earn something
)
START = Window(400)
"""Half an hour away by the clock: its first block is made when all nodes are there, so that nobody is late."""

LONG_S = 240.0  # a loaded machine of two cores
MAX_BYTES = 10**6


class Run:
    """A run with all roles, and what lies in their buckets."""

    def __init__(self, world: SubnetWorld) -> None:
        self._world = world
        world.chain.tell("change_rules", netuid=NETUID, weights_rate_limit=0)
        self._hotkeys = {name: world.new_wallet(name) for name in NAMES}
        self.uids = {name: self._register(name) for name in NAMES}
        self.nodes: dict[str, Node] = {}

    def start(self) -> None:
        """Start the leader, then all who ask it where the run began; then begin the first window."""
        begins, judge = f"--bittensor.start_window={START}", f"--follow.validator={self._hotkeys['judge']}"
        self.nodes["leader"] = self._world.start("leader", begins, judge, command="aggregate")
        self.nodes["leader"].wait_for(f"begins with window {START}")
        self.nodes["judge"] = self._world.start("judge", command="score")
        for name in MINERS:
            self.nodes[name] = self._world.start(
                name, judge, "--trainer.max_epochs=-1", "--recovery.debug_windows=1000"
            )
        for name in MINERS:
            self.nodes[name].wait_for(f"the run begins with window {START}")
        self.nodes["judge"].wait_for("loaded the checkpoint")
        head = self._world.chain.tell("mine")
        self._world.chain.tell("mine", count=START * BLOCKS_PER_WINDOW - 2 - head, seconds=0)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something to be so while all nodes run."""
        deadline = time.monotonic() + LONG_S
        while not is_so():
            for name, node in self.nodes.items():
                assert node.process.poll() is None, f"{name} ended:\n{node.text()}"
            assert time.monotonic() < deadline, "\n".join(
                f"{name}:\n{node.text()}" for name, node in self.nodes.items()
            )
            time.sleep(0.2)

    def stop(self) -> dict[str, int]:
        """Ask all nodes to end, and return their exit codes."""
        for node in self.nodes.values():
            node.process.send_signal(signal.SIGTERM)
        return {name: node.finish() for name, node in self.nodes.items()}

    def audit(self) -> Node:
        """Audit the run as somebody who has neither wallet nor bucket; return the ended process."""
        auditor = self._world.start("auditor", f"--follow.validator={self._hotkeys['judge']}", command="audit")
        auditor.finish()
        return auditor

    def manifests(self) -> list[Manifest]:
        """Return all manifests up to the first one that is missing."""
        found: list[Manifest] = []
        with suppress(ObjectMissingError):
            while True:
                data = self._get("leader", manifest_keys(self._name).key(Window(START + len(found))))
                found.append(decode_manifest(data, verify)[1])
        return found

    def fingerprints(self, manifest: Manifest) -> set[bytes]:
        """Return the parameters at which those who are listed took their gradients."""
        names = {uid: name for name, uid in self.uids.items()}
        found = set()
        for uid in manifest.payloads:
            data = self._get(names[uid], payload_keys(self._name, uid).key(manifest.window))
            found.add(unpack_header(data[:HEADER_BYTES], len(data) - HEADER_BYTES - 64).fingerprint)
        return found

    def num_followed(self, name: str) -> int:
        """Return how many windows of a miner were what a manifest says, by its own reports."""
        bucket = node_buckets(name, self._world.server.endpoint_url).own()
        keys = bucket.list(debug_keys(self._name, self.uids[name]).prefix)
        return sum(json.loads(bucket.get(key, max_bytes=MAX_BYTES))["has_manifest"] is True for key in keys)

    def num_evaluated(self) -> int:
        """Return how many payloads the validator tried."""
        count = 0
        bucket = node_buckets("judge", self._world.server.endpoint_url).own()
        for key in bucket.list(score_keys(self._name).prefix):
            _, record = decode_score_record(bucket.get(key, max_bytes=MAX_BYTES), verify)
            count += len(record.evaluation.losses) if isinstance(record.evaluation, EvaluationNote) else 0
        return count

    def weights(self) -> Mapping[Uid, Mapping[Uid, float]]:
        """Return what stands on the chain."""
        config = BittensorConfig(network="local", blocks_per_window=BLOCKS_PER_WINDOW, delta_s=DELTA_S)
        with self._world.seen(config) as chain:
            return chain.weights()

    def _register(self, name: str) -> Uid:
        stake = STAKES.get(name, 0.0)
        return Uid(self._world.register(self._hotkeys[name], stake=stake, validator_permit=name in STAKES))

    def _get(self, name: str, key: str) -> bytes:
        return node_buckets(name, self._world.server.endpoint_url).own().get(key, max_bytes=MAX_BYTES)

    @property
    def _name(self) -> str:
        """The name of the run: the first part of all keys."""
        [folder] = self.nodes["leader"].folder.glob("runs/net268/*")
        return f"{folder.name}-{START}"


@contextmanager
def running(folder: Path) -> Iterator[Run]:
    """Run all roles from the first window on, and leave no process behind."""
    with subnet_world(folder, NAMES, BLOCK_S, TIMING) as world:
        run = Run(world)
        try:
            run.start()
            yield run
        finally:
            for node in run.nodes.values():
                if node.process.poll() is None:
                    node.kill()


def test_miners_follow_the_aggregator_that_leads_a_run_and_the_validator_pays_them(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.wait_until(lambda: sum(len(manifest.payloads) == len(MINERS) for manifest in run.manifests()) >= 3)
        run.wait_until(lambda: "uid(s) are set" in run.nodes["judge"].text())
        codes = run.stop()
        found, auditor = run.manifests(), run.audit()
        parameters = {manifest.window: run.fingerprints(manifest) for manifest in found}
        followed = {name: run.num_followed(name) for name in MINERS}
        weights, num_evaluated = run.weights(), run.num_evaluated()

    texts = {name: node.text() for name, node in run.nodes.items()}
    assert codes == dict.fromkeys(NAMES, 143), texts
    # All begin with what the leader published, and hold the same bits before each window.
    for name in ("judge", *MINERS):
        assert f"uid {run.uids['leader']} says that the run began with window {START}" in texts[name]
        assert f"window {START}: loaded the checkpoint of peer {run.uids['leader']}" in texts[name]
    for last, manifest in pairwise(found):
        assert manifest.before == last.after
    assert all(parameters[manifest.window] <= {manifest.before} for manifest in found)
    assert len({manifest.before for manifest in found}) == len(found)
    assert min(followed.values()) >= 1, texts
    # Weights are for those only who sent something.
    assert weights.keys() == {run.uids["judge"]}, texts["judge"]
    assert weights[run.uids["judge"]].keys() <= {run.uids[name] for name in MINERS}
    assert sum(weights[run.uids["judge"]].values()) > 0.99
    assert num_evaluated >= 2
    assert auditor.process.returncode == 0, auditor.text()
    assert f"windows {START}..{START + len(found) - 1} agree" in auditor.text()
