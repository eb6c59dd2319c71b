"""Several processes on one chain at once, one of them killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from templar_pl.chain.hotkeys import load_or_create_hotkey
from tests.chain.nodes import PATIENCE_S, joined, local_chain, make_key, mine, sha, write_for_ever


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes forked from a fresh server that has opened nothing: real, but importing the package only once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chain.nodes"])
    return context


@pytest.fixture
def pool(context: ForkServerContext) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        yield pool


def test_two_processes_in_lockstep_agree_on_fifty_windows(tmp_path: Path, pool: ProcessPoolExecutor) -> None:
    futures = [pool.submit(mine, tmp_path, name, 50, 2) for name in ("a", "b")]
    first, second = (future.result(PATIENCE_S) for future in futures)

    assert first == second
    assert len(first) == 50
    for window, payloads in first.items():
        assert sorted(payloads.values()) == sorted([sha(f"a {window}"), sha(f"b {window}")])


def test_processes_that_make_one_hotkey_at_once_end_with_the_same(tmp_path: Path, pool: ProcessPoolExecutor) -> None:
    for attempt in range(5):
        futures = [pool.submit(make_key, tmp_path, f"key{attempt}") for _ in range(4)]
        assert len({future.result(PATIENCE_S) for future in futures}) == 1

    assert len(list(tmp_path.iterdir())) == 5


def kill_while_it_writes(context: ForkServerContext, folder: Path, name: str) -> None:
    """Start a process that writes for ever, and kill it when it is in full swing."""
    reader = local_chain(folder, "survivor")
    reader.open()
    hotkey = load_or_create_hotkey(folder / "keys", name).hotkey
    victim = context.Process(target=write_for_ever, args=(folder, name))
    victim.start()
    deadline = time.monotonic() + PATIENCE_S
    while not any(peer.hotkey == hotkey and peer.address >= f"{3:09}" for peer in reader.peers().values()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)
    victim.kill()
    victim.join(PATIENCE_S)
    assert victim.exitcode == -signal.SIGKILL
    reader.close()


def test_a_process_killed_in_the_middle_of_writing_leaves_a_chain_that_goes_on(
    tmp_path: Path, context: ForkServerContext
) -> None:
    chain = joined(local_chain(tmp_path, "survivor"))
    for attempt in range(5):
        kill_while_it_writes(context, tmp_path, f"victim{attempt}")

    window = chain.window()
    chain.agreement.announce(window, sha("survivor"))
    settlement = chain.agreement.settle(window, PATIENCE_S)

    assert settlement.payloads[chain.register()] == sha("survivor")
    assert chain.window() == window + 1
    assert len(chain.peers()) == 6
    chain.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "chain.sqlite")) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_killed_miner_that_starts_again_takes_its_old_place(tmp_path: Path, context: ForkServerContext) -> None:
    other = joined(local_chain(tmp_path, "other"))
    kill_while_it_writes(context, tmp_path, "victim")

    again = joined(local_chain(tmp_path, "victim"))
    window = again.window()
    again.agreement.announce(window, sha("again"))
    other.agreement.announce(window, sha("other"))

    assert again.agreement.settle(window, PATIENCE_S) == other.agreement.settle(window, 0.0)
    assert other.agreement.settle(window, 0.0).payloads == {0: sha("other"), 1: sha("again")}
    again.close()
    other.close()
