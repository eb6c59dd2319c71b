"""Where listed payloads are gone, the aggregate of their window is waited for, and applied if it is the right one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.errors import OutOfSyncError
from templar_pl.exchange import LocalBuckets
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.window_values import Collected, Identity
from templar_pl.protocol import notice_keys
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.training.receiver import WindowReceiver
from templar_pl.units import Uid, Window
from tests.training.past_run import CONFIG, CPU, RUN, START, PastRun

LAST = 3
"""Place of the window in question; the run has none after it."""


@pytest.fixture
def run(tmp_path: Path) -> PastRun:
    return PastRun(tmp_path).go_on(LAST + 1)


def never(window: Window) -> float:
    return 0.0


def receiver(
    run: PastRun,
    *,
    seconds_left: Callable[[Window], float] = never,
    wait_s: float = 0.0,
    check_interrupt: Callable[[], None] = lambda: None,
    **trail: Any,
) -> WindowReceiver:
    """Return what receives windows for a node that sends nothing."""
    codec = MomentumCodec(run.shapes, CONFIG, CPU)
    buckets = LocalBuckets(run.folder / "store", "joiner")
    signer = load_or_create_hotkey(run.folder / "keys", "joiner")
    identity = Identity(RUN, run.live.digest, Uid(99), address="joiner", signer=signer, verify=verify)
    record: Any = None  # what a window consists of is given
    trip = RoundTrip(codec, identity, buckets=buckets, record=record, source=run.payloads(), timeout_s=1.0)
    return WindowReceiver(
        trip, codec, run.trail(**trail), seconds_left=seconds_left, wait_s=wait_s, limits=run.limits(check_interrupt)
    )


def gone(run: PastRun, applied: int = LAST) -> Collected:
    """Return a window whose payloads nobody has any more."""
    standing = run.source().fetch_manifest(Window(START + applied))
    return Collected(standing.manifest.settlement(), {}, {}, 0, standing, "1 payload cannot be had")


def update_of(run: PastRun, applied: int = LAST) -> dict[str, torch.Tensor]:
    payloads = run.collect(Window(START + applied)).payloads
    return run.live.codec.update([payload.chunks for payload in payloads.values()])


def test_the_aggregate_gives_the_bits_of_the_payloads_and_is_counted_and_said(
    run: PastRun, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, one = update_of(run), receiver(run)
    out = {name: torch.full(shape, 7.0) for name, shape in run.shapes.items()}
    phases = PhaseClock()
    phases.start(Phase.GATHER)

    found = one.update(gone(run), phases, out=out)

    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == torch.float32 for name in wanted)
    assert all(found[name].data_ptr() == out[name].data_ptr() for name in wanted)
    assert one.aggregates == 1
    assert "1 payload cannot be had; its aggregate is applied instead" in caplog.text
    assert phases.phase is Phase.MODEL_UPDATE
    assert list((run.folder / "catch-up").rglob("*")) == [run.folder / "catch-up" / "live"]


def test_an_aggregate_is_waited_for_until_the_next_window_is_over(run: PastRun) -> None:
    late = hide_aggregate(run)
    asked: list[Window] = []

    def seconds_left(window: Window) -> float:
        asked.append(window)
        if len(asked) == 2:
            late()
        return 0.01

    wanted = update_of(run)
    found = receiver(run, seconds_left=seconds_left).update(gone(run), PhaseClock())

    assert asked == [START + LAST + 1] * 2
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_aggregate_is_waited_for_as_long_as_a_manifest_at_least(run: PastRun) -> None:
    late, asked = hide_aggregate(run), []

    def seconds_left(window: Window) -> float:
        asked.append(window)
        if len(asked) == 2:
            late()
        return -1e6

    receiver(run, seconds_left=seconds_left, wait_s=60.0).update(gone(run), PhaseClock())

    assert len(asked) == 2


def test_without_an_aggregate_the_node_is_lost_and_both_reasons_are_said(run: PastRun) -> None:
    run.delete_aggregate(LAST)
    one = receiver(run)

    with pytest.raises(OutOfSyncError, match=r"1 payload cannot be had; its aggregate neither: .*no object") as caught:
        one.update(gone(run), PhaseClock())

    assert notice_keys(RUN).key(Window(START + LAST)) in str(caught.value)
    assert one.aggregates == 0


def test_an_aggregator_without_a_bucket_is_one_without_an_aggregate(run: PastRun) -> None:
    with pytest.raises(OutOfSyncError, match="no bucket that the chain knows of"):
        receiver(run, aggregator=lambda: None).update(gone(run), PhaseClock())


@pytest.mark.parametrize("place", [5, 150, -40, -100])
def test_an_aggregate_that_is_malformed_is_not_applied(run: PastRun, place: int) -> None:
    def change(data: bytearray) -> None:
        data[place] ^= 1

    run.replace_aggregate(LAST, change)

    with pytest.raises(OutOfSyncError, match="its aggregate neither"):
        receiver(run, wait_s=60.0).update(gone(run), PhaseClock())

    assert list((run.folder / "catch-up").rglob("*")) == [run.folder / "catch-up" / "live"]


def test_the_aggregate_of_another_manifest_is_not_waited_for(run: PastRun) -> None:
    collected = gone(run)
    assert collected.standing is not None
    other = replace(collected, standing=replace(collected.standing, sha256=bytes(32)))

    with pytest.raises(OutOfSyncError, match=r"is of manifest .*, must be of 0000"):
        receiver(run, wait_s=60.0).update(other, PhaseClock())


def test_files_of_a_catch_up_are_not_touched_by_one_that_takes_part(run: PastRun) -> None:
    theirs = run.folder / "catch-up" / f"{START + LAST:09d}.bin"
    theirs.parent.mkdir()
    theirs.write_bytes(b"that of the catch-up")

    receiver(run).update(gone(run), PhaseClock())

    assert theirs.read_bytes() == b"that of the catch-up"


def test_what_an_earlier_life_left_of_aggregates_is_deleted_before_the_first_one_is_fetched(run: PastRun) -> None:
    live = run.folder / "catch-up" / "live"
    live.mkdir(parents=True)
    (live / f"{START:09d}.bin").write_bytes(b"whole")
    (live / f"{START + 1:09d}.bin.part").write_bytes(b"some")

    receiver(run).update(gone(run), PhaseClock())

    assert not list(live.iterdir())


def test_a_window_whose_payloads_are_all_there_needs_no_aggregate(
    run: PastRun, caplog: pytest.LogCaptureFixture
) -> None:
    run.delete_aggregate(LAST)
    wanted, one = update_of(run), receiver(run)
    collected = replace(run.collect(Window(START + LAST)), standing=gone(run).standing)

    with caplog.at_level(logging.WARNING):
        found = one.update(collected, PhaseClock())

    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert one.aggregates == 0
    assert not caplog.records


def hide_aggregate(run: PastRun) -> Callable[[], None]:
    """Take away the last aggregate; return what brings it back."""
    window = START + LAST
    late = {path: path.read_bytes() for path in (run.folder / "store").rglob(f"aggregate/{window:09d}.*")}
    assert len(late) == 2
    for path in late:
        path.unlink()

    def bring_back() -> None:
        for path, data in late.items():
            path.write_bytes(data)

    return bring_back
