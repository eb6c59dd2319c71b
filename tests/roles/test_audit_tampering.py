"""An audit names the window, and what of it, that somebody changed: whoever did it, and however well it was signed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from templar_pl.chain import HotkeySigner, verify
from templar_pl.compression import MomentumCodec
from templar_pl.errors import Fault
from templar_pl.exchange.checkpoint_files import load_checkpoint
from templar_pl.protocol import (
    Exclusion,
    Expected,
    decode_notice,
    decode_payload,
    encode_manifest,
    encode_notice,
    encode_payload,
)
from templar_pl.protocol.checkpoint import decode_checkpoint, encode_checkpoint
from templar_pl.roles.audit_findings import AuditedWindow, Check, Verdict, first_fault, summary
from templar_pl.units import Uid, Window
from tests.roles.audit_runs import COMPRESSION, LEFT_OUT, RUN, START, World

TARGET = START + 6  # all three miners sent, and no checkpoint stands before it
CHECKPOINT = START + 8
PLACES = [0.0, 0.01, 0.3, 0.5, 0.7, 0.9, 1.0]


def flip(path: Path, place: float) -> None:
    """Change one bit of a file; `place` is 0 for the first byte and 1 for the last."""
    data = bytearray(path.read_bytes())
    data[round(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def faults(audited: Sequence[AuditedWindow]) -> dict[int, set[Check]]:
    """Return the windows that do not agree, and which checks say so."""
    return {
        a.window: {check for check, finding in a.findings.items() if finding.verdict == Verdict.DIFFERS}
        for a in audited
        if not a.agrees
    }


def assert_named(world: World, window: int, check: Check, words: str = "") -> None:
    """One window does not agree, and of it this check above all."""
    audited = world.audit()
    assert faults(audited).keys() == {window}, summary(audited)
    found = first_fault(audited)
    assert found is not None
    assert found.findings[check].verdict == Verdict.DIFFERS, found
    assert words in found.findings[check].words
    assert summary(audited).startswith(f"window {window} does not agree: ")


# Payloads.


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_bit_of_a_payload(world: World, place: float) -> None:
    flip(world.payload(TARGET, 1), place)

    assert_named(world, TARGET, Check.PAYLOADS, "uid 1 has sha256")


@pytest.mark.parametrize("keep", [-1, 0, 100], ids=["cut short", "empty", "grown"])
def test_a_payload_of_another_size(world: World, keep: int) -> None:
    path = world.payload(TARGET, 1)
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep <= 0 else data + bytes(keep))

    assert_named(world, TARGET, Check.PAYLOADS, "uid 1")


def test_a_payload_that_is_gone_too_early(world: World) -> None:
    world.payload(TARGET, 1).unlink()

    assert_named(world, TARGET, Check.PAYLOADS, "uid 1 is not there, though payloads are kept for 100 windows")


def test_swapped_payloads_of_two_uids(world: World) -> None:
    first, second = world.payload(TARGET, 0), world.payload(TARGET, 1)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)

    assert_named(world, TARGET, Check.PAYLOADS, "uid 1")


def test_a_payload_of_another_window(world: World) -> None:
    world.payload(TARGET, 1).write_bytes(world.payload(TARGET - 1, 1).read_bytes())

    assert_named(world, TARGET, Check.PAYLOADS, "uid 1")


def resigned(world: World, uid: int, signer: HotkeySigner, **header: object) -> bytes:
    """Return the payload of a uid in the target window, changed and signed anew."""
    replica, own = world.replica(), world.miner(uid)
    grids = MomentumCodec(world.shapes(), COMPRESSION, torch.device("cpu")).grids
    expected = Expected(run=replica.digest, window=Window(TARGET), uid=Uid(uid), public_key=own.public_key)
    payload = decode_payload(world.payload(TARGET, uid).read_bytes(), grids, expected, verify)
    changed = replace(payload.header, public_key=signer.public_key, **header)
    return encode_payload(changed, payload.chunks, grids, signer)


def test_a_payload_that_its_sender_signed_anew(world: World) -> None:
    world.payload(TARGET, 1).write_bytes(resigned(world, 1, world.miner(1), loss=1.0))

    assert_named(world, TARGET, Check.PAYLOADS, "uid 1 has sha256")


def test_a_payload_signed_by_a_stranger_that_the_aggregator_lists(world: World) -> None:
    forged = resigned(world, 1, world.key("stranger"))
    world.payload(TARGET, 1).write_bytes(forged)
    listed = {**world.manifest(TARGET).payloads, Uid(1): hashlib.sha256(forged).digest()}
    world.lie(TARGET, payloads=listed)

    assert_named(world, TARGET, Check.PAYLOADS, "public key must be")


def test_a_payload_of_two_uids_that_the_aggregator_lists_twice(world: World) -> None:
    copied = world.payload(TARGET, 0).read_bytes()
    world.payload(TARGET, 1).write_bytes(copied)
    world.lie(TARGET, payloads={**world.manifest(TARGET).payloads, Uid(1): hashlib.sha256(copied).digest()})

    assert_named(world, TARGET, Check.PAYLOADS, "uid must be 1, got 0")


def test_a_forged_signature_that_the_aggregator_lists(world: World) -> None:
    flip(world.payload(TARGET, 1), 1.0)
    sha256 = hashlib.sha256(world.payload(TARGET, 1).read_bytes()).digest()
    world.lie(TARGET, payloads={**world.manifest(TARGET).payloads, Uid(1): sha256})

    assert_named(world, TARGET, Check.PAYLOADS, "the signature is not one of")


# Manifests.


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_bit_of_a_manifest(world: World, place: float) -> None:
    flip(world.stored("manifest", TARGET, ".json"), place)

    assert_named(world, TARGET, Check.MANIFEST)


def test_a_manifest_that_a_stranger_signed(world: World) -> None:
    data = encode_manifest(world.manifest(TARGET), world.key("stranger"))
    world.stored("manifest", TARGET, ".json").write_bytes(data)

    assert_named(world, TARGET, Check.MANIFEST, "it must be signed by")


def test_a_manifest_of_another_window(world: World) -> None:
    data = world.stored("manifest", TARGET - 1, ".json").read_bytes()
    world.stored("manifest", TARGET, ".json").write_bytes(data)

    assert_named(world, TARGET, Check.MANIFEST, f"it is of window {TARGET - 1}")


def test_a_manifest_of_another_run(world: World) -> None:
    data = encode_manifest(replace(world.manifest(TARGET), run=b"r" * 32), world.aggregator)
    world.stored("manifest", TARGET, ".json").write_bytes(data)

    assert_named(world, TARGET, Check.MANIFEST, "it is of run")


def test_a_manifest_that_is_gone(world: World) -> None:
    world.stored("manifest", TARGET, ".json").unlink()

    assert_named(world, TARGET, Check.MANIFEST, "there is none")


def test_a_second_manifest_of_the_aggregator_beside_the_first_one_s_aggregate(world: World) -> None:
    manifest = world.manifest(TARGET)
    data = encode_manifest(replace(manifest, closed_at=manifest.closed_at + 1), world.aggregator)
    world.stored("manifest", TARGET, ".json").write_bytes(data)

    assert_named(world, TARGET, Check.AGGREGATE, "it is of manifest")


LIES = {
    "steps": ({"steps": 1}, Check.MANIFEST, "it counts 1 steps, must count 7"),
    "learning rate": ({"learning_rate": 0.5}, Check.MANIFEST, "its learning rate is 0.5"),
    "time": ({"opened_at": 1.0}, Check.MANIFEST, "before those of the window before"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_aggregator_that_lies_about_what_nobody_applies(world: World, lie: str) -> None:
    changes, check, words = LIES[lie]
    world.lie(TARGET, **changes)

    assert_named(world, TARGET, check, words)


def test_an_aggregator_that_lies_about_where_a_window_led(world: World) -> None:
    world.lie(TARGET, after=b"x" * 32)

    audited = world.audit()

    assert faults(audited) == {TARGET: {Check.FINGERPRINT}, TARGET + 1: {Check.MANIFEST}}


def test_an_aggregator_that_lies_about_where_a_window_began(world: World) -> None:
    world.lie(TARGET, before=b"x" * 32)

    audited = world.audit()

    assert faults(audited)[TARGET] == {Check.MANIFEST, Check.FINGERPRINT}
    assert min(faults(audited)) == TARGET


def test_an_aggregator_that_leaves_a_payload_out_of_its_list_but_not_of_its_update(world: World) -> None:
    listed = {uid: sha256 for uid, sha256 in world.manifest(TARGET).payloads.items() if uid != LEFT_OUT}
    world.lie(TARGET, payloads=listed, left_out={LEFT_OUT: Exclusion(Fault.MISSING, "there is no object")})

    audited = world.audit()

    found = first_fault(audited)
    assert found is not None
    assert found.window == TARGET
    assert found.findings[Check.AGGREGATE].verdict == Verdict.DIFFERS
    assert found.findings[Check.FINGERPRINT].verdict == Verdict.DIFFERS
    assert found.findings[Check.LEFT_OUT].verdict == Verdict.DOUBT
    assert "uid 2 is left out as missing, but a valid payload is there" in found.findings[Check.LEFT_OUT].words


# Aggregates.


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ending", [".bin", ".json"])
def test_a_changed_bit_of_an_aggregate_or_its_notice(world: World, place: float, ending: str) -> None:
    flip(world.stored("aggregate", TARGET, ending), place)

    assert_named(world, TARGET, Check.AGGREGATE)


@pytest.mark.parametrize("endings", [(".bin",), (".json",), (".bin", ".json")])
def test_an_aggregate_of_another_window(world: World, endings: tuple[str, ...]) -> None:
    for ending in endings:
        data = world.stored("aggregate", TARGET - 1, ending).read_bytes()
        world.stored("aggregate", TARGET, ending).write_bytes(data)

    assert_named(world, TARGET, Check.AGGREGATE)


@pytest.mark.parametrize("ending", [".bin", ".json"])
def test_an_aggregate_that_is_gone(world: World, ending: str) -> None:
    world.stored("aggregate", TARGET, ending).unlink()

    assert_named(world, TARGET, Check.AGGREGATE)


def test_a_notice_that_a_stranger_signed(world: World) -> None:
    path = world.stored("aggregate", TARGET, ".json")
    path.write_bytes(encode_notice(decode_notice(path.read_bytes(), verify)[1], world.key("stranger")))

    assert_named(world, TARGET, Check.AGGREGATE, "it must be signed by")


def test_an_aggregate_of_another_window_behind_a_notice_that_says_so(world: World) -> None:
    path, other = world.stored("aggregate", TARGET, ".json"), world.stored("aggregate", TARGET - 1, ".bin")
    world.stored("aggregate", TARGET, ".bin").write_bytes(other.read_bytes())
    notice = decode_notice(path.read_bytes(), verify)[1]
    sha256, size = hashlib.sha256(other.read_bytes()).digest(), other.stat().st_size
    path.write_bytes(encode_notice(replace(notice, sha256=sha256, size=size), world.aggregator))

    assert_named(world, TARGET, Check.AGGREGATE, f"window must be {TARGET}, got {TARGET - 1}")


@pytest.mark.parametrize("name", ["net.0.bias", "net.0.weight", "net.1.weight"])
def test_one_other_element_in_an_aggregate_that_the_aggregator_signed(world: World, name: str) -> None:
    update = world.update(TARGET)
    flat = update[name].view(-1)
    flat[-1] = 0 if flat[-1] else 1
    world.lie(TARGET, update=update)

    assert_named(world, TARGET, Check.AGGREGATE, f"1 of {flat.numel()} elements of {name} differ")


@pytest.mark.parametrize("is_kept", [True, False], ids=["beside payloads", "in the place of payloads"])
def test_a_forged_signature_of_an_aggregate_whose_notice_is_good(world: World, is_kept: bool) -> None:
    path, aggregate = (world.stored("aggregate", TARGET, ending) for ending in (".json", ".bin"))
    flip(aggregate, 1.0)
    notice = decode_notice(path.read_bytes(), verify)[1]
    sha256 = hashlib.sha256(aggregate.read_bytes()).digest()
    path.write_bytes(encode_notice(replace(notice, sha256=sha256), world.aggregator))
    for uid in () if is_kept else range(3):
        world.payload(TARGET, uid).unlink()

    found = first_fault(world.audit(keep_windows=1))

    assert found is not None
    assert found.window == TARGET
    assert "the signature is not one of" in found.findings[Check.AGGREGATE].words


# Checkpoints.

FILES = ("checkpoint.json", "model.safetensors", "optimizer.safetensors")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FILES[:2])
def test_a_changed_bit_of_a_checkpoint(world: World, place: float, name: str) -> None:
    flip(world.stored("checkpoint", CHECKPOINT, f"/{name}"), place)

    assert_named(world, CHECKPOINT, Check.CHECKPOINT, "that of uid 3")


@pytest.mark.parametrize("name", FILES[1:2])
def test_a_file_of_a_checkpoint_that_is_gone(world: World, name: str) -> None:
    world.stored("checkpoint", CHECKPOINT, f"/{name}").unlink()

    assert_named(world, CHECKPOINT, Check.CHECKPOINT, "that of uid 3")


def test_a_checkpoint_of_another_window(world: World) -> None:
    for name in FILES[:2]:
        data = world.stored("checkpoint", CHECKPOINT - 4, f"/{name}").read_bytes()
        world.stored("checkpoint", CHECKPOINT, f"/{name}").write_bytes(data)

    assert_named(world, CHECKPOINT, Check.CHECKPOINT)


def test_a_checkpoint_that_a_stranger_signed(world: World) -> None:
    path = world.stored("checkpoint", CHECKPOINT, "/checkpoint.json")
    path.write_bytes(encode_checkpoint(decode_checkpoint(path.read_bytes(), verify)[1], world.key("stranger")))

    assert_named(world, CHECKPOINT, Check.CHECKPOINT, "it must be signed by")


def test_a_checkpoint_of_other_parameters_that_the_aggregator_signed(world: World) -> None:
    world.publish_checkpoint(99, CHECKPOINT)

    assert_named(world, CHECKPOINT, Check.CHECKPOINT, "the replay has")


def test_a_checkpoint_behind_the_last_window(world: World) -> None:
    world.publish_checkpoint(99, START + 12)

    assert_named(world, START + 12, Check.CHECKPOINT, "the replay has")


def test_a_checkpoint_with_another_state_of_the_schedule(world: World) -> None:
    path = world.stored("checkpoint", CHECKPOINT, "/checkpoint.json")
    checkpoint = decode_checkpoint(path.read_bytes(), verify)[1]
    assert checkpoint.state is not None
    state = {**checkpoint.state, "schedules": [{":map": ["windows_applied", 3]}]}
    assert state != checkpoint.state
    path.write_bytes(encode_checkpoint(replace(checkpoint, state=state), world.aggregator))

    assert_named(world, CHECKPOINT, Check.CHECKPOINT, "another state of optimizer or schedules")


def test_a_newest_checkpoint_that_is_signed_anew(world: World) -> None:
    path = world.stored("checkpoint", START + 12, "/checkpoint.json")
    path.write_bytes(encode_checkpoint(decode_checkpoint(path.read_bytes(), verify)[1], world.aggregator))

    assert_named(world, START + 12, Check.CHECKPOINT, "another one than latest.json names")


def test_what_names_the_newest_checkpoint_and_cannot_be_read(world: World) -> None:
    flip(world.path(world.aggregator, f"{RUN}/checkpoint/latest.json"), 0.5)

    assert_named(world, START + 12, Check.CHECKPOINT, "what names that cannot be used")


def test_another_state_of_the_optimizer_that_the_aggregator_signed(tmp_path: Path) -> None:
    world = World(tmp_path, Window(START), adamw=True).write()
    replica, folder = world.replica(), world.stored("checkpoint", CHECKPOINT, "")
    checkpoint = decode_checkpoint((folder / "checkpoint.json").read_bytes(), verify)[1]
    load_checkpoint(folder, checkpoint, replica.state)
    optimizer = replica.state.optimizer
    assert optimizer is not None
    next(iter(optimizer.state.values()))["exp_avg"].view(-1)[0] += 1
    world.publish_state(replica, CHECKPOINT)

    assert_named(world, CHECKPOINT, Check.CHECKPOINT, "has another optimizer.safetensors than the replay")
