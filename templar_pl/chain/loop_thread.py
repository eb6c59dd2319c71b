"""An asyncio event loop in a thread of its own, for a library that is asynchronous in a program that is not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

from templar_pl.errors import ChainError

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_TIMEOUT_S = 5.0
"""Seconds the tasks of a loop are given to end, and then again what is closed last."""

NUM_CANCELS = 5
"""How often a task is told to end in that time: one that says goodbye when it is cancelled may wait for an answer."""

RESTART_S = 1.0
"""Seconds after which a background task that fell over is started again."""


class _Loop(asyncio.SelectorEventLoop):
    """A loop that knows its connections: a library that is cancelled while it opens one may forget to close it."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect as always, and remember it."""
        transport, protocol = await super().create_connection(*args, **kwargs)
        self._connections.add(transport)
        return transport, protocol

    async def drop_connections(self) -> None:
        """Close all connections that are still open, without a goodbye."""
        for transport in list(self._connections):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        await asyncio.sleep(0)  # they are closed in the next turn of the loop


class LoopThread:
    """Runs coroutines for other threads, and tasks in the background that are started again when they fall over."""

    def __init__(self, name: str) -> None:
        """Start nothing yet.

        Args:
            name: of the thread, and in messages of what does not answer.
        """
        self._name = name
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        # A loop holds its tasks weakly. One that waits for an event which only it knows would be swept away half done.
        self._background: list[concurrent.futures.Future[None]] = []

    def start(self) -> None:
        """Start the thread. Does nothing if it runs."""
        with self._lock:
            if self._loop is not None:
                return
            self._loop = _Loop()
            # daemon: a main thread that dies without closing must not leave the process hanging.
            self._thread = threading.Thread(target=_run, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Run a coroutine in the loop and return what it returns; it is cancelled when the time is over.

        Args:
            work: makes the coroutine.
            timeout_s: seconds it is given.

        Raises:
            ChainError: the loop does not run, or the time is over.
        """
        future: concurrent.futures.Future[T] | None = None
        try:
            with self._lock:
                loop = self._running()
                future = asyncio.run_coroutine_threadsafe(work(), loop)
            return future.result(timeout_s)
        except concurrent.futures.CancelledError as error:
            raise ChainError(f"{self._name} was closed while a thread waited for it") from error
        except concurrent.futures.TimeoutError as error:
            raise ChainError(f"{self._name} did not answer within {timeout_s:g} s") from error
        finally:
            if future is not None:  # Ctrl-C may come at any moment
                future.cancel()

    def keep_running(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        """Run a coroutine in the background until `stop`; when it ends or fails it is started again.

        Args:
            work: makes the coroutine.
            what: it does, for the log.

        Raises:
            ChainError: the loop does not run.
        """
        with self._lock:
            loop = self._running()
            self._background.append(asyncio.run_coroutine_threadsafe(_supervise(work, what), loop))

    def stop(self, finish: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel everything, let go of what `finish` closes, and end the thread. Does nothing if it does not run.

        Args:
            finish: makes a last coroutine, which is given `CLOSE_TIMEOUT_S`.
        """
        with self._lock:
            loop, thread, background = self._loop, self._thread, self._background
            self._loop, self._thread, self._background = None, None, []
        if loop is None or thread is None:
            return
        closing = asyncio.run_coroutine_threadsafe(_close(finish), loop)
        try:
            closing.result(3 * CLOSE_TIMEOUT_S)
        except concurrent.futures.TimeoutError:
            log.warning("%s: tasks did not end within %g s", self._name, 3 * CLOSE_TIMEOUT_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(2 * CLOSE_TIMEOUT_S)
            background.clear()

    def _running(self) -> _Loop:
        if self._loop is None:
            raise ChainError("the chain is not open; call open() first")
        return self._loop


async def end_task(task: asyncio.Task[Any], timeout_s: float) -> None:
    """Cancel a task, as often as it takes, and forget how it ended.

    Args:
        task: any.
        timeout_s: seconds it is given; then it is left behind.
    """
    await _end_all({task}, timeout_s)


def _run(loop: _Loop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(asyncio.wait({loop.create_task(loop.shutdown_asyncgens())}, timeout=CLOSE_TIMEOUT_S))
        loop.run_until_complete(loop.drop_connections())
    finally:
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
    await _end_all(asyncio.all_tasks() - {asyncio.current_task()}, CLOSE_TIMEOUT_S)
    if finish is not None:
        finishing = asyncio.ensure_future(finish())
        await asyncio.wait({finishing}, timeout=CLOSE_TIMEOUT_S)
        if finishing.done() and not finishing.cancelled() and (error := finishing.exception()) is not None:
            log.warning("what was open could not be closed: %s", error)
    # What was started meanwhile, and what `finish` leaves behind.
    await _end_all(asyncio.all_tasks() - {asyncio.current_task()}, CLOSE_TIMEOUT_S / NUM_CANCELS)


async def _end_all(tasks: set[asyncio.Task[Any]], timeout_s: float) -> None:
    pending = tasks
    for _ in range(NUM_CANCELS):
        if not pending:
            break
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=timeout_s / NUM_CANCELS)
    for task in tasks - pending:
        if not task.cancelled():
            task.exception()  # or asyncio says that nobody asked for it
