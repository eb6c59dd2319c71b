"""How far a node is from the others, and when it will be with them: in the log and on a terminal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from templar_pl.units import Window

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
"""Seconds between two lines in the log."""


@dataclass(frozen=True, slots=True)
class CatchUpStatus:
    """Where a node is on its way to the others."""

    window: Window
    """The next to be applied."""

    goal: Window
    """The one now open, or as far as this node goes; it moves with the clock."""

    done: int
    """Windows applied on this way, those of a checkpoint not counted."""

    rate: float
    """Windows a second, of late; 0 as long as that is not known."""

    left_s: float
    """Seconds until this node is in step, at this rate and that of the clock; infinite if it never is, NaN if that is
    not known."""

    @property
    def left(self) -> int:
        """Windows still to be applied."""
        return self.goal - self.window

    def words(self) -> str:
        """Say it in words."""
        if math.isnan(self.left_s):
            when = ""
        elif math.isinf(self.left_s):
            when = ", no faster than the others go on"
        else:
            when = f", in step in {_duration(self.left_s)}"
        rate = f" at {self.rate:.3g} windows/s" if self.rate else ""
        return f"{self.left} window(s) left{rate}{when}"


Watch = Callable[[CatchUpStatus | None], None]
"""Shown each status; None when there is nothing more to show."""


class CatchUpMeter:
    """Measures how fast a node catches up, and tells the log."""

    def __init__(self, watch: Watch | None = None, now: Callable[[], float] = time.monotonic) -> None:
        """Store who is shown what.

        Args:
            watch: shown each status.
            now: seconds that never run backwards.
        """
        self._watch, self._now = watch or _ignore, now
        self._since: tuple[float, Window] | None = None  # when this way began, and the goal then
        self._logged_at = 0.0
        self._done = 0

    def show(self, window: Window, goal: Window) -> None:
        """Tell how far it is still."""
        now = self._now()
        if self._since is None:
            self._since, self._logged_at, self._done = (now, goal), now, 0
            log.log(_level(goal - window), "window %d: %d window(s) behind, catching up", window, goal - window)
        status = self._status(window, goal, now)
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.info("window %d: %s", window, status.words())
        self._watch(status)

    def count(self) -> None:
        """Count a window as applied."""
        self._done += 1

    def stop(self, window: Window) -> None:
        """Tell that the node is with the others, or gives up."""
        if self._since is not None:
            seconds = self._now() - self._since[0]
            log.log(
                _level(self._done), "window %d: caught up %d window(s) in %s", window, self._done, _duration(seconds)
            )
            self._since = None
            self._watch(None)

    def _status(self, window: Window, goal: Window, now: float) -> CatchUpStatus:
        assert self._since is not None
        seconds = now - self._since[0]
        if not self._done or seconds <= 0:
            return CatchUpStatus(window, goal, self._done, 0.0, math.nan)
        rate, pace = self._done / seconds, (goal - self._since[1]) / seconds
        left_s = (goal - window) / (rate - pace) if rate > pace else math.inf
        return CatchUpStatus(window, goal, self._done, rate, left_s)


class CatchUpBar:
    """Draws how far a node is from the others; on a terminal only."""

    def __init__(self, console: Console | None = None) -> None:
        """Store where to draw; standard error if None."""
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None

    def show(self, status: CatchUpStatus | None) -> None:
        """Draw a status; None takes the bar away."""
        if status is None:
            self.close()
            return
        if not self._console.is_terminal:
            return
        if self._progress is None:
            columns = (TextColumn("catching up"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=self._console)
            self._progress.add_task("")
            self._progress.start()
        task = self._progress.tasks[0].id
        self._progress.update(task, completed=status.done, total=status.done + status.left, description=status.words())

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _level(windows: int) -> int:
    """Return how loudly to tell of so many windows: who trains nothing catches up by one in every window."""
    return logging.INFO if windows > 1 else logging.DEBUG


def _duration(seconds: float) -> str:
    """Write a duration as 9.1 s, 3 min 20 s or 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _ignore(status: CatchUpStatus | None) -> None:
    """Show nothing."""
