"""What became of a swarm is said of what was published: who is equal, who earned what, whether the loss fell."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from templar_pl.roles.supervisor import State
from templar_pl.roles.swarm import exit_code
from templar_pl.roles.swarm_plan import Kind
from templar_pl.roles.swarm_table import Lines, LiveTable, live_table, row_of, show_verdict
from templar_pl.roles.swarm_verdict import Fate, Verdict, as_json, judge
from templar_pl.units import Window
from tests.roles.swarm_runs import WrittenRun

FIRST, LAST = Window(2), Window(7)
OTHER = hashlib.sha256(b"other").digest()
KINDS = {
    "alice": Kind.MINER,
    "bob": Kind.MINER,
    "thief": Kind.COPYCAT,
    "validator": Kind.VALIDATOR,
    "aggregator": Kind.AGGREGATOR,
}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WrittenRun]:
    written = WrittenRun(tmp_path, ["alice", "bob", "thief"])
    yield written
    written.chain.close()


def write(run: WrittenRun, *, leave_out: tuple[str, int] = ("", 0), manifests: bool = True) -> None:
    """Have everybody do what they should, from the first counted window to the one after the last."""
    for window in range(FIRST, LAST + 2):
        for name in ("alice", "bob", "thief"):
            if (name, window) != leave_out:
                run.report(name, window, 5.0 - window / 10)
        if manifests:
            run.manifest(window)


def verdict_of(run: WrittenRun, *, kept_alive: bool = True, restarts: int = 0, aggregator: bool = True) -> Verdict:
    history = run.watcher(aggregator=aggregator).look()
    fates = [
        Fate(
            name=name,
            kind=kind,
            uid=run.uids[name],
            restarts=restarts if name == "bob" else 0,
            kept_alive=kept_alive or name != "bob",
        )
        for name, kind in KINDS.items()
    ]
    return judge(history, fates, FIRST, LAST)


def text_of(verdict: Verdict) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        show_verdict(verdict, console)
    return captured.get()


def test_a_good_run_is_said_to_be_good(run: WrittenRun) -> None:
    write(run)
    run.score(LAST, {"alice": 2.0, "bob": 1.0, "thief": 0.0})
    run.weigh({"alice": 0.8, "bob": 0.2})

    verdict = verdict_of(run, restarts=2)

    assert verdict.equal
    assert verdict.kept_alive
    assert verdict.loss_fell
    assert verdict.manifests == 6
    assert [outcome.compared for outcome in verdict.outcomes] == [7, 7, 7, 0, 0]
    assert [outcome.counted for outcome in verdict.outcomes] == [6, 6, 6, 0, 0]
    assert [outcome.score for outcome in verdict.outcomes] == [2.0, 1.0, 0.0, None, None]
    assert [outcome.weight for outcome in verdict.outcomes] == [0.8, 0.2, 0.0, None, None]
    assert verdict.best_adversary == 0.0
    assert exit_code(verdict, 0) == 0
    text = text_of(verdict)
    assert "all 2 honest miners are equal, bit for bit, in 14 comparisons" in text
    assert "restarted: bob 2x" in text
    assert "loss: 4.7000 at first, 4.4000 at last: it fell" in text


def test_a_miner_with_other_parameters_is_named_with_its_windows(run: WrittenRun) -> None:
    write(run, leave_out=("bob", 4))
    run.report("bob", 4, before=OTHER)

    verdict = verdict_of(run)

    assert not verdict.equal
    assert verdict.differs
    assert [outcome.differs_in for outcome in verdict.outcomes][:3] == [(), (4,), ()]
    assert exit_code(verdict, 0) == 1
    assert "bob DIFFERS in windows 4" in text_of(verdict)


def test_a_difference_after_the_last_window_counts(run: WrittenRun) -> None:
    write(run, leave_out=("bob", LAST + 1))
    run.report("bob", LAST + 1, before=OTHER)

    assert verdict_of(run).outcomes[1].differs_in == (LAST + 1,)


def test_an_adversary_with_other_parameters_is_no_fault_of_the_swarm(run: WrittenRun) -> None:
    write(run, leave_out=("thief", 4))
    run.report("thief", 4, before=OTHER)

    verdict = verdict_of(run)

    assert verdict.equal
    assert verdict.outcomes[2].differs_in == (4,)


def test_who_joins_late_is_compared_from_then_on(run: WrittenRun) -> None:
    for window in range(FIRST, LAST + 2):
        run.report("alice", window)
        run.manifest(window)
        if window >= 6:
            run.report("bob", window)

    bob = verdict_of(run).outcomes[1]

    assert verdict_of(run).equal
    assert (bob.in_sync_from, bob.compared, bob.counted) == (6, 3, 2)


def test_who_is_not_there_at_the_end_proves_nothing(run: WrittenRun) -> None:
    write(run, leave_out=("bob", LAST + 1))

    verdict = verdict_of(run)

    assert not verdict.equal
    assert not verdict.differs
    assert exit_code(verdict, 0) == 1
    assert exit_code(verdict, 130) == 130  # nobody could know that it would end so soon
    assert "bob was NOT THERE AT THE END" in text_of(verdict)


def test_manifests_that_do_not_follow_from_each_other_are_found(run: WrittenRun) -> None:
    write(run, manifests=False)
    for window in range(FIRST, LAST + 1):
        run.manifest(window, before=OTHER if window == 5 else None)

    verdict = verdict_of(run)

    assert verdict.broken_manifests == (5,)
    assert not verdict.equal
    assert "manifest 5 BEGINS ELSEWHERE than 4 ended" in text_of(verdict)


def test_without_manifests_the_honest_are_compared_with_each_other(run: WrittenRun) -> None:
    write(run, manifests=False)
    assert verdict_of(run, aggregator=False).equal

    run.report("alice", 4, before=OTHER)

    verdict = verdict_of(run, aggregator=False)
    assert sum(bool(outcome.differs_in) for outcome in verdict.outcomes[:2]) == 1


def test_a_node_that_was_given_up_makes_the_verdict_bad(run: WrittenRun) -> None:
    write(run)

    verdict = verdict_of(run, kept_alive=False)

    assert exit_code(verdict, 0) == exit_code(verdict, 130) == 1
    assert "bob COULD NOT BE KEPT ALIVE" in text_of(verdict)


def test_a_payload_that_is_no_part_of_its_window_is_not_counted(run: WrittenRun) -> None:
    write(run, leave_out=("bob", 4))
    run.report("bob", 4, why="late")

    assert verdict_of(run).outcomes[1].counted == 5


def test_a_loss_that_rises_is_said(run: WrittenRun) -> None:
    for window in range(FIRST, LAST + 2):
        run.report("alice", window, float(window))
        run.report("bob", window, math.nan)
    verdict = verdict_of(run, aggregator=False)

    assert not verdict.loss_fell
    assert verdict.loss_at == (3.0, 6.0)
    assert "it DID NOT FALL" in text_of(verdict)


def test_the_best_adversary_is_measured_against_the_worst_honest_miner(run: WrittenRun) -> None:
    write(run)
    run.weigh({"alice": 0.5, "bob": 0.4, "thief": 0.1})
    assert verdict_of(run).best_adversary == pytest.approx(0.25)

    run.weigh({"alice": 1.0})
    assert verdict_of(run).best_adversary == math.inf


@pytest.mark.parametrize(
    ("weights", "answer"),
    [
        ({"alice": 0.5, "bob": 0.4, "thief": 0.1}, "yes, the best has 0.250 of it"),
        ({"alice": 0.5, "bob": 0.3, "thief": 0.1}, "NO, the best has 0.333 of it"),
        ({"alice": 0.5, "bob": 0.2, "thief": 0.3}, "NO, the best has 1.500 of it"),
        ({"alice": 1.0}, "NO, bob earned nothing, and nobody earns less than that"),
        ({"thief": 1.0}, "NO, alice and bob earned nothing, and nobody earns less than that"),
    ],
)
def test_whether_adversaries_earn_little_is_said_in_words(
    run: WrittenRun, weights: dict[str, float], answer: str
) -> None:
    write(run)
    run.weigh(weights)
    verdict = verdict_of(run)
    poor = [name for name in ("alice", "bob") if name not in weights]

    text = text_of(verdict)

    assert f"every adversary earns less than a third of the worst honest miner: {answer}" in text
    assert [line for line in text.splitlines() if "EARNED NOTHING" in line] == [
        f"{name} is honest and EARNED NOTHING" for name in poor
    ]
    assert re.search(r"\b(inf|nan)\b", text) is None
    said = json.loads(as_json(verdict))
    assert (said["adversaries_earn_less"], said["earned_nothing"]) == (answer.startswith("yes"), poor)


def test_without_weights_nothing_is_said_of_adversaries(run: WrittenRun) -> None:
    write(run)
    verdict = verdict_of(run)

    assert verdict.adversaries_earn_less is None
    assert "adversary earns" not in text_of(verdict)


def test_what_everybody_earned_is_measured_against_the_worst_honest_miner(run: WrittenRun) -> None:
    write(run)
    run.weigh({"alice": 0.6, "bob": 0.3, "thief": 0.1})

    assert verdict_of(run).shares == pytest.approx({"alice": 2.0, "bob": 1.0, "thief": 1 / 3})


@pytest.mark.parametrize(
    ("is_back", "words"), [(True, "bob 2x and came back"), (False, "bob 2x and DID NOT COME BACK")]
)
def test_who_was_killed_and_came_back_is_said(run: WrittenRun, is_back: bool, words: str) -> None:
    write(run, leave_out=("", 0) if is_back else ("bob", LAST + 1))

    assert f"restarted: {words}" in text_of(verdict_of(run, restarts=2)).splitlines()


def test_who_joined_later_is_said(run: WrittenRun) -> None:
    for window in range(FIRST, LAST + 2):
        for name in ("alice", "bob") if window > FIRST + 2 else ("alice",):
            run.report(name, window)
        run.manifest(window)

    text = text_of(verdict_of(run))

    assert f"bob joined: in sync from window {FIRST + 3} on" in text
    assert "alice joined" not in text


def test_a_swarm_that_counted_nothing_failed_unless_it_was_told_to_end() -> None:
    assert exit_code(None, 0) == 1
    assert exit_code(None, 130) == 130


def test_the_verdict_is_json_without_numbers_that_json_has_not(run: WrittenRun) -> None:
    write(run)
    run.weigh({"alice": 1.0})

    said = json.loads(as_json(verdict_of(run)), parse_constant=pytest.fail)

    assert said["equal"] is True
    assert said["best_adversary"] is None
    assert said["windows"] == [2, 7]
    assert said["nodes"][0]["weight"] == 1.0
    assert said["losses"]["2"] == pytest.approx(4.8)


@pytest.mark.parametrize(
    ("reported", "process", "shown"),
    [
        (11, State.RUNNING, "running"),
        (8, State.RUNNING, "catching up"),
        (8, State.DOWN, "down"),
        (11, State.RESTARTING, "restarting"),
        (None, State.RUNNING, "joining"),
        (None, State.FAILED, "failed"),
    ],
)
def test_the_state_of_a_miner_is_that_of_its_process_and_of_its_reports(
    run: WrittenRun, reported: int | None, process: State, shown: str
) -> None:
    if reported is not None:
        run.report("alice", reported)

    row = row_of(run.watcher().look(), "alice", Kind.MINER, run.uids["alice"], process)

    assert row.state == shown


def test_the_table_has_all_that_is_known_of_a_node(run: WrittenRun) -> None:
    run.report("alice", 10, 4.5)
    run.report("alice", 11, 4.25)
    run.report("bob", 11, before=OTHER)
    run.manifest(11)
    run.score(9, {"alice": 1.25})
    run.weigh({"alice": 1.0})
    history = run.watcher().look()

    rows = [row_of(history, name, kind, run.uids[name], State.RUNNING) for name, kind in KINDS.items()]

    assert rows[0].cells() == [
        *("0", "alice", "miner", "running", "11", "4.2500", "2"),
        *("1.250", "1.000", "200 B", "400 B", "yes"),
    ]
    assert rows[1].cells()[-1] == "no"
    assert rows[3].cells()[:5] == ["3", "validator", "validator", "running", "9"]
    assert rows[4].cells()[:5] == ["4", "aggregator", "aggregator", "running", "11"]
    console = Console(width=160)
    with console.capture() as captured:
        console.print(live_table(rows, "3 of 6 windows are over"))
    assert "3 of 6 windows are over" in captured.get()
    assert "4.2500" in captured.get()


def test_without_a_terminal_there_is_one_line_a_window(run: WrittenRun, tmp_path: Path) -> None:
    run.report("alice", 11, 4.0)
    run.report("bob", 11, 5.0)
    run.manifest(11)
    history = run.watcher().look()
    rows = [row_of(history, name, kind, run.uids[name], State.RUNNING) for name, kind in KINDS.items()]

    with (tmp_path / "out").open("w") as out:
        lines = Lines(Console(file=out, width=80))
        lines.show(history, rows, "1 of 6 windows are over")
        lines.show(history, rows, "1 of 6 windows are over")
        lines.close()

    (line,) = (tmp_path / "out").read_text().splitlines()
    assert line.startswith("window 12 is open (1 of 6 windows are over) | loss 4.5000 | in sync 2/2 | manifests to 11")
    assert line.endswith("thief joining")


def test_a_terminal_shows_the_newest_table_and_keeps_it(run: WrittenRun, tmp_path: Path) -> None:
    run.report("alice", 11, 4.0)
    history = run.watcher().look()
    row = row_of(history, "alice", Kind.MINER, run.uids["alice"], State.RUNNING)

    with (tmp_path / "out").open("w") as out:
        table = LiveTable(Console(file=out, width=160, force_terminal=True))
        table.show(history, [row], "nothing is over")
        table.show(history, [row], "all is over")
        table.close()

    shown = (tmp_path / "out").read_text()
    assert "4.0000" in shown
    assert "all is over" in shown.split("nothing is over")[-1]
