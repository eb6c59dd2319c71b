"""Payloads that an aggregator keeps on its own disk until their aggregate is out."""

from __future__ import annotations

from pathlib import Path

import pytest

from templar_pl.errors import StoreError
from templar_pl.protocol import aggregate_keys, manifest_keys, notice_keys, payload_key
from templar_pl.roles.aggregate import run_aggregate
from templar_pl.roles.kept_payloads import KeptPayloads
from templar_pl.training import RecoveryConfig
from templar_pl.units import Uid, Window
from tests.roles.past_runs import PastRun, WatchedNetwork, aggregator
from tests.roles.published import caught_up, manifests


def kept_folder(past: PastRun) -> Path:
    return past.network().node_dir / "aggregate" / "kept"


def kept(past: PastRun) -> dict[int, dict[str, bytes]]:
    """Return the bytes that the aggregator has on its disk, by window and file."""
    found: dict[int, dict[str, bytes]] = {}
    for path in kept_folder(past).glob("run/payload/*/*.bin"):
        found.setdefault(int(path.parent.name), {})[path.name] = path.read_bytes()
    return found


def sent(past: PastRun, window: int) -> dict[str, bytes]:
    return {
        f"{sender.uid}.bin": sender.bucket.get(payload_key("run", Window(window), sender.uid), max_bytes=10**6)
        for sender in past.senders.values()
    }


def test_what_a_manifest_lists_is_on_disk_before_it_is_published(past: PastRun) -> None:
    seen: dict[str, dict[int, dict[str, bytes]]] = {}

    def look(name: str, key: str) -> None:
        if name == "put_once" and key.startswith(manifest_keys("run").prefix):
            seen[key] = kept(past)

    run_aggregate(aggregator(past.folder, 6, network=WatchedNetwork(past.folder, before=look)))

    assert [seen[manifest_keys("run").key(Window(window))][window] for window in range(1, 6)] == [
        sent(past, window) for window in range(1, 6)
    ]
    assert all(len(windows) <= 2 for windows in seen.values())
    assert kept(past) == {}


def interrupted(past: PastRun, windows: int) -> None:
    """Run an aggregator that ends before the aggregate of the last one of some windows."""

    def end(name: str, key: str) -> None:
        if (name, key) == ("put_file", aggregate_keys("run").key(Window(windows - 1))):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_aggregate(aggregator(past.folder, windows, network=WatchedNetwork(past.folder, before=end)))


def test_a_file_that_was_changed_is_not_used(past: PastRun, tmp_path: Path) -> None:
    interrupted(past, 5)
    path = kept_folder(past) / payload_key("run", Window(4), Uid(1))
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    run_aggregate(aggregator(past.folder, 5))

    assert caught_up(past, 5, tmp_path).fingerprint() == manifests(past, 5)[-1].after


def test_what_is_left_of_a_window_whose_notice_is_out_is_deleted(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 5))
    KeptPayloads(kept_folder(past), "run").keep(Window(4), Uid(0), b"left behind")

    run_aggregate(aggregator(past.folder, 5))  # window 4 is behind the newest checkpoint

    assert kept(past) == {}


def test_what_a_checkpoint_overtook_and_is_complete_is_deleted(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 3))  # with a checkpoint behind the last window
    KeptPayloads(kept_folder(past), "run").keep(Window(2), Uid(0), b"left behind")

    run_aggregate(aggregator(past.folder, 3))

    assert kept(past) == {}


def test_an_aggregate_that_is_made_again_needs_no_bucket(past: PastRun, tmp_path: Path) -> None:
    interrupted(past, 3)
    assert notice_keys("run").key(Window(2)) not in past.bucket().list("run/")
    for sender in past.senders.values():
        sender.bucket.delete([payload_key("run", Window(2), sender.uid)])

    run_aggregate(aggregator(past.folder, 3))

    assert caught_up(past, 3, tmp_path).applied == 3


def test_a_disk_that_cannot_be_written_lets_no_manifest_out(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 2))
    (kept_folder(past) / ".incoming").rmdir()
    (kept_folder(past) / ".incoming").write_text("in the way")

    with pytest.raises(StoreError, match="a file is where a folder must be"):
        run_aggregate(aggregator(past.folder, 3, recovery=RecoveryConfig(patience_s=0.1)))

    assert manifest_keys("run").key(Window(2)) not in past.bucket().list("run/")


def test_files_that_cannot_be_deleted_are_by_the_next_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    payloads = KeptPayloads(tmp_path / "kept", "run")
    for window in (3, 4, 5):
        payloads.keep(Window(window), Uid(7), b"some bytes")
    run = tmp_path / "kept" / "run"
    run.rename(tmp_path / "moved")
    run.symlink_to(tmp_path / "moved")

    payloads.forget(Window(3))
    left_first = sorted(path.parent.name for path in (tmp_path / "moved").glob("**/7.bin"))
    run.unlink()
    (tmp_path / "moved").rename(run)
    payloads.forget(Window(4))

    assert "payloads that are not needed any more cannot be deleted" in caplog.text
    assert left_first == ["000000003", "000000004", "000000005"]
    assert [path.parent.name for path in run.glob("**/7.bin")] == ["000000005"]
