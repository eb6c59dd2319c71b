"""How far it is and how long it will take, in words and as a bar."""

from __future__ import annotations

import io
import logging
import math

import pytest
from rich.console import Console

from templar_pl.training.catch_up_status import LOG_EVERY_S, CatchUpBar, CatchUpMeter, CatchUpStatus
from templar_pl.units import Window


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def meter() -> tuple[CatchUpMeter, Time, list[CatchUpStatus | None]]:
    seen: list[CatchUpStatus | None] = []
    time = Time()
    return CatchUpMeter(seen.append, time), time, seen


def test_the_time_to_be_in_step_takes_the_pace_of_the_others_into_account() -> None:
    made, time, seen = meter()
    made.show(Window(10), Window(50))
    for _ in range(20):
        made.count()
    time.now += 10  # 20 windows in 10 s; the others made 5

    made.show(Window(30), Window(55))

    status = seen[-1]
    assert status is not None
    assert (status.rate, status.left, status.done) == (2.0, 25, 20)
    assert status.left_s == pytest.approx(25 / (2.0 - 0.5))
    assert status.words() == "25 window(s) left at 2 windows/s, in step in 16.7 s"


def test_who_is_no_faster_than_the_others_is_told_so() -> None:
    made, time, seen = meter()
    made.show(Window(10), Window(50))
    made.count()
    time.now += 10

    made.show(Window(11), Window(51))

    status = seen[-1]
    assert status is not None
    assert math.isinf(status.left_s)
    assert status.words() == "40 window(s) left at 0.1 windows/s, no faster than the others go on"


def test_before_the_first_window_nothing_is_promised() -> None:
    made, _, seen = meter()

    made.show(Window(10), Window(12))

    assert seen[0] is not None
    assert seen[0].words() == "2 window(s) left"


def test_the_log_has_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made, time, seen = meter()
    for window in range(7):
        made.show(Window(window), Window(7))
        made.count()
        time.now += LOG_EVERY_S / 2
    made.stop(Window(7))
    made.stop(Window(7))

    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "window 0: 7 window(s) behind, catching up"
    assert lines[1] == "window 2: 5 window(s) left at 0.2 windows/s, in step in 25.0 s"
    assert lines[-1] == "window 7: caught up 7 window(s) in 35.0 s"
    assert len(lines) == 5
    assert seen[-1] is None


@pytest.mark.parametrize(("is_terminal", "is_drawn"), [(True, True), (False, False)])
def test_the_bar_is_drawn_on_a_terminal_only(is_terminal: bool, is_drawn: bool) -> None:
    text = io.StringIO()
    bar = CatchUpBar(Console(file=text, force_terminal=is_terminal, width=120))

    bar.show(CatchUpStatus(Window(3), Window(9), 3, 1.5, 200.0))
    bar.show(None)
    bar.close()

    assert ("catching up" in text.getvalue() and "in step in 3 min 20 s" in text.getvalue()) == is_drawn


def test_long_times_are_told_in_hours() -> None:
    assert "in step in 2 h 5 min" in CatchUpStatus(Window(0), Window(9), 1, 1.0, 7530.0).words()


def test_a_single_window_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    meter = CatchUpMeter(now=lambda: 0.0)

    with caplog.at_level(logging.INFO, logger="templar_pl"):
        meter.show(Window(3), Window(4))
        meter.count()
        meter.stop(Window(4))

    assert caplog.text == ""
