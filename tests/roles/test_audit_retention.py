"""A run that goes on while it is audited deletes what is old; nobody is accused of that."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from templar_pl.errors import StoreError
from templar_pl.exchange import FileDigest, LocalBuckets, LocalReader, ObjectInfo, Retention
from templar_pl.protocol import Peer, aggregate_keys, manifest_keys, notice_keys, payload_keys
from templar_pl.roles.audit_findings import AuditedWindow, Check, Finding, Verdict, first_fault, summary
from templar_pl.roles.audit_kept import Kept
from templar_pl.units import Uid, Window
from tests.roles.audit_runs import RUN, SENDERS, START, WINDOWS, World

LAST = START + WINDOWS - 1
KEEP = 4
"""Windows that payloads stay."""

NUM_READS = 220
"""Questions that a whole audit asks the store, about."""


class WatchedReader(LocalReader):
    """A bucket; before each question something may happen to what is in it."""

    def __init__(self, root: Path, address: str, before: Callable[[], None]) -> None:
        super().__init__(root, address)
        self._before = before

    def head(self, key: str) -> ObjectInfo:
        self._before()
        return super().head(key)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._before()
        return super().get(key, max_bytes=max_bytes)

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        self._before()
        super().get_file(key, path, expected)

    def list(self, prefix: str) -> Iterator[str]:
        self._before()
        return super().list(prefix)


class WatchedBuckets(LocalBuckets):
    def __init__(self, root: Path, before: Callable[[], None]) -> None:
        super().__init__(root, "nobody")
        self._at, self._before = root, before

    def of(self, address: str) -> LocalReader:
        return WatchedReader(self._at, address, self._before)


def retain(world: World, oldest: int) -> None:
    """Delete as the nodes of a run do, so that this window is the oldest with a manifest."""
    kinds = [keys(RUN) for keys in (manifest_keys, aggregate_keys, notice_keys)]
    delete_before(world, "aggregator", dict.fromkeys(kinds, LAST + 1 - oldest))
    checkpoints = world.stored("checkpoint", START, "").parent
    for window in range(START + 1, oldest):
        for name in ("checkpoint.json", "model.safetensors"):
            (checkpoints / f"{window:09d}" / name).unlink(missing_ok=True)
    for uid in SENDERS:
        delete_before(world, f"miner{uid}", {payload_keys(RUN, uid): KEEP})


def delete_before(world: World, name: str, keep: dict) -> None:
    retention = Retention(world.bucket(world.key(name)), keep)
    retention.request(Window(LAST + 1))
    retention.close(60)


class Deletion:
    """Deletes a little more at some of the questions."""

    def __init__(self, world: World, reads: list[int]) -> None:
        self._world, self._reads, self._asked = world, sorted(reads), 0
        self._lock = threading.Lock()
        self.oldest = START

    def __call__(self) -> None:
        with self._lock:
            self._asked += 1
            while self._reads and self._asked > self._reads[0]:
                self._reads.pop(0)
                self.oldest = min(LAST - KEEP, self.oldest + 2)
                retain(self._world, self.oldest)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("space") / "run"


def audited_while_deleted(world: World, reads: list[int]) -> list[AuditedWindow]:
    buckets = WatchedBuckets(world.folder / "store", Deletion(world, reads))
    return world.audit(view=replace(world.view(), buckets=buckets), keep_windows=KEEP)


@settings(max_examples=25)
@given(reads=st.lists(st.integers(0, NUM_READS), min_size=1, max_size=5))
def test_what_is_deleted_while_it_is_audited_is_nobody_s_fault(good_run: World, space: Path, reads: list[int]) -> None:
    shutil.rmtree(space, ignore_errors=True)

    audited = audited_while_deleted(good_run.copied_to(space), reads)

    assert first_fault(audited) is None, summary(audited)
    last = next(a for a in audited if a.window == LAST)
    assert last.findings[Check.FINGERPRINT].verdict == Verdict.AGREES


def test_windows_that_are_gone_before_they_are_read_are_skipped_and_the_replay_goes_on_later(world: World) -> None:
    audited = audited_while_deleted(world, [8, 8, 8, 8])

    skipped = [a.window for a in audited if a.is_skipped]
    assert skipped
    assert skipped[-1] < LAST - KEEP
    assert "deleted while it was audited" in audited[1].findings[Check.MANIFEST].words
    assert summary(audited).endswith(f"; {len(skipped)} were deleted while they were audited")
    assert next(a for a in audited if a.window == START + 8).findings[Check.FINGERPRINT].verdict == Verdict.AGREES


@pytest.mark.parametrize("question", [1, 2, 3, 4])
def test_a_beginning_that_is_deleted_before_it_is_read_moves_on(world: World, question: int) -> None:
    def delete() -> None:
        asked.append(True)
        if len(asked) == question:
            retain(world, START + 6)

    retain(world, START + 3)
    asked: list[bool] = []
    buckets = WatchedBuckets(world.folder / "store", delete)

    audited = world.audit(view=replace(world.view(), buckets=buckets), keep_windows=KEEP)

    assert audited[0].window == START + 8
    assert first_fault(audited) is None


def test_the_manifest_of_one_window_that_vanishes_is_no_deletion_of_old_ones(world: World) -> None:
    kept = Kept(world.view(), KEEP, lambda: None, patience_s=0.3)

    world.stored("manifest", START + 6, ".json").unlink()

    assert not kept.is_deleted(Window(START + 6))


def test_old_windows_that_are_deleted_in_any_order_are_waited_for(world: World) -> None:
    waiting = threading.Event()
    kept = Kept(world.view(), KEEP, waiting.set, patience_s=60)
    world.stored("manifest", START + 6, ".json").unlink()

    def go_on() -> None:
        assert waiting.wait(60)
        for window in range(START, START + 6):
            world.stored("manifest", window, ".json").unlink()

    thread = threading.Thread(target=go_on)
    thread.start()

    assert kept.is_deleted(Window(START + 6))
    assert not Kept(world.view(), KEEP, waiting.set, patience_s=0.3).is_deleted(Window(START + 7))
    thread.join(60)


def test_an_aggregate_that_is_deleted_before_all_manifests_is_waited_for(world: World) -> None:
    waiting = threading.Event()
    world.stored("aggregate", START, ".bin").unlink()

    def go_on() -> None:
        assert waiting.wait(60)
        for kind, ending in (("aggregate", ".json"), ("manifest", ".json")):
            world.stored(kind, START, ending).unlink()

    kept = Kept(world.view(), KEEP, waiting.set, patience_s=60)
    thread = threading.Thread(target=go_on)
    thread.start()

    assert kept.is_deleted(Window(START))
    thread.join(60)


def test_what_was_waited_for_in_vain_is_not_waited_for_again(world: World) -> None:
    slices: list[bool] = []
    kept = Kept(world.view(), KEEP, lambda: slices.append(True), patience_s=0.3)

    assert not kept.is_deleted(Window(START + 6))
    before = len(slices)
    assert not kept.is_deleted(Window(START + 6))

    assert before > 0
    assert len(slices) == before


def test_a_run_that_vanishes_as_a_whole_is_no_deletion_of_old_windows(world: World) -> None:
    kept = Kept(world.view(), KEEP, lambda: None, patience_s=0.3)

    for window in range(START, LAST + 1):
        world.stored("manifest", window, ".json").unlink()

    assert not kept.is_deleted(Window(START + 6))


STALLED_KEEP = 7
EARLY = LAST - STALLED_KEEP + 1
"""The oldest window whose payloads must be there by the newest manifest."""


def of_absent_payload(world: World, open_window: int) -> Finding:
    """Return what is found of a window of which uid 1 has no payload, while this window is open."""
    view = replace(world.view(), open_window=lambda: Window(open_window))
    audited = world.audit(EARLY, EARLY, view=view, keep_windows=STALLED_KEEP)
    return next(a for a in audited if a.window == EARLY).findings[Check.PAYLOADS]


@pytest.mark.parametrize(("newest", "verdict"), [(0, Verdict.DIFFERS), (1, Verdict.GONE)])
def test_a_miner_that_went_on_without_the_aggregator_may_delete_what_is_old_to_it(
    world: World, newest: int, verdict: Verdict
) -> None:
    world.payload(EARLY, 1).unlink()
    world.send(1, LAST + 1 + newest)

    assert of_absent_payload(world, LAST + 3).verdict == verdict


@pytest.mark.parametrize("data", [b"", b"x", None], ids=["empty", "one byte", "of another window"])
def test_a_payload_that_is_none_excuses_nothing(world: World, data: bytes | None) -> None:
    world.payload(EARLY, 1).unlink()
    path = world.payload(LAST + 2, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(world.payload(LAST, 1).read_bytes() if data is None else data)

    assert of_absent_payload(world, LAST + 3).verdict == Verdict.DIFFERS


def test_a_payload_that_a_stranger_signed_excuses_nothing(world: World) -> None:
    world.payload(EARLY, 1).unlink()
    world.send(1, LAST + 2, signer=world.key("stranger"))

    assert of_absent_payload(world, LAST + 3).verdict == Verdict.DIFFERS


@pytest.mark.parametrize("sent", [LAST + 4, 10**9 - 1])
def test_a_payload_of_a_window_to_come_excuses_nothing(world: World, sent: int) -> None:
    world.payload(EARLY, 1).unlink()
    world.send(1, sent)

    assert of_absent_payload(world, LAST + 3).verdict == Verdict.DIFFERS


def test_a_key_of_a_window_to_come_hides_no_payload_that_excuses(world: World) -> None:
    world.payload(EARLY, 1).unlink()
    world.send(1, LAST + 2)
    path = world.payload(LAST + 4, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")

    assert of_absent_payload(world, LAST + 3).verdict == Verdict.GONE


def test_a_manifest_of_a_window_to_come_excuses_nothing(world: World) -> None:
    world.payload(EARLY, 1).unlink()
    world.stored("manifest", 10**9 - 1, ".json").write_bytes(b"x")

    assert of_absent_payload(world, LAST + 3).verdict == Verdict.DIFFERS


class CountedReader(LocalReader):
    def __init__(self, root: Path, address: str, listed: list[str]) -> None:
        super().__init__(root, address)
        self._listed = listed

    def list(self, prefix: str) -> Iterator[str]:
        self._listed.append(prefix)
        return super().list(prefix)


class CountedBuckets(LocalBuckets):
    def __init__(self, root: Path) -> None:
        super().__init__(root, "nobody")
        self._at = root
        self.listed: list[str] = []

    def of(self, address: str) -> LocalReader:
        return CountedReader(self._at, address, self.listed)


@pytest.mark.parametrize("keep", [3, 100], ids=["old", "new"])
def test_what_is_not_there_is_asked_for_once_a_window_however_many_sent_nothing(world: World, keep: int) -> None:
    silent = [world.key(f"silent{number}") for number in range(20)]
    more = {Uid(9 + n): Peer(Uid(9 + n), key.hotkey, key.public_key, key.hotkey) for n, key in enumerate(silent)}
    buckets = CountedBuckets(world.folder / "store")
    view = replace(world.view(), buckets=buckets, candidates=lambda _: {**world.peers(), **more})

    audited = world.audit(START, START + 3, view=view, keep_windows=keep, max_peers=99)

    of_manifests = [prefix for prefix in buckets.listed if prefix == manifest_keys(RUN).prefix]
    assert len(of_manifests) <= 2 + len(audited)


class UnlistableReader(LocalReader):
    """A bucket that gives what it is asked for, and does not say what it has."""

    def list(self, prefix: str) -> Iterator[str]:
        raise StoreError("access denied")


class OneUnlistable(LocalBuckets):
    def __init__(self, root: Path, address: str) -> None:
        super().__init__(root, "nobody")
        self._at, self._address = root, address

    def of(self, address: str) -> LocalReader:
        return UnlistableReader(self._at, address) if address == self._address else super().of(address)


@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "not named"])
def test_a_bucket_that_cannot_be_listed_ends_no_audit_and_excuses_nothing(world: World, is_listed: bool) -> None:
    world.payload(EARLY, 1).unlink()
    if not is_listed:
        payloads = {uid: sha256 for uid, sha256 in world.manifest(EARLY).payloads.items() if uid != 1}
        world.lie(EARLY, payloads=payloads)
    buckets = OneUnlistable(world.folder / "store", world.miner(1).hotkey)
    view = replace(world.view(), buckets=buckets, open_window=lambda: Window(LAST + 3))

    audited = world.audit(EARLY, EARLY, view=view, keep_windows=STALLED_KEEP)

    findings = next(a for a in audited if a.window == EARLY).findings
    check, verdict = (Check.PAYLOADS, Verdict.UNKNOWN) if is_listed else (Check.NOT_NAMED, Verdict.UNCHECKED)
    assert findings[check].verdict == verdict
    assert "uid 1" in findings[check].words
    assert "access denied" in findings[check].words


def test_nobody_is_excused_where_the_aggregator_kept_up_with_the_clock(world: World) -> None:
    world.payload(EARLY, 1).unlink()
    world.send(1, LAST + 2)

    assert of_absent_payload(world, LAST + 1).verdict == Verdict.DIFFERS
