"""Publishing checkpoints: whole at any moment, in the background, and no more than are wanted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from templar_pl.errors import ConfigError, StoreError
from templar_pl.exchange.checkpoint_publisher import CheckpointPublisher, Moment
from templar_pl.exchange.large_objects import FileDigest
from templar_pl.exchange.local_store import LocalBucket, LocalBuckets
from templar_pl.exchange.network_checkpoints import Source, fetch_latest, load_latest
from templar_pl.protocol.checkpoint import decode_checkpoint, decode_latest
from templar_pl.protocol.model_state import ModelState
from templar_pl.units import Window
from tests.exchange.fakes import Scripted
from tests.exchange.models import RUN, SIGNER, START, Node, adamw, author, key, publish, publisher, source, wanted
from tests.protocol.samples import HashSigner, verify_hash
from tests.servers.nodes import IN_SMALL_PARTS, empty, node_buckets
from tests.servers.seaweed import S3Server

HERE = Path(__file__).parent
LATEST = f"{RUN}/checkpoint/latest.json"


class Watched(Scripted):
    """A bucket that takes files, whose calls are watched."""

    def __init__(self, bucket: LocalBucket, before: Callable[[str, str], None]) -> None:
        super().__init__(bucket, before)
        self._files, self._watch = bucket, before

    def put_file(self, key: str, path: Path) -> FileDigest:
        self._watch("put_file", key)
        return self._files.put_file(key, path)

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        self._files.get_file(key, path, expected)


def bucket(folder: Path) -> LocalBucket:
    return LocalBuckets(folder / "store", "peer").own()


def moment(applied: int) -> Moment:
    return Moment(Window(START + applied), applied)


def windows(folder: Path) -> list[int]:
    """Return how many windows were applied in each checkpoint of which anything is in the bucket."""
    parts = {name.split("/")[2] for name in bucket(folder).list("")} - {"latest.json"}
    return sorted(int(part) - START for part in parts)


def latest(folder: Path) -> int:
    return decode_latest(bucket(folder).get(LATEST, max_bytes=1024), verify_hash)[1].window - START


def test_everything_is_there_before_it_is_named(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []
    watched = Watched(bucket(tmp_path), lambda name, key: calls.append((name, key)))
    one = publisher(watched, tmp_path)

    one.offer(moment(5), adamw(1).train(5).state)

    assert one.wait(60) is not None
    assert [key for name, key in calls if name.startswith("put")] == [
        key(5, "model.safetensors"),
        key(5, "optimizer.safetensors"),
        key(5, "checkpoint.json"),
        LATEST,
    ]
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_only_the_last_ones_stay_and_that_of_the_start(tmp_path: Path) -> None:
    for applied in (0, 1, 2, 3, 4):
        publish(tmp_path, adamw(1).train(applied), applied, keep=2)

    assert windows(tmp_path) == [0, 3, 4]
    assert latest(tmp_path) == 4


def test_what_is_left_of_an_upload_goes_with_the_next_and_nothing_else_does(tmp_path: Path) -> None:
    others = [key(1, "notes.txt"), f"{RUN}/payload/000000001/1.bin", "other/checkpoint/000000001/checkpoint.json"]
    for name in (key(2, "model.safetensors"), key(9, "model.safetensors"), *others):
        bucket(tmp_path).put(name, b"x")

    publish(tmp_path, adamw(1).train(3), 3, keep=1)

    assert key(2, "model.safetensors") not in bucket(tmp_path).list("")
    assert {key(9, "model.safetensors"), *others} <= set(bucket(tmp_path).list(""))


def test_the_one_that_is_named_stays_though_others_are_newer(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(3), 3, keep=1)
    named = bucket(tmp_path).get(LATEST, max_bytes=1024)
    publish(tmp_path, adamw(1).train(4), 4, keep=9)

    def name_the_older(name: str, _: str) -> None:
        if name == "list":
            bucket(tmp_path).put(LATEST, named)

    one = publisher(Watched(bucket(tmp_path), name_the_older), tmp_path, keep=1)
    assert one.offer(moment(5), adamw(1).train(5).state)
    assert one.wait(60)

    assert windows(tmp_path) == [3, 5]


def test_an_older_checkpoint_never_takes_the_name_of_a_newer(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    publish(tmp_path, adamw(1).train(3), 3)

    assert latest(tmp_path) == 5


def test_what_was_published_is_not_changed(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    before = {name: bucket(tmp_path).get(name, max_bytes=10**6) for name in bucket(tmp_path).list("")}

    publish(tmp_path, adamw(3).train(5), 5)

    assert {name: bucket(tmp_path).get(name, max_bytes=10**6) for name in bucket(tmp_path).list("")} == before


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors", "optimizer.safetensors"])
def test_what_is_incomplete_is_published_again(tmp_path: Path, name: str) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    bucket(tmp_path).delete([key(5, name)])

    publish(tmp_path, adamw(1).train(5), 5)

    joiner = adamw(2)
    assert load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched").passed_over == {}


def test_what_another_hotkey_left_in_the_bucket_is_replaced(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(7), 7, by=author(HashSigner(b"S" * 32)))
    publish(tmp_path, adamw(1).train(5), 5)

    assert latest(tmp_path) == 5
    assert fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched").passed_over == {}


def test_training_goes_on_while_a_checkpoint_is_on_its_way_and_another_is_not_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    may_go_on = threading.Event()

    def hold(name: str, key: str) -> None:
        may_go_on.wait(60)

    one = publisher(Watched(bucket(tmp_path), hold), tmp_path)
    veteran, joiner = adamw(1).train(5), adamw(2)
    as_it_was = veteran.numbers()

    assert one.offer(moment(5), veteran.state)
    veteran.train(3)
    assert one.is_busy
    assert not one.offer(moment(8), veteran.state)
    assert "window 18: no checkpoint is published, since the last one is still on its way" in caplog.text
    assert one.wait(0) is None
    may_go_on.set()
    assert one.wait(60) is not None

    load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")
    assert all(map(torch.equal, joiner.numbers(), as_it_was))
    assert one.offer(moment(8), veteran.state)
    assert one.wait(60) is not None


def fails(on: str) -> Callable[[str, str], None]:
    def fail(name: str, key: str) -> None:
        if f"{name} {key}".startswith(on):
            raise StoreError("503 Slow Down")

    return fail


@pytest.mark.parametrize(
    "call",
    [f"put_file {key(5, 'model')}", f"put_file {key(5, 'optimizer')}", f"put {key(5, 'checkpoint')}", f"put {LATEST}"],
)
def test_a_store_that_fails_leaves_the_last_complete_one_named(
    tmp_path: Path, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, adamw(1).train(3), 3)
    failing = publisher(Watched(bucket(tmp_path), fails(call)), tmp_path)

    assert failing.offer(moment(5), adamw(1).train(5).state)
    assert failing.wait(60) is None

    assert "could not be published: 503 Slow Down" in caplog.text
    assert latest(tmp_path) == 3
    assert fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched").passed_over == {}
    next_life = publisher(bucket(tmp_path), tmp_path)
    assert next_life.resume()
    assert next_life.wait(60) is not None
    assert latest(tmp_path) == 5
    assert not publisher(bucket(tmp_path), tmp_path).resume()


def test_a_bug_in_the_thread_rises_in_the_caller(tmp_path: Path) -> None:
    def stumble(name: str, _: str) -> None:
        if name == "put_file":
            raise ZeroDivisionError

    one = publisher(Watched(bucket(tmp_path), stumble), tmp_path)
    one.offer(moment(5), adamw(1).state)

    with pytest.raises(ZeroDivisionError):
        one.wait(60)


def test_a_model_that_diverged_is_not_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = adamw(1).train(2)
    with torch.no_grad():
        next(node.model.parameters()).fill_(torch.nan)
    one = publisher(bucket(tmp_path), tmp_path)

    assert one.offer(moment(2), node.state)
    assert one.wait(60) is None

    assert "holds a number that is not finite" in caplog.text
    assert windows(tmp_path) == []


def test_a_state_too_large_for_a_document_is_not_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = publisher(bucket(tmp_path), tmp_path)

    assert one.offer(moment(1), odd_optimizer(lambda o, _: o.param_groups[0].update(note="x" * 2**18)))
    assert one.wait(60) is None

    assert "it cannot be described: checkpoint.json has at most 262144 bytes" in caplog.text
    assert windows(tmp_path) == []


def odd_optimizer(change: Callable[[torch.optim.Optimizer, nn.Parameter], object]) -> ModelState:
    node = adamw(1).train(1)
    assert node.state.optimizer is not None
    change(node.state.optimizer, node.model[0].weight)  # type: ignore[index]
    return node.state


STRANGE: dict[str, tuple[Callable[[torch.optim.Optimizer, nn.Parameter], object], str]] = {
    "a list": (lambda o, p: o.state[p].update(history=[1]), "keeps history of 0.weight as list"),
    "an odd shape": (lambda o, p: o.state[p].update(basis=torch.zeros(7, 7)), "does not go with a parameter of"),
    "a tensor of another": (lambda o, p: o.state[torch.zeros(1)].update(a=torch.zeros(1)), "not one of the exchanged"),
    "a group with an object": (lambda o, p: o.param_groups[0].update(hook=object()), "hook cannot be stored"),
    "an infinite rate": (lambda o, p: o.param_groups[0].update(lr=float("inf")), "lr cannot be stored"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_cannot_be_stored_is_refused_before_anything_is_published(tmp_path: Path, name: str) -> None:
    change, reason = STRANGE[name]
    one = publisher(bucket(tmp_path), tmp_path)

    with pytest.raises(ConfigError) as caught:
        one.offer(moment(1), odd_optimizer(change))

    assert reason in str(caught.value)
    assert windows(tmp_path) == []
    assert one.offer(moment(1), adamw(1).state)
    assert one.wait(60) is not None


def test_a_checkpoint_that_is_out_counts_where_older_ones_cannot_be_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fails = [False]

    def fail(name: str, _: str) -> None:
        if name == "delete" and fails[0]:
            raise StoreError("403 Forbidden")

    one = publisher(Watched(bucket(tmp_path), fail), tmp_path, keep=1)
    published = []
    for applied in range(1, 5):
        fails[0] = applied == 3
        one.offer(moment(applied), adamw(1).state)
        checkpoint = one.wait(60)
        published.append((checkpoint.applied if checkpoint else None, windows(tmp_path)))

    assert published == [(1, [1]), (2, [2]), (3, [2, 3]), (4, [4])]
    assert caplog.text.count("403 Forbidden") == 1
    assert list((tmp_path / "snapshots").iterdir()) == []
    assert latest(tmp_path) == 4


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        CheckpointPublisher(bucket(tmp_path), author(), tmp_path, keep=0)


def test_a_process_killed_at_any_moment_leaves_a_complete_checkpoint_named(tmp_path: Path) -> None:
    applied = 1
    for life in range(6):
        command = [sys.executable, "-m", "tests.exchange.publishing_node", str(tmp_path), str(applied)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=HERE.parents[1]) as node:
            assert node.stdout is not None
            node.stdout.read(2)  # two snapshots are taken
            threading.Event().wait(0.004 * life)  # somewhere in what follows
            os.kill(node.pid, signal.SIGKILL)

        joiner = Node(nn.Identity(), ModelState({f"p{i}": torch.zeros(500, 500) for i in range(4)}))
        found = load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

        assert found.passed_over == {}
        assert found.checkpoint.applied >= applied
        assert all(bool((p == found.checkpoint.applied).all()) for p in joiner.state.parameters.values())
        assert len(windows(tmp_path)) <= 4
        applied = found.checkpoint.applied + 2


def test_memory_is_bounded_by_a_tensor(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.exchange.checkpoint_memory", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, cwd=HERE.parents[1], timeout=240)
    figures = json.loads(done.stdout)

    assert figures["snapshot"][0] < 40  # MiB, of 381: a block of 16
    assert figures["upload"][0] < 60  # a tensor of 10, blocks of the hash and the fingerprint
    assert figures["load"][0] < 80  # the same, and parts of 16


def test_a_checkpoint_goes_through_a_real_server(seaweed_server: S3Server, tmp_path: Path) -> None:
    empty(seaweed_server.endpoint_url)
    own = node_buckets("me", seaweed_server.endpoint_url, IN_SMALL_PARTS).own()
    there = ModelState({"large": torch.rand(1500, 2000), "small": torch.rand(3)})  # 12 MB, so three parts
    here = ModelState({"large": torch.zeros(1500, 2000), "small": torch.zeros(3)})
    one = publisher(own, tmp_path, keep=1)

    for applied in (1, 2, 3):
        assert one.offer(moment(applied), there)
        assert one.wait(60) is not None

    assert list(own.list("")) == sorted([key(3, "checkpoint.json"), key(3, "model.safetensors"), LATEST])
    found = load_latest(Source("me", SIGNER.public_key, own), wanted(Node(nn.Identity(), here)), tmp_path / "fetched")
    assert decode_checkpoint(own.get(key(3, "checkpoint.json"), max_bytes=10**5), verify_hash)[1] == found.checkpoint
    assert all(torch.equal(there.parameters[name], here.parameters[name]) for name in here.parameters)
