"""A validator that is killed between any two of its writes judges every window once, and publishes what it judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from templar_pl.chain import verify
from templar_pl.exchange import LocalBuckets, fetch_peer_list, fetch_score_record
from templar_pl.protocol import EvaluationNote, Peer
from templar_pl.units import Uid, Window
from tests.chain.nodes import ManualTime
from tests.roles.scored_runs import RUN, World, validator_of

WRITES = {"os.rename", "os.link", "os.remove", "os.mkdir", "sqlite3.connect"}
"""Audited events besides `open` for writing that change what is on the disk."""


def changes_the_disk(event: str, args: tuple[object, ...], folder: str) -> bool:
    if event == "open":
        path, mode, flags = args
        is_written = ("w" in mode) if isinstance(mode, str) else bool(int(flags or 0) & (os.O_WRONLY | os.O_RDWR))  # type: ignore[call-overload]
        return is_written and str(path).startswith(folder)
    return event in WRITES and str(args[0]).startswith(folder)


def in_a_life(world: World, folder: Path, opened: int, windows: int, kill_at: int) -> int:
    """Run a validator in a process that is killed at its n-th change of the disk; return how many it made, or -1."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _live(world, folder, opened, windows, kill_at, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return -1
    assert answer, "the validator failed"
    return int(answer)


def _live(world: World, folder: Path, opened: int, windows: int, kill_at: int, writer: int) -> None:
    """Be the process of a validator; never returns."""
    changes = 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal changes
        if changes_the_disk(event, args, str(folder)):
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            changes += 1

    try:
        own = World(folder, now=ManualTime(world.now.utc))
        own.sent, own.miners = world.sent, world.miners
        own.open(opened)
        scorer, _ = validator_of(own)
        sys.addaudithook(watch)
        scorer.run(windows)
        os.write(writer, str(changes).encode())
    finally:
        os._exit(0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a world of which window 3 is judged and windows 4 and 5 are to be; weights are due after 4."""
    world = World(tmp_path_factory.mktemp("crashes"))
    world.add(2)
    world.open(1)
    world.train(range(6))
    assert in_a_life(world, world.folder, 5, 1, kill_at=-1) > 0
    return world


def last_window(folder: Path) -> int:
    return json.loads((folder / "validator" / "state.json").read_text())["scoring"]["window"]


def test_no_write_is_the_one_that_must_not_be_the_last(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "whole")
    num_writes = in_a_life(world, tmp_path / "whole", 6, 1, kill_at=-1)
    assert num_writes > 10  # two files aside and moved, record, list, database, and folders
    for kill_at in range(num_writes):
        folder = tmp_path / str(kill_at)
        shutil.copytree(world.folder, folder)
        assert in_a_life(world, folder, 6, 1, kill_at) == -1
        assert last_window(folder) in (3, 4)

        in_a_life(world, folder, 7, 5 - last_window(folder), kill_at=-1)

        assert last_window(folder) == 5
        check_all_is_published(world, folder)
        shutil.rmtree(folder)


def check_all_is_published(world: World, folder: Path) -> None:
    buckets, hotkey = LocalBuckets(folder / "store", "reader"), world.validator.hotkey
    validator = Peer(Uid(0), hotkey, world.validator.public_key, hotkey)
    records = [fetch_score_record(buckets, validator, RUN, Window(window), verify) for window in (3, 4, 5)]
    state = json.loads((folder / "validator" / "state.json").read_text())
    evaluated = dict.fromkeys((Uid(1), Uid(2)), 0)
    for record in records:
        if isinstance(record.evaluation, EvaluationNote):
            for uid in record.evaluation.losses:
                evaluated[uid] += 1
    # Every evaluation that was published counts once, and none counts that was not published.
    assert {Uid(int(uid)): miner["observations"] for uid, miner in state["scoring"]["miners"].items()} == evaluated
    assert list((folder / "validator" / "outbox").iterdir()) == []
    listed = fetch_peer_list(buckets, validator, RUN, verify)
    assert listed.uids == tuple(state["scoring"]["peer_list"]["uids"])
    shared = World(folder, now=ManualTime(world.now.utc)).chain.weights()
    assert (state["weights_window"] >= 4) == bool(shared)
