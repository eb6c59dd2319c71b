"""Three miners train on while the ways to their buckets break in every way; docs/reliability.md says what happens.

RELIABILITY_TABLE=docs/reliability.md python -m pytest tests/end_to_end/test_faults.py writes its table anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.end_to_end.fault_list import FAULTS, SPLIT, UNTIL_APPLIED, Fault, mend
from tests.end_to_end.fault_table import NOTHING, Row, observe, render, stable, table_of, write
from tests.end_to_end.node import ROOT, Node, differing
from tests.end_to_end.test_r2 import MINERS, R2, variables
from tests.end_to_end.watch import Watch
from tests.servers.nodes import node_buckets
from tests.servers.seaweed import seaweed
from tests.servers.tcp_proxy import Way, ways

DOCUMENT = ROOT / "docs" / "reliability.md"
WINDOW_S, DELTA_S, TIMEOUT_S = 6, 1, 3.6
PUT_S = DELTA_S + 1.0  # stores tell whole seconds
ARGUMENTS = [
    *(R2, "--chain.pace=wall", "--chain.record_windows=false", "--chain.seconds_per_block=1"),
    *(f"--window.blocks_per_window={WINDOW_S}", f"--window.time_window_delta_seconds={DELTA_S}"),
    *(f"--window.gather_timeout_seconds={TIMEOUT_S}", "--window.checkpoint_frequency=1"),
    *("--r2.connect_timeout_s=0.5", "--r2.read_timeout_s=0.6", "--r2.request_timeout_s=1.5"),
    *("--r2.retry_for_s=1", "--r2.retry_pause_s=0.1", "--trainer.max_epochs=100000"),
]
CALM_S = 1.0  # left of a window when a fault begins or ends, so that no exchange is under way
BUSY_S = 4.0  # that a busy machine may take for what should take no time
TRIES = 3  # of a fault, where a busy machine was late with something else


@dataclass(frozen=True)
class Run:
    """Nodes that train, and the ways they have to the store."""

    watch: Watch
    ways: Mapping[str, Way]
    uids: Mapping[str, int]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Run]:
    with seaweed(MINERS, MINERS) as server, ways(server.endpoint_url, MINERS) as roads:
        nodes = {name: Node(folder, name, ARGUMENTS, variables=variables(name, roads[name].url)) for name in MINERS}
        try:
            for node in nodes.values():
                node.wait_for(" | peers 3/3 | ")
            keys = {n: next(iter(node_buckets(n, server.endpoint_url).own().list(""))).split("/") for n in MINERS}
            birth_ms = int(keys["alice"][0].rpartition("-")[2])
            uids = {name: int(key[-1].removesuffix(".bin")) for name, key in keys.items()}
            yield Run(Watch(nodes, birth_ms / 1000, WINDOW_S), roads, uids)
        finally:
            for node in nodes.values():
                if node.process.poll() is None:
                    node.kill()


def test_training_goes_on_whatever_happens_to_the_way_to_the_store(tmp_path: Path) -> None:
    is_to_write = "RELIABILITY_TABLE" in os.environ
    written = stable(table_of(DOCUMENT.read_text(encoding="utf-8")))
    rows = []
    with running(tmp_path) as run:
        for fault in FAULTS:
            tries = 1 if is_to_write else TRIES
            row = go_through(run, fault)
            while stable(render([row]))[-1] not in written and (tries := tries - 1):
                row = go_through(run, fault)
            rows.append(row)
        rows.append(come_apart(run))

    if is_to_write:
        write(Path(os.environ["RELIABILITY_TABLE"]), rows)
    else:
        assert stable(render(rows)) == written, f"docs/reliability.md must say:\n{render(rows)}"


def go_through(run: Run, fault: Fault) -> Row:
    """Let a fault hit the window that is open, and see all agree afterwards."""
    watch = run.watch
    window = watch.wait_for_calm(CALM_S)
    hit(run, fault, window)
    watch.wait_for_window(window)
    mend(run.ways)
    row = observe(watch, fault, window, run.uids, "equal")

    assert row.seconds <= PUT_S + TIMEOUT_S + BUSY_S, watch.texts()
    assert len({watch.applied[name][window].peers for name in MINERS}) == 1, watch.texts()
    if row.applied != "3" or row.own != NOTHING:
        wait_for_quiet(run, window)
    assert_equal(run, watch.wait_for_calm(CALM_S), *MINERS)
    return row


def come_apart(run: Run) -> Row:
    """Let a node count its payload that nobody else can read: it stops, and the others go on."""
    watch, bob = run.watch, run.watch.nodes["bob"]
    window = watch.wait_for_calm(CALM_S)
    hit(run, SPLIT, window)
    watch.wait_for_window(window)
    mend(run.ways)
    del watch.nodes["bob"]
    assert bob.finish() == 1, bob.text()
    assert "differ from those of all its 2 peers, who agree: start from a checkpoint of one of them" in bob.text()
    watch.wait_until(lambda: len(after(run, window, "alice")) > 2 < len(after(run, window, "carol")), "others go on")
    assert f"out of sync with uid {run.uids['bob']}" in watch.nodes["alice"].text()
    assert "out of sync" not in "".join(after(run, window + 1, "alice") + after(run, window + 1, "carol"))
    assert_equal(run, watch.wait_for_calm(CALM_S), "alice", "carol")
    for node in watch.nodes.values():
        node.process.send_signal(signal.SIGTERM)
    assert [node.finish() for node in watch.nodes.values()] == [128 + signal.SIGTERM] * 2
    watch.nodes["bob"] = bob
    return observe(watch, SPLIT, window, run.uids, "alice and carol equal; bob differs and stops")


def hit(run: Run, fault: Fault, window: int) -> None:
    """Begin a fault, and end it again if it is to end by the clock."""
    fault.begin(run.ways)
    if fault.lasts_s != UNTIL_APPLIED:
        over = run.watch.end_of(window) + fault.lasts_s
        run.watch.wait_until(lambda: time.time() >= over, "the fault is over")
        mend(run.ways)


def wait_for_quiet(run: Run, window: int) -> None:
    """Wait for a window without faults in which every node took part and applied all."""

    def is_quiet() -> bool:
        found = [after(run, window, name) for name in MINERS]
        return all(any(" peers 3/3 " in line for line in lines) for lines in found)

    run.watch.wait_until(is_quiet, f"all is well after window {window}")
    assert "out of sync" not in run.watch.texts()


def after(run: Run, window: int, name: str) -> list[str]:
    """Return what a node printed of later windows."""
    return [one.line for number, one in run.watch.applied[name].items() if number > window]


def assert_equal(run: Run, window: int, *names: str) -> None:
    """See that nodes have the same parameters before a window, to the bit."""
    files = [f"runs/*/*/nodes/{name}/checkpoints/window-{window:09d}.ckpt" for name in names]
    folder = run.watch.nodes[names[0]].folder
    run.watch.wait_until(lambda: all(list(folder.glob(file)) for file in files), f"window {window} is saved")
    first, *others = (torch.load(next(folder.glob(file)), weights_only=True)["state_dict"] for file in files)
    assert first
    assert [differing(first, other) for other in others] == [[]] * len(others)
