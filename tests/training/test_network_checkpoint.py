"""Checkpoints of the network at their time, whatever fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.errors import StoreError
from templar_pl.exchange import LocalBuckets
from templar_pl.exchange.checkpoint_upload import Author
from templar_pl.exchange.local_store import LocalBucket
from templar_pl.training.network_checkpoint import NetworkCheckpoints
from tests.exchange.fakes import Scripted
from tests.exchange.test_checkpoint_publisher import Watched
from tests.training.past_run import RUN, START, new_replica

MODEL = new_replica()


def bucket(folder: Path) -> LocalBucket:
    return LocalBuckets(folder / "store", "me").own()


def checkpoints(folder: Path, into: LocalBucket | Scripted | None = None) -> NetworkCheckpoints:
    signer = load_or_create_hotkey(folder / "keys", "me")
    author = Author(RUN, MODEL.digest, "0.1.0", signer, verify)
    place: LocalBucket = into or bucket(folder)  # type: ignore[assignment]  # a fake that is like one
    return NetworkCheckpoints(place, author, folder / "snapshots", start_window=START, frequency=4, keep=2)


def published(folder: Path) -> set[int]:
    return {int(key.split("/")[2]) - START for key in bucket(folder).list("") if key.endswith("checkpoint.json")}


def test_one_is_published_every_so_many_windows_and_the_last_ones_stay(tmp_path: Path) -> None:
    made, taken = checkpoints(tmp_path), []

    for applied in range(14):
        taken += [applied] if made.offer(applied, MODEL.state) else []
        made.close(60)
        assert not made.offer(applied, MODEL.state)  # asked twice at one place

    assert taken == [0, 4, 8, 12]
    assert published(tmp_path) == {0, 8, 12}


def test_what_was_not_out_when_the_process_ended_is_published_in_its_next_life(tmp_path: Path) -> None:
    def fail(name: str, key: str) -> None:
        if name == "put_file":
            raise StoreError("no way to the store")

    first = checkpoints(tmp_path, Watched(bucket(tmp_path), fail))
    assert first.offer(4, MODEL.state)
    first.close(60)
    assert published(tmp_path) == set()

    second = checkpoints(tmp_path)
    second.resume()
    second.close(60)

    assert published(tmp_path) == {4}


def test_a_full_disk_costs_the_checkpoint_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "snapshots").write_text("a file where the folder should be")
    made = checkpoints(tmp_path)

    made.resume()

    assert not made.offer(4, MODEL.state)
    assert f"window {START + 4}: no checkpoint is published" in caplog.text


def test_the_newest_is_known_when_it_is_out(tmp_path: Path) -> None:
    made = checkpoints(tmp_path)
    assert made.newest is None

    made.offer(4, MODEL.state)
    made.close(60)

    assert made.newest is not None
    assert made.newest.applied == 4


def test_a_frequency_below_one_is_refused(tmp_path: Path) -> None:
    author = Author(RUN, MODEL.digest, "0.1.0", load_or_create_hotkey(tmp_path, "me"), verify)

    with pytest.raises(ValueError, match="frequency must be at least 1, got 0"):
        NetworkCheckpoints(bucket(tmp_path), author, tmp_path, start_window=START, frequency=0)
