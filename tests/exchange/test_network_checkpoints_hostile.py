"""Checkpoints of a peer that signs what does not fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from templar_pl.errors import CheckpointError, Fault
from templar_pl.exchange.network_checkpoints import fetch_latest, load_latest
from tests.exchange.models import (
    SIGNER,
    START,
    adamw,
    publish,
    source,
    stored,
    wanted,
)
from tests.protocol.documents import slow_document
from tests.protocol.samples import HashSigner


def forge(folder: Path, applied: int, changes: dict[str, object], *, signer: HashSigner = SIGNER) -> None:
    """Sign another statement in place of a checkpoint's, and name it as the newest."""
    path = stored(folder, applied, "checkpoint.json")
    statement = json.loads(path.read_bytes())["statement"] | changes
    path.write_bytes(slow_document("checkpoint", statement, signer))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    latest = {"run": "my-run", "window": START + applied, "sha256": sha256}
    (path.parent.parent / "latest.json").write_bytes(slow_document("latest", latest, signer))


def smaller_file(folder: Path) -> dict[str, object]:
    return {"files": {"model.safetensors": {"sha256": "00" * 32, "size": 8}}}


def state_of(folder: Path, **changes: object) -> dict[str, object]:
    statement = json.loads(stored(folder, 5, "checkpoint.json").read_bytes())["statement"]
    return {"state": statement["state"] | changes}


def huge_optimizer(folder: Path) -> dict[str, object]:
    files = json.loads(stored(folder, 5, "checkpoint.json").read_bytes())["statement"]["files"]
    return {"files": {**files, "optimizer.safetensors": {"sha256": "00" * 32, "size": 10**6}}}


