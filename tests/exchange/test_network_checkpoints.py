"""Checkpoints of the network: they come back to the bit, and a broken one is passed over for the next older one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from templar_pl.errors import CheckpointError, DocumentError, Fault, OutOfSyncError, StoreError
from templar_pl.exchange.checkpoint_files import load_checkpoint
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.network_checkpoints import Source, fetch_latest, load_latest
from templar_pl.protocol import fingerprint
from templar_pl.protocol.model_state import ModelState
from templar_pl.protocol.plain_state import to_json
from templar_pl.units import Window
from tests.exchange.models import (
    NODES,
    SIGNER,
    START,
    Node,
    adamw,
    author,
    key,
    own_rule,
    publish,
    source,
    stored,
    wanted,
)

FILES = ("checkpoint.json", "model.safetensors", "optimizer.safetensors")


def same(first: Node, second: Node) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.numbers(), second.numbers(), strict=True))


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("age", [0, 4], ids=["fresh", "already trained"])
def test_a_joiner_goes_on_to_the_same_bits(tmp_path: Path, name: str, age: int) -> None:
    veteran, joiner = NODES[name](1).train(5), NODES[name](2).train(age, seed=9)
    publish(tmp_path, veteran, 5)

    found = load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

    assert found.passed_over == {}
    assert (found.checkpoint.window, found.checkpoint.applied) == (START + 5, 5)
    assert same(veteran, joiner)
    assert same(veteran.train(6, seed=3), joiner.train(6, seed=3))
    assert [to_json(s.state_dict(), "") for s in veteran.state.schedules] == [
        to_json(s.state_dict(), "") for s in joiner.state.schedules
    ]


def test_a_checkpoint_of_the_start_takes_back_what_an_optimizer_kept(tmp_path: Path) -> None:
    veteran, joiner = adamw(1), adamw(2).train(3)
    publish(tmp_path, veteran, 0)

    load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

    assert same(veteran.train(6, seed=3), joiner.train(6, seed=3))


class Odd(nn.Module):
    def __init__(self, fill: float) -> None:
        super().__init__()
        self.bfloat = nn.Parameter(torch.full((3, 5), fill, dtype=torch.bfloat16))
        self.single = nn.Parameter(torch.tensor(fill))
        self.empty = nn.Parameter(torch.empty(0, 4))
        self.across = nn.Parameter(torch.full((4, 6), fill).t())
        self.again = self.bfloat

    def state(self) -> ModelState:
        return ModelState(dict(self.named_parameters(remove_duplicate=False)))


def test_odd_tensors_come_back_and_the_library_reads_them(tmp_path: Path) -> None:
    there, here = Odd(0.7), Odd(0.1)
    publish(tmp_path, Node(there, there.state()), 3)

    found = load_latest(source(tmp_path), wanted(Node(here, here.state())), tmp_path / "fetched")

    assert here.bfloat is here.again
    assert fingerprint(here.state().parameters) == fingerprint(there.state().parameters) == found.checkpoint.fingerprint
    read = safetensors.torch.load_file(found.folder / "model.safetensors")
    assert read.keys() == {"bfloat", "single", "empty", "across", "again"}
    for name, parameter in there.state().parameters.items():
        assert torch.equal(read[name], parameter)
    assert not here.across.is_contiguous()


def test_parameters_alone_are_loaded_without_an_optimizer(tmp_path: Path) -> None:
    veteran, auditor = adamw(1).train(5), adamw(2)
    publish(tmp_path, veteran, 5)
    alone = Node(auditor.model, ModelState(auditor.state.parameters))

    found = load_latest(source(tmp_path), wanted(alone), tmp_path / "fetched")

    assert same(veteran, auditor)
    assert [path.name for path in found.folder.iterdir()] == ["model.safetensors"]
    found.discard()
    assert not found.folder.exists()


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


BREAK: dict[str, Callable[[Path, Path], object]] = {
    "cut short": lambda path, _: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path, _: path.write_bytes(b""),
    "a bit flipped at the end": lambda path, _: flip(path, -1),
    "a bit flipped in the head": lambda path, _: flip(path, 12),
    "missing": lambda path, _: path.unlink(),
    "that of an older checkpoint": lambda path, older: path.write_bytes(older.read_bytes()),
    "longer": lambda path, _: path.write_bytes(path.read_bytes() + b"\0"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", BREAK)
def test_a_broken_newest_checkpoint_is_passed_over_for_the_next_older(tmp_path: Path, name: str, how: str) -> None:
    older, newest, joiner = adamw(1).train(3), adamw(1).train(5), adamw(2)
    publish(tmp_path, older, 3)
    publish(tmp_path, newest, 5)
    BREAK[how](stored(tmp_path, 5, name), stored(tmp_path, 3, name))

    found = load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

    assert found.checkpoint.applied == 3
    assert same(joiner, older)
    (reason,) = found.passed_over.items()
    assert reason[0] == key(5, "checkpoint.json")
    assert isinstance(reason[1], CheckpointError | DocumentError | StoreError)
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == [f"{START + 3:09d}"]


@pytest.mark.parametrize("how", ["cut short", "a bit flipped at the end", "missing"])
def test_without_a_usable_latest_the_newest_that_is_listed_is_taken(tmp_path: Path, how: str) -> None:
    joiner = adamw(2)
    for applied in (3, 5):
        publish(tmp_path, adamw(1).train(applied), applied)
    latest = tmp_path / "store" / "peer" / "my-run" / "checkpoint" / "latest.json"
    BREAK[how](latest, latest)

    found = load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

    assert found.checkpoint.applied == 5
    assert list(found.passed_over) == ["my-run/checkpoint/latest.json"]


def test_when_all_are_broken_each_is_named_with_its_reason_and_the_model_is_as_it_was(tmp_path: Path) -> None:
    joiner = adamw(2).train(1)
    before = joiner.numbers()
    for applied, name in enumerate(FILES, start=1):
        publish(tmp_path, adamw(1).train(applied), applied)
        flip(stored(tmp_path, applied, name), -1)

    with pytest.raises(CheckpointError) as caught:
        load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

    for applied in (1, 2, 3):
        assert key(applied, "checkpoint.json") in str(caught.value)
    assert all(map(torch.equal, before, joiner.numbers()))


def test_where_there_is_none_it_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of run my-run by peer 7") as caught:
        fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")

    assert caught.value.fault is Fault.MISSING


def test_no_more_are_tried_than_allowed(tmp_path: Path) -> None:
    for applied in (1, 2, 3):
        publish(tmp_path, adamw(1).train(applied), applied)
        stored(tmp_path, applied, "model.safetensors").unlink() if applied > 1 else None

    with pytest.raises(CheckpointError):
        fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched", max_tries=2)
    assert fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched", max_tries=3).checkpoint.applied == 1


def test_one_that_is_newer_than_the_newest_complete_one_is_not_looked_at(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(3), 3)
    bucket = LocalBuckets(tmp_path / "store", "peer").own()
    bucket.put(key(9, "checkpoint.json"), b"on its way")

    assert fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched").passed_over == {}


def test_what_is_in_already_is_not_fetched_again(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(3), 3)
    fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")
    for name in FILES[1:]:
        stored(tmp_path, 3, name).unlink()

    found = fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")

    assert found.checkpoint.applied == 3


def test_a_file_that_changes_while_it_is_loaded_leaves_a_model_that_says_so(tmp_path: Path) -> None:
    publish(tmp_path, own_rule(1).train(5), 5)
    joiner = own_rule(2)
    found = fetch_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")
    path = found.folder / "model.safetensors"

    class Cutting(nn.Parameter):
        """Cuts the file when the first parameter is overwritten."""

        def copy_(self, *args: object, **kwargs: object) -> torch.Tensor:
            path.write_bytes(path.read_bytes()[:-100])
            return super().copy_(*args, **kwargs)  # pyright: ignore[reportArgumentType]  # passed on

    parameters = {name: Cutting(p.detach()) for name, p in joiner.state.parameters.items()}
    with pytest.raises(OutOfSyncError, match="load another checkpoint or start again"):
        load_checkpoint(found.folder, found.checkpoint, ModelState(parameters))


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_rots_on_the_own_disk_is_found_out_before_the_model_is_touched(tmp_path: Path, name: str) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    joiner = adamw(2)
    before = joiner.numbers()
    found = fetch_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")
    flip(found.folder / name, -30)

    with pytest.raises(CheckpointError):
        load_checkpoint(found.folder, found.checkpoint, joiner.state)

    assert all(map(torch.equal, before, joiner.numbers()))


def test_a_bucket_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    bucket = LocalBuckets(tmp_path / "store", "me").of("peer")
    (tmp_path / "store" / "peer").mkdir(parents=True)
    (tmp_path / "store" / "peer" / "my-run").symlink_to(tmp_path)

    with pytest.raises(CheckpointError, match="symbolic link"):
        fetch_latest(Source("peer 7", SIGNER.public_key, bucket), wanted(adamw(1)), tmp_path / "fetched")


def test_another_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(5), 5, by=author(digest=b"e" * 32))

    with pytest.raises(CheckpointError) as caught:
        fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")

    assert caught.value.fault is Fault.RUN
    assert Window(START + 5) == 15
