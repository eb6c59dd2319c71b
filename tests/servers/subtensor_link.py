"""The way between the fake chain and its clients, which a test can cut, freeze and disturb."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tests.servers.subtensor_state import LinkDown

Push = Callable[[Any], None]
"""Takes headers (dicts), and a LinkDown when the subscription dies. Called in any thread, must not wait."""


class _Mode(enum.Enum):
    OPEN = enum.auto()
    CUT = enum.auto()
    SILENT = enum.auto()


class Link:
    """Who is connected and subscribed, and whether anything gets through."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._mode = _Mode.OPEN
        self._waiting: list[Future[None]] = []
        self._subscribers: list[Push] = []
        self._held: list[Any] = []
        self._num_repeated, self._num_skipped = 0, 0
        self.num_open = 0
        """Connections that were opened and not closed."""

    @property
    def num_subscribed(self) -> int:
        """Subscriptions that are alive."""
        return len(self._subscribers)

    def cut(self, *, retry_forever: bool = False) -> None:
        """Let every subscription die, and every request fail until `mend`.

        Args:
            retry_forever: requests wait for `mend` instead, as those of a client with that option do.
        """
        with self._lock:
            subscribers, self._subscribers, self._held = self._subscribers, [], []
            self._change(_Mode.SILENT if retry_forever else _Mode.CUT)
            for push in subscribers:
                push(LinkDown("the connection was cut"))

    def drop(self) -> None:
        """Let every subscription die, while requests get through."""
        with self._lock:  # which `passage` takes too: no request meets the moment in between
            self.cut()
            self.mend()

    def hang(self) -> None:
        """Answer nothing until `mend`: requests wait, heads come late."""
        with self._lock:
            self._change(_Mode.SILENT)

    def mend(self) -> None:
        """Let everything through again, first the heads that were held back by `hang`."""
        with self._lock:
            self._change(_Mode.OPEN)
            held, self._held = self._held, []
            for header in held:
                self.publish(header)

    def orphan(self) -> None:
        """Let every subscription fall silent for ever, without an error, while requests get through.

        So ends an open subscription of SDK 11.3 with websockets 16 when a node closes the connection in an orderly way.
        """
        with self._lock:
            self._subscribers = []

    def repeat_heads(self, count: int = 1) -> None:
        """Send each of the next heads twice."""
        with self._lock:
            self._num_repeated = count

    def skip_heads(self, count: int = 1) -> None:
        """Send none of the next heads."""
        with self._lock:
            self._num_skipped = count

    def passage(self) -> Future[None] | None:
        """Return None if a request gets through, else a future: ask again when it is done.

        Raises:
            LinkDown: the connection is cut.
        """
        with self._lock:
            if self._mode is _Mode.CUT:
                raise LinkDown("the connection was cut")
            if self._mode is _Mode.OPEN:
                return None
            waiting: Future[None] = Future()
            self._waiting.append(waiting)
            return waiting

    def subscribe(self, push: Push, head: Callable[[], Any]) -> Callable[[], None]:
        """Send the head now and every head from now on; returns how to stop that."""
        with self._lock:
            self._subscribers.append(push)
            push(head())  # read under the lock: a block made meanwhile is sent twice rather than never

        def stop() -> None:
            with self._lock:
                if push in self._subscribers:
                    self._subscribers.remove(push)

        return stop

    def publish(self, header: Any) -> None:
        """Send a head to all subscriptions."""
        with self._lock:
            if self._mode is not _Mode.OPEN:
                self._held.append(header)
                return
            times = 1
            if self._num_skipped > 0:
                self._num_skipped, times = self._num_skipped - 1, 0
            elif self._num_repeated > 0:
                self._num_repeated, times = self._num_repeated - 1, 2
            for push in self._subscribers:
                for _ in range(times):
                    push(header)

    def _change(self, mode: _Mode) -> None:
        self._mode = mode
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if each.set_running_or_notify_cancel():
                each.set_result(None)
