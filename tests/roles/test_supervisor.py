"""Programs are kept alive, ended in order, and never outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from templar_pl.roles.supervisor import Command, Program, RestartPolicy, State, end_in_order

ROOT = Path(__file__).parents[2]
LONG_S = 60.0
QUICK = RestartPolicy(first_pause_s=0.05, longest_pause_s=0.2, tries=3)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Program]]:
    """Return what makes programs in a folder; none of them is left in the end."""
    monkeypatch.chdir(ROOT)
    made: list[Program] = []

    def make(what: str, name: str, patience: RestartPolicy = QUICK) -> Program:
        arguments = [what, str(tmp_path), name]
        command = Command(module="tests.roles.programs", arguments=arguments, log_file=tmp_path / f"{name}.log")
        made.append(Program(name, command, patience))
        return made[-1]

    yield make
    for program in made:
        program.destroy()


def wait_until(is_so: Callable[[], bool], *programs: Program) -> None:
    deadline = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline
        for program in programs:
            program.look()
        time.sleep(0.02)


def pid_of(folder: Path, name: str) -> int:
    """Return the process that has left word, 0 before it does."""
    path = folder / f"{name}.pid"
    return int(path.read_text()) if path.exists() else 0


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z" if Path("/proc").is_dir() else True
    return False


def test_a_program_that_is_killed_is_started_again(make: Callable[..., Program], tmp_path: Path) -> None:
    program = make("obedient", "one")
    program.start()
    wait_until(lambda: pid_of(tmp_path, "one") != 0, program)
    first = program.pid

    program.kill()
    wait_until(lambda: pid_of(tmp_path, "one") not in (0, first), program)

    assert program.state is State.RUNNING
    assert program.pid != first
    assert program.restarts == 1
    assert "SIGKILL" in program.last_end


def test_a_program_that_is_held_down_comes_back_only_when_it_is_released(
    make: Callable[..., Program], tmp_path: Path
) -> None:
    program = make("obedient", "one")
    program.start()
    wait_until(lambda: pid_of(tmp_path, "one") != 0, program)

    program.kill(hold=True)
    wait_until(lambda: program.state is State.DOWN, program)
    for _ in range(20):
        program.look()
        time.sleep(0.02)
    was_down = program.pid is None

    program.release()
    wait_until(lambda: program.state is State.RUNNING, program)
    assert was_down
    assert program.restarts == 1


def test_a_program_that_is_about_to_be_started_again_is_held_down_too(make: Callable[..., Program]) -> None:
    program = make("broken", "7", RestartPolicy(first_pause_s=0.1, tries=100))
    program.start()
    wait_until(lambda: program.state is State.RESTARTING, program)

    program.kill(hold=True)
    time.sleep(0.3)
    program.look()
    held = program.state, program.starts
    program.release()
    wait_until(lambda: program.starts == 2, program)

    assert held == (State.DOWN, 1)


def test_a_program_that_ends_again_and_again_is_given_up_after_pauses_that_grow(make: Callable[..., Program]) -> None:
    program = make("broken", "7", RestartPolicy(first_pause_s=0.2, longest_pause_s=10, tries=3))
    program.start()
    pauses: list[float] = []
    ended_at = 0.0
    while program.state is not State.FAILED:
        before = program.state
        program.look()
        if program.state is State.RESTARTING and before is State.RUNNING:
            ended_at = time.monotonic()
        if program.state is State.RUNNING and before is State.RESTARTING:
            pauses.append(time.monotonic() - ended_at)
        time.sleep(0.005)

    assert program.starts == 3
    assert len(pauses) == 2
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4
    assert program.last_end == "it ended with exit code 7"


def test_a_program_with_wrong_settings_is_not_started_again(make: Callable[..., Program]) -> None:
    program = make("broken", "2")
    program.start()

    wait_until(lambda: program.state is State.FAILED, program)

    assert program.starts == 1


def test_every_life_of_a_program_is_in_its_log(make: Callable[..., Program], tmp_path: Path) -> None:
    program = make("no_such_program", "one")
    program.start()

    wait_until(lambda: program.state is State.FAILED, program)

    assert (tmp_path / "one.log").read_text().count("KeyError") == QUICK.tries


def test_programs_end_in_order_and_the_deaf_are_killed(make: Callable[..., Program], tmp_path: Path) -> None:
    first, last, deaf = make("obedient", "first"), make("obedient", "last"), make("deaf", "deaf")
    for program in (first, last, deaf):
        program.start()
    wait_until(lambda: all(pid_of(tmp_path, name) for name in ("first", "last", "deaf")), first, last, deaf)

    killed = end_in_order([[first, deaf], [last]], 1.0)

    assert killed == [deaf]
    assert (tmp_path / "first.ended").stat().st_mtime_ns < (tmp_path / "last.ended").stat().st_mtime_ns
    assert all(program.state is State.STOPPED and program.pid is None for program in (first, last, deaf))


def test_nobody_is_waited_for_in_a_hurry(make: Callable[..., Program], tmp_path: Path) -> None:
    deaf = make("deaf", "deaf")
    deaf.start()
    wait_until(lambda: pid_of(tmp_path, "deaf") != 0, deaf)
    start = time.monotonic()

    killed = end_in_order([[deaf]], LONG_S, in_a_hurry=lambda: True)

    assert killed == [deaf]
    assert time.monotonic() - start < LONG_S / 2


def test_a_program_waiting_for_its_next_start_is_not_started_once_it_must_end(make: Callable[..., Program]) -> None:
    program = make("broken", "7", RestartPolicy(first_pause_s=0.1, tries=100))
    program.start()
    wait_until(lambda: program.state is State.RESTARTING, program)

    end_in_order([[program]], 5.0)
    starts = program.starts
    time.sleep(0.3)
    program.look()

    assert program.state is State.STOPPED
    assert program.starts == starts


def test_killing_a_program_kills_what_it_started(make: Callable[..., Program], tmp_path: Path) -> None:
    program = make("parent", "one")
    program.start()
    wait_until(lambda: pid_of(tmp_path, "one-child") != 0, program)

    program.destroy()

    wait_until(lambda: not is_alive(pid_of(tmp_path, "one-child")))


def test_kill_9_of_the_supervisor_leaves_nobody_and_all_end_in_order(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.roles.programs", "supervise", str(tmp_path), "one+two"]
    supervisor = subprocess.Popen(line, cwd=ROOT)
    try:
        wait_until(lambda: bool(pid_of(tmp_path, "one") and pid_of(tmp_path, "two")))
        pids = [pid_of(tmp_path, name) for name in ("one", "two")]
        assert all(is_alive(pid) for pid in pids)
    finally:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait(LONG_S)

    wait_until(lambda: not any(is_alive(pid) for pid in pids))

    assert all((tmp_path / f"{name}.ended").exists() for name in ("one", "two"))


def test_a_program_that_does_not_listen_is_killed_with_its_children_when_the_parent_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from templar_pl.roles.lifeline import hold_lifeline;"
        "hold_lifeline(0, 0.2); from tests.roles.programs import deaf, leave_word; import subprocess;"
        "subprocess.Popen([sys.executable, '-m', 'tests.roles.programs', 'deaf', sys.argv[1], 'child']);"
        "deaf(Path(sys.argv[1]), 'one')"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True
    )
    wait_until(lambda: bool(pid_of(tmp_path, "one") and pid_of(tmp_path, "child")))
    assert child.stdin is not None

    child.stdin.close()

    assert child.wait(LONG_S) == -signal.SIGKILL
    wait_until(lambda: not is_alive(pid_of(tmp_path, "child")))
