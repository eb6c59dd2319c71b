"""What a check says, how checks run, and parts of the settings that may be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from templar_pl.errors import ConfigError, TemplarError

T_co = TypeVar("T_co", covariant=True)


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    check: str
    state: State
    found: str
    """What was found; of a failure also how to mend it, where the error says so itself."""

    mend: str = ""
    """What to do about it."""


class UnmetError(ConfigError):
    """What a check needs is wrong, and is reported in a row of its own."""


class Part(Generic[T_co]):
    """A value, or the error that making it ended in."""

    def __init__(self, make: Callable[[], T_co]) -> None:
        """Make the value."""
        self.error: ConfigError | None = None
        try:
            self._values = [make()]
        except ConfigError as error:
            self.error, self._values = error, []

    def get(self) -> T_co:
        """Return the value. Raises `UnmetError` if there is none."""
        if not self._values:
            raise UnmetError("needs settings that are wrong, see above")
        return self._values[0]

    def fault(self) -> str:
        """Return what is wrong with this part itself; empty if nothing, or only with what it is made of."""
        return "" if self.error is None or isinstance(self.error, UnmetError) else str(self.error)


@dataclass(frozen=True, slots=True)
class Check:
    """One examination, independent of all others."""

    name: str
    run: Callable[[], Iterable[Row]]
    """May raise any error of this package, which becomes a failure, and `UnmetError`, which skips the check."""


def run_checks(checks: Sequence[Check]) -> list[Row]:
    """Run checks side by side, since most of them wait, and return their rows in the order of the checks."""
    with ThreadPoolExecutor(max(1, len(checks))) as pool:
        return [row for rows in pool.map(_rows, checks) for row in rows]


def _rows(check: Check) -> list[Row]:
    rows: list[Row] = []
    try:
        rows.extend(check.run())  # in place: what a check found before it failed is kept
    except UnmetError as error:
        rows.append(Row(check.name, State.SKIPPED, str(error)))
    except (TemplarError, OSError) as error:
        rows.append(Row(check.name, State.FAILED, str(error)))
    return rows
