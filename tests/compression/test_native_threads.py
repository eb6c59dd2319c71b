"""The threads that the compiled library makes for one call: none is lost, none stays, none takes a signal."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import templar_pl.compression
from templar_pl.compression import Body, MomentumCodec, native_fault
from templar_pl.config import CompressionConfig

pytestmark = pytest.mark.skipif(bool(native_fault()), reason=native_fault() or "native is there")

LIBRARY = Path(templar_pl.compression.__file__).parent / "native" / "kernels_default.so"
WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
SHAPE = (512, 1024)  # 128 chunks: enough for three helpers
CALLS, CALLERS, THREADS = 1000, 4, 4

COUNT_CALLS = """
import ctypes, os, resource, sys, threading

library, work = ctypes.CDLL(sys.argv[1]), ctypes.CFUNCTYPE(None, ctypes.c_void_p)

def threads_that_work(helpers):
    seen = []
    library.native_run(work(lambda job: seen.append(threading.get_native_id())), None, helpers)
    return seen
"""
NO_ROOM = """
own = threading.get_native_id()
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + (1 << 19)  # half a stack
resource.setrlimit(resource.RLIMIT_AS, (room, room))
assert threads_that_work(7) == [own]
"""
FORK = """
assert len(threads_that_work(3)) == 4
assert len(os.listdir("/proc/self/task")) == 1
child = os.fork()
if child == 0:
    os._exit(0 if len(threads_that_work(3)) == 4 else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def run_alone(code: str) -> None:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", COUNT_CALLS + code, str(LIBRARY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def masks_of_threads(helpers: int) -> dict[int, set[int]]:
    """Return which signals each thread that works has blocked."""
    masks: dict[int, set[int]] = {}

    def look(_job: int | None) -> None:
        masks[threading.get_native_id()] = set(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    ctypes.CDLL(str(LIBRARY)).native_run(WORK(look), None, helpers)
    return masks


def test_helpers_leave_the_signals_of_the_process_to_its_own_threads() -> None:
    masks = masks_of_threads(3)

    own = masks.pop(threading.get_native_id())
    assert len(masks) == 3
    assert signal.SIGTERM not in own
    for mask in masks.values():
        assert mask >= {signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD}
        assert not mask & {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}  # a crash stays visible


def test_a_call_leaves_the_signals_of_its_caller_as_they_were() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        masks_of_threads(3)
        after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert after == before | {signal.SIGUSR2}


@pytest.mark.parametrize("helpers", [-1, 0])
def test_without_helpers_the_caller_works_alone(helpers: int) -> None:
    assert list(masks_of_threads(helpers)) == [threading.get_native_id()]


def test_a_caller_that_gets_no_thread_works_alone() -> None:
    run_alone(NO_ROOM)


def test_no_thread_outlives_its_call_and_a_fork_may_call_again() -> None:
    run_alone(FORK)


class Caller:
    """A codec, and what it gives with one thread."""

    def __init__(self, seed: int) -> None:
        self._codec = MomentumCodec({"w": SHAPE}, CompressionConfig(), torch.device("cpu"), backend="native")
        gradients = {"w": torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))}
        self._codec.accumulate_(gradients, {"w": 0.1})
        self._momentum = self._codec.momentum["w"].clone()
        self._body, self._update = self._round_trip()

    def call_often(self) -> list[str]:
        """Do the same again and again; return what came out otherwise."""
        faults = []
        for number in range(CALLS // CALLERS // 3):
            body, update = self._round_trip()
            if body.data != self._body.data or not torch.equal(self._codec.momentum["w"], self._momentum):
                faults.append(f"{number}: send")
            if not torch.equal(update, self._update):
                faults.append(f"{number}: receive")
        return faults

    def _round_trip(self) -> tuple[Body, Tensor]:
        body = self._codec.compress_()
        assert isinstance(body, Body)
        self._codec.restore_()
        return body, self._codec.update([body])["w"]


def test_many_calls_from_several_python_threads_at_once_all_give_what_one_thread_gives() -> None:
    callers = [Caller(seed) for seed in range(CALLERS)]
    torch.set_num_threads(THREADS)
    try:
        with ThreadPoolExecutor(CALLERS) as pool:
            faults = list(pool.map(Caller.call_often, callers))
    finally:
        torch.set_num_threads(1)

    assert faults == [[]] * CALLERS
