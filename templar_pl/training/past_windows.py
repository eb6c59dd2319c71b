"""What an aggregator has of windows that are over, fetched one window ahead of the one that is applied."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from templar_pl.data.background import BackgroundCall
from templar_pl.errors import AggregateError, DocumentError, ObjectMissingError, StoreError
from templar_pl.exchange.aggregates import AggregateSource, StandingManifest, check_aggregate_file
from templar_pl.exchange.disk import explained
from templar_pl.protocol import Shapes, Verify
from templar_pl.units import Window

log = logging.getLogger(__name__)

T = TypeVar("T")

_SLICE_S = 0.2  # until a wait looks up


@dataclass(frozen=True, slots=True)
class PastWindow:
    """What an aggregator has of a window that is over."""

    window: Window
    standing: StandingManifest | None = None
    """Its manifest; None if that cannot be had."""

    aggregate: Path | None = None
    """Its update, known to be whole and well-formed; None if it cannot be had."""

    missing: str = ""
    """What cannot be had, and why."""

    is_outage: bool = False
    """Whether it may only be the store that fails."""


class PastWindows:
    """Fetches what an aggregator has, in a thread."""

    def __init__(
        self, source: AggregateSource, shapes: Shapes, folder: Path, verify: Verify, check_interrupt: Callable[[], None]
    ) -> None:
        """Store the parts.

        Args:
            source: reads what the aggregator published.
            shapes: of all parameters.
            folder: for the files on their way, two at most; of this process alone, made if there is none.
            verify: checks a signature.
            check_interrupt: asked while waiting; raises what should end the wait.
        """
        self._source, self._shapes, self._folder, self._verify = source, shapes, folder, verify
        self._check_interrupt = check_interrupt
        self._ahead: tuple[Window, BackgroundCall[PastWindow]] | None = None
        self._is_swept = False

    def take(self, window: Window, *, next_too: bool) -> PastWindow:
        """Return what there is of a window.

        Args:
            window: one that is over.
            next_too: whether to fetch the next one while this one is applied.
        """
        self._sweep(window)
        call = self._begun(window)
        found = wait_for(call, self._check_interrupt)
        self._ahead = None
        if next_too:
            self._begun(Window(window + 1))
        return found

    def settle(self) -> None:
        """Let what is on its way end, so that nothing is written any more."""
        if self._ahead is not None:
            wait_for(self._ahead[1], self._check_interrupt)
            self._ahead = None

    def _sweep(self, window: Window) -> None:
        """Delete what an earlier life left of windows that are applied by now, before the first one is fetched."""
        if self._is_swept:
            return
        self._is_swept = True
        sweep(self._folder, window)

    def _begun(self, window: Window) -> BackgroundCall[PastWindow]:
        """Return the call that fetches a window, begun if it was not; one at a time writes into the folder."""
        if self._ahead is not None and self._ahead[0] != window:
            self.settle()
        if self._ahead is None:
            self._ahead = window, in_background(lambda: self._fetch(window), name=f"window-{window}")
        return self._ahead[1]

    def _fetch(self, window: Window) -> PastWindow:
        try:
            standing = self._source.fetch_manifest(window)
        except (DocumentError, StoreError) as error:
            return PastWindow(window, missing=f"manifest: {error}", is_outage=is_outage(error))
        try:
            return PastWindow(window, standing, self._fetch_aggregate(standing))
        except (AggregateError, DocumentError, StoreError) as error:
            return PastWindow(window, standing, missing=f"aggregate: {error}", is_outage=is_outage(error))

    def _fetch_aggregate(self, standing: StandingManifest) -> Path:
        """Fetch the aggregate and read all of it once, so that nothing malformed is found while it is applied."""
        path = download(self._source, standing, self._shapes, self._folder)
        try:
            check_aggregate_file(path, self._shapes, standing.head, self._verify)
        except AggregateError:
            with explained("delete", path):
                path.unlink()
            raise
        return path


def sweep(folder: Path, window: Window) -> None:
    """Delete what `download` left in a folder of windows before this one. Raises `StoreError`."""
    with explained("delete", folder):
        for path in folder.glob("[0-9]" * 9 + ".bin*"):
            if path.name < f"{window:09d}":
                path.unlink()


def download(source: AggregateSource, standing: StandingManifest, shapes: Shapes, folder: Path) -> Path:
    """Fetch the aggregate that belongs to a manifest into a folder, and return its file, which is not read yet.

    Raises:
        ObjectMissingError: it is not complete yet, or not there any more.
        DocumentError: what is there is not its notice.
        StoreError: the store failed, or the disk.
    """
    notice = source.fetch_notice(standing)
    path = folder / f"{notice.window:09d}.bin"
    with explained("write", path):
        folder.mkdir(parents=True, exist_ok=True)
    source.fetch_aggregate(notice, shapes, path)
    return path


def in_background(work: Callable[[], T], *, name: str) -> BackgroundCall[T]:
    """Begin to do something in a thread that does not keep the process from ending."""
    call = BackgroundCall(lambda _: work(), name=name)
    call.start()
    return call


def wait_for(call: BackgroundCall[T], check_interrupt: Callable[[], None]) -> T:
    """Return what a call returns or raise what it raises; a wait is ended by what `check_interrupt` raises."""
    while True:
        try:
            return call.result(_SLICE_S)
        except TimeoutError:
            check_interrupt()


def is_outage(error: Exception) -> bool:
    """Return whether an error tells nothing but that a store fails: what was asked for may be there all the same."""
    return isinstance(error, StoreError) and not isinstance(error, ObjectMissingError)
