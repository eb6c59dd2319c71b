"""One call in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """Runs a function in a daemon thread; what it returns or raises comes out of `result`."""

    def __init__(self, function: Callable[[threading.Event], T], *, name: str) -> None:
        """Prepare the call; `start` runs it.

        Args:
            function: gets an event that is set when nobody wants the result any more, so that it may stop early.
            name: of the thread.
        """
        self._function = function
        self._cancelled = threading.Event()
        self._caught = _Caught()
        self._results: list[T] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Run the function."""
        self._thread.start()

    def result(self, timeout_s: float) -> T:
        """Wait for the function and return what it returned, or raise what it raised.

        Raises:
            TimeoutError: it is still running after timeout_s seconds.
        """
        self._join(timeout_s)
        if self._caught.error is not None:
            raise self._caught.error
        return self._results[0]

    def cancel(self, timeout_s: float) -> None:
        """Ask the function to stop and wait for its thread. Raises `TimeoutError` if it goes on."""
        self._cancelled.set()
        self._join(timeout_s)

    def _join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"thread {self._thread.name} is still running after {timeout_s} s")

    def _run(self) -> None:
        with self._caught:
            self._results.append(self._function(self._cancelled))


class _Caught:
    """Keeps the error of a block for the thread that asks for the result: any error, because none is swallowed."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Keep the error."""
        self.error = error
        return True
