"""An asyncio event loop in a thread of its own, for a library that is asynchronous in a program that is not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from templar_pl.errors import ChainError

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_TIMEOUT_S = 5.0
"""Seconds the tasks of a loop are given to end."""

RESTART_S = 1.0
"""Seconds after which a background task that fell over is started again."""


class LoopThread:
    """Runs coroutines for other threads, and tasks in the background that are started again when they fall over."""

    def __init__(self, name: str) -> None:
        """Start nothing yet.

        Args:
            name: of the thread.
        """
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread. Does nothing if it runs."""
        with self._lock:
            if self._loop is not None:
                return
            self._loop = asyncio.new_event_loop()
            # daemon: a main thread that dies without closing must not leave the process hanging.
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Run a coroutine in the loop and return what it returns; it is cancelled when the time is over.

        Args:
            work: makes the coroutine.
            timeout_s: seconds it is given.

        Raises:
            ChainError: the loop does not run, or the time is over.
        """
        with self._lock:
            if self._loop is None:
                raise ChainError("the chain is not open; call open() first")
            future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.CancelledError as error:
            raise ChainError("the chain was closed while a thread waited for it") from error
        except concurrent.futures.TimeoutError as error:
            raise ChainError(f"the chain did not answer within {timeout_s:g} s") from error
        finally:
            future.cancel()

    def keep_running(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        """Run a coroutine in the background until `stop`; when it ends or fails it is started again.

        Args:
            work: makes the coroutine.
            what: it does, for the log.
        """
        with self._lock:
            if self._loop is None:
                raise ChainError("the chain is not open; call open() first")
            asyncio.run_coroutine_threadsafe(_supervise(work, what), self._loop)

    def stop(self, finish: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel everything, let go of what `finish` closes, and end the thread. Does nothing if it does not run.

        Args:
            finish: makes a last coroutine, which is given `CLOSE_TIMEOUT_S`.
        """
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        closing = asyncio.run_coroutine_threadsafe(_close(finish), loop)
        try:
            closing.result(3 * CLOSE_TIMEOUT_S)
        except concurrent.futures.TimeoutError:
            log.warning("%s: tasks did not end within %g s", self._name, 3 * CLOSE_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_TIMEOUT_S)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def _supervise(work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
    while True:
        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        error = None if task.cancelled() else task.exception()
        log.error("%s stopped and is started again", what, exc_info=error)
        await asyncio.sleep(RESTART_S)


async def _close(finish: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
    if finish is not None:
        await asyncio.wait({asyncio.ensure_future(finish())}, timeout=CLOSE_TIMEOUT_S)