FORGED: dict[str, tuple[Callable[[Path], dict[str, object]], Fault, str]] = {
    "another run": (lambda _: {"run": "other"}, Fault.RUN, "of another run"),
    "other settings": (lambda _: {"digest": "00" * 32}, Fault.RUN, "of other settings"),
    "another window": (lambda _: {"window": 99, "applied": 89}, Fault.WINDOW, "it is of window 99"),
    "another start": (lambda _: {"applied": 6}, Fault.WINDOW, "began with 9, must be"),
    "another layout": (lambda _: {"layout": "00" * 32}, Fault.CONTENT, "other names, dtypes or shapes"),
    "another fingerprint": (
        lambda _: {"fingerprint": "00" * 32},
        Fault.CONTENT,
        "the fingerprint of its parameters is",
    ),
    "a smaller file": (smaller_file, Fault.SIZE, "model.safetensors is said to have 8 bytes, must have"),
    "a huge optimizer": (huge_optimizer, Fault.SIZE, "said to have 1000000 bytes"),
    "another optimizer": (lambda f: state_of(f, optimizer="SGD"), Fault.CONTENT, "optimizer must be 'AdamW'"),
    "other members": (lambda f: state_of(f, members="00"), Fault.CONTENT, "members must be"),
    "a group less": (lambda f: state_of(f, groups=[]), Fault.CONTENT, "groups must be a list of 2"),
    "no schedule": (lambda f: state_of(f, schedules=[]), Fault.CONTENT, "schedules must be a list of 1"),
    "a field more": (lambda f: state_of(f, more=1), Fault.CONTENT, "the state must have the fields"),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_a_peer_signs_and_does_not_fit_is_refused_before_the_model_is_touched(tmp_path: Path, name: str) -> None:
    change, fault, reason = FORGED[name]
    joiner = adamw(2).train(1)
    before = joiner.numbers()
    publish(tmp_path, adamw(1).train(5), 5)
    forge(tmp_path, 5, change(tmp_path))

    with pytest.raises(CheckpointError) as caught:
        load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

    assert caught.value.fault is fault
    assert reason in str(caught.value)
    assert all(map(torch.equal, before, joiner.numbers()))


@pytest.mark.parametrize("change", [lambda _: {"layout": "00" * 32}, smaller_file, huge_optimizer])
def test_sizes_and_layout_are_checked_before_anything_is_fetched(
    tmp_path: Path, change: Callable[[Path], dict[str, object]]
) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    forge(tmp_path, 5, change(tmp_path))

    with pytest.raises(CheckpointError):
        fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")

    assert not (tmp_path / "fetched").exists()


def test_a_stranger_is_not_believed(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    forge(tmp_path, 5, {}, signer=HashSigner(b"S" * 32))

    with pytest.raises(CheckpointError, match="must be signed by") as caught:
        fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")

    assert caught.value.fault is Fault.SENDER


def replaced(folder: Path, tensors: dict[str, torch.Tensor], name: str = "optimizer.safetensors") -> None:
    """Put other tensors into a checkpoint, under a good signature."""
    path = stored(folder, 5, name)
    safetensors.torch.save_file(tensors, path)
    files = json.loads(stored(folder, 5, "checkpoint.json").read_bytes())["statement"]["files"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    forge(folder, 5, {"files": {**files, name: {"sha256": sha256, "size": path.stat().st_size}}})


WRONG_TENSORS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "of no parameter": ({"2.weight/step": torch.zeros(())}, "is not the name of a parameter"),
    "without a key": ({"0.weight": torch.zeros(())}, "is not the name of a parameter"),
    "with an odd key": ({"0.weight/a b": torch.zeros(())}, "is not the name of a parameter"),
    "of another shape": ({"0.weight/exp_avg": torch.zeros(7, 4)}, "does not go with a parameter of [7, 5]"),
    "of fewer dimensions": ({"0.weight/exp_avg": torch.zeros(35)}, "does not go with a parameter of [7, 5]"),
    "too many keys": ({f"0.weight/k{i}": torch.zeros(()) for i in range(17)}, "has 17 tensors"),
    "too many numbers": ({f"0.weight/k{i}": torch.zeros(7, 5) for i in range(6)}, "has 6 tensors"),
    "not finite": ({"0.weight/exp_avg": torch.full((7, 5), torch.nan)}, "holds a number that is not finite"),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_that_no_optimizer_keeps_are_refused(tmp_path: Path, name: str) -> None:
    tensors, reason = WRONG_TENSORS[name]
    joiner = adamw(2)
    before = joiner.numbers()
    publish(tmp_path, adamw(1).train(5), 5)
    replaced(tmp_path, tensors)

    with pytest.raises(CheckpointError) as caught:
        load_latest(source(tmp_path), wanted(joiner), tmp_path / "fetched")

    assert reason in str(caught.value)
    assert all(map(torch.equal, before, joiner.numbers()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda kept: kept.pop("0.weight/exp_avg"), "0.weight/exp_avg is missing"),
        (lambda kept: kept.update({"0.weight/more": torch.zeros(())}), "0.weight/more is not kept by this optimizer"),
        (lambda kept: kept.update({"0.weight/exp_avg": kept["0.weight/exp_avg"].half()}), "must be F32 [7, 5]"),
    ],
)
def test_a_running_optimizer_takes_only_the_tensors_it_keeps(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], reason: str
) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    kept = safetensors.torch.load_file(stored(tmp_path, 5, "optimizer.safetensors"))
    change(kept)
    replaced(tmp_path, kept)

    with pytest.raises(CheckpointError) as caught:
        load_latest(source(tmp_path), wanted(adamw(2).train(1)), tmp_path / "fetched")

    assert reason in str(caught.value)


def test_parameters_that_are_not_finite_are_refused_even_if_signed(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    parameters = safetensors.torch.load_file(stored(tmp_path, 5, "model.safetensors"))
    parameters["0.weight"][3, 3] = torch.inf
    replaced(tmp_path, parameters, "model.safetensors")

    with pytest.raises(CheckpointError, match=r"0\.weight holds a number that is not finite"):
        load_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")


def test_another_statement_than_the_named_one_is_refused_though_it_is_signed(tmp_path: Path) -> None:
    publish(tmp_path, adamw(1).train(5), 5)
    latest = stored(tmp_path, 5, "checkpoint.json").parents[1] / "latest.json"
    named = latest.read_bytes()
    forge(tmp_path, 5, {"tokens": 7})
    latest.write_bytes(named)

    with pytest.raises(CheckpointError, match="named was") as caught:
        fetch_latest(source(tmp_path), wanted(adamw(2)), tmp_path / "fetched")

    assert caught.value.fault is Fault.HASH
