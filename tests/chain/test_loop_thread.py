"""The thread of the chain: every wait ends, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from templar_pl.chain.loop_thread import CLOSE_TIMEOUT_S, RESTART_S, LoopThread, end_task
from templar_pl.errors import ChainError
from tests.chain.nodes import wait_until

SOON_S = 1.0
"""Enough for what takes no time, on a busy computer."""


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread("a chain")
    thread.start()
    yield thread
    thread.stop()
    assert not [each for each in threading.enumerate() if each.name == "a chain"]


class Work:
    """Coroutines that take a time, and note whether they were cancelled."""

    def __init__(self) -> None:
        self.began, self.cancelled = threading.Event(), threading.Event()

    async def wait(self, seconds: float) -> str:
        self.began.set()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "done"


class Stubborn(Work):
    """Work that says goodbye when it is cancelled, to somebody who does not answer, and once more."""

    async def wait(self, seconds: float) -> str:
        try:
            return await super().wait(seconds)
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            await asyncio.sleep(3600)


def test_a_coroutine_runs_in_the_thread_and_its_answer_comes_back(loop: LoopThread) -> None:
    async def name() -> str:
        return threading.current_thread().name

    assert loop.run(name, SOON_S) == "a chain"


def test_what_a_coroutine_raises_is_raised_where_it_was_asked_for(loop: LoopThread) -> None:
    async def fail() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        loop.run(fail, SOON_S)


@settings(max_examples=20)
@given(st.floats(0.0, 0.15), st.floats(0.0, 0.15))
def test_nobody_waits_longer_than_asked(takes_s: float, timeout_s: float) -> None:
    thread, work = LoopThread("a chain"), Work()
    thread.start()
    began = time.monotonic()
    try:
        with suppress(ChainError):
            assert thread.run(lambda: work.wait(takes_s), timeout_s) == "done"
            assert takes_s <= timeout_s + SOON_S
        took_s = time.monotonic() - began
    finally:
        thread.stop()

    assert took_s < timeout_s + SOON_S


def test_late_work_is_cancelled(loop: LoopThread) -> None:
    work = Work()

    with pytest.raises(ChainError, match=r"a chain did not answer within 0\.1 s"):
        loop.run(lambda: work.wait(60), 0.1)

    assert work.cancelled.wait(SOON_S)


def test_work_that_will_not_be_cancelled_is_waited_for_no_longer(loop: LoopThread) -> None:
    began = time.monotonic()

    with pytest.raises(ChainError, match="did not answer"):
        loop.run(lambda: Stubborn().wait(60), 0.1)

    assert time.monotonic() - began < SOON_S


def test_ctrl_c_in_the_thread_that_waits_cancels_the_work(loop: LoopThread) -> None:
    work, main = Work(), threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        work.began.wait(SOON_S)
        time.sleep(0.1)  # until the main thread waits for the answer
        signal.pthread_kill(main, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    try:
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            loop.run(lambda: work.wait(60), 60)
        interrupting.join(SOON_S)
    finally:
        signal.signal(signal.SIGINT, before)

    assert work.cancelled.wait(SOON_S)


def test_a_closed_thread_runs_nothing() -> None:
    work = Work()

    with pytest.raises(ChainError, match=r"call open\(\) first"):
        LoopThread("a chain").run(lambda: work.wait(0), SOON_S)
    with pytest.raises(ChainError, match=r"call open\(\) first"):
        LoopThread("a chain").keep_running(lambda: work.wait(0), "work")  # pyright: ignore[reportArgumentType]


def test_whoever_waits_is_told_when_the_thread_is_stopped(loop: LoopThread) -> None:
    work, errors = Work(), list[ChainError]()

    def wait() -> None:
        with pytest.raises(ChainError) as error:
            loop.run(lambda: work.wait(60), 60)
        errors.append(error.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert work.began.wait(SOON_S)
    loop.stop()
    waiting.join(SOON_S)

    assert [str(error) for error in errors] == ["a chain was closed while a thread waited for it"]


def test_stopping_ends_work_that_says_goodbye_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    thread, work = LoopThread("a chain"), Stubborn()

    async def work_for_ever() -> None:
        await work.wait(3600)

    thread.start()
    thread.keep_running(work_for_ever, "work")
    assert work.began.wait(SOON_S)
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        thread.stop()

    assert time.monotonic() - began < CLOSE_TIMEOUT_S
    assert work.cancelled.is_set()
    assert caplog.messages == []


def test_stopping_closes_what_it_is_told_to_and_says_what_could_not_be(caplog: pytest.LogCaptureFixture) -> None:
    thread = LoopThread("a chain")

    async def fail() -> None:
        raise OSError("it is stuck")

    thread.start()
    thread.stop(fail)
    thread.stop(fail)

    assert caplog.messages == ["what was open could not be closed: it is stuck"]


def test_stopping_waits_for_a_last_goodbye_no_longer_than_a_while() -> None:
    thread = LoopThread("a chain")

    async def hang() -> None:
        await asyncio.sleep(3600)

    thread.start()
    began = time.monotonic()
    thread.stop(hang)

    assert CLOSE_TIMEOUT_S <= time.monotonic() - began < CLOSE_TIMEOUT_S + 3 * SOON_S
    assert not [each for each in threading.enumerate() if each.name == "a chain"]


def test_a_task_that_falls_over_is_started_again_and_told_once_each(
    loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    starts = list[float]()

    async def fall_over() -> None:
        starts.append(time.monotonic())
        if len(starts) < 3:
            raise RuntimeError(f"fall {len(starts)}")
        await asyncio.sleep(3600)

    loop.keep_running(fall_over, "the runner")
    wait_until(lambda: len(starts) == 3)

    assert caplog.messages == ["the runner stopped and is started again"] * 2
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [
        ("fall 1",),
        ("fall 2",),
    ]
    assert all(later - earlier >= 0.9 * RESTART_S for earlier, later in itertools.pairwise(starts))


def test_a_task_that_ends_is_started_again(loop: LoopThread) -> None:
    starts = list[int]()

    async def end() -> None:
        starts.append(1)

    loop.keep_running(end, "the runner")

    wait_until(lambda: len(starts) == 2)


def test_a_thread_can_be_started_again(loop: LoopThread) -> None:
    work = Work()
    loop.start()
    loop.stop()
    loop.start()

    assert loop.run(lambda: work.wait(0), SOON_S) == "done"


def test_nobody_complains_of_how_an_ended_task_ended(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("the connection is gone")

    async def end() -> None:
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        await end_task(task, SOON_S)

    asyncio.run(end())
    gc.collect()

    assert caplog.messages == []


def test_background_work_that_nobody_else_knows_is_not_swept_away(
    loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    work, began = Work(), threading.Event()

    async def wait_for_nobody() -> None:
        event = asyncio.Event()
        began.set()
        try:
            await event.wait()
        finally:
            work.cancelled.set()

    loop.keep_running(wait_for_nobody, "a hermit")
    assert began.wait(SOON_S)
    for _ in range(3):
        gc.collect()

    assert not work.cancelled.is_set()
    assert not caplog.records
