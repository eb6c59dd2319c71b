"""An audit passes a good run, whatever part of it is asked for, and whatever is not kept any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from templar_pl.errors import ConfigError
from templar_pl.protocol import Peer
from templar_pl.roles.audit_findings import Check, Verdict, first_fault, summary
from templar_pl.units import Uid, Window
from tests.roles.audit_runs import LEFT_OUT, START, WINDOWS, World
from tests.roles.doctor_runs import everything


def test_a_good_run_agrees_in_every_window_and_every_check(world: World) -> None:
    audited = world.audit()

    assert [a.window for a in audited] == [*range(START, START + WINDOWS), START + WINDOWS]
    for a in audited[:-1]:
        expected = dict.fromkeys(Check, Verdict.AGREES)
        if a.window not in (START, START + 4, START + 8):
            expected[Check.CHECKPOINT] = Verdict.NOTHING
        if (a.window - START) % 3 != 2:
            expected[Check.LEFT_OUT] = Verdict.NOTHING
        assert {check: f.verdict for check, f in a.findings.items()} == expected, a
    assert audited[-1].findings[Check.CHECKPOINT].verdict == Verdict.AGREES
    assert first_fault(audited) is None
    assert summary(audited) == f"windows {START}..{START + WINDOWS - 1} agree"


@pytest.mark.parametrize(("first", "last", "begin"), [(20, 22, 20), (23, 25, 20), (24, 24, 24), (29, 31, 28)])
def test_any_range_is_replayed_from_the_newest_checkpoint_before_it(
    world: World, first: int, last: int, begin: int
) -> None:
    audited = [a for a in world.audit(first, last) if a.is_window]

    assert [a.window for a in audited] == list(range(begin, last + 1))
    assert first_fault(audited) is None


@pytest.mark.parametrize(("first", "last"), [(19, None), (None, 32), (99, None), (25, 24)])
def test_a_range_that_has_no_manifests_is_refused(world: World, first: int | None, last: int | None) -> None:
    with pytest.raises(ConfigError, match=r"--(first|last) must be"):
        world.audit(first, last)


def test_a_run_without_manifests_is_refused(world: World) -> None:
    for path in world.stored("manifest", 0, "").parent.iterdir():
        path.unlink()

    with pytest.raises(ConfigError, match="there is nothing to audit"):
        world.audit()


def test_nothing_in_the_store_is_changed(world: World) -> None:
    before = everything(world.folder / "store")

    world.audit()

    assert everything(world.folder / "store") == before


def test_windows_whose_payloads_were_deleted_after_their_time_are_judged_by_the_aggregate(world: World) -> None:
    for window in range(START, START + 9):
        for uid in range(3):
            world.payload(window, uid).unlink(missing_ok=True)

    audited = world.audit(keep_windows=3)

    assert first_fault(audited) is None
    for a in audited[:9]:
        assert a.findings[Check.PAYLOADS].verdict == Verdict.GONE
        assert "is deleted, as all are after 3 windows" in a.findings[Check.PAYLOADS].words
        assert a.findings[Check.AGGREGATE].words == "stands for the payloads"
        assert a.findings[Check.AGGREGATE].verdict == Verdict.UNCHECKED
        assert a.findings[Check.FINGERPRINT].verdict == Verdict.AGREES
    assert audited[9].findings[Check.PAYLOADS].verdict == Verdict.AGREES


def test_an_aggregate_that_stands_for_deleted_payloads_must_lead_to_the_fingerprint(world: World) -> None:
    update = world.update(START + 1)
    update["net.0.bias"] = -update["net.0.bias"]
    world.lie(START + 1, update=update)
    for uid in range(3):
        world.payload(START + 1, uid).unlink()

    found = first_fault(world.audit(keep_windows=3))

    assert found is not None
    assert found.window == START + 1
    assert found.findings[Check.FINGERPRINT].verdict == Verdict.DIFFERS


def test_a_replay_that_lost_its_way_goes_on_from_the_next_good_checkpoint(world: World) -> None:
    world.payload(START + 5, 1).unlink()
    world.stored("aggregate", START + 5, ".bin").unlink()

    audited = world.audit()

    assert [a.window for a in audited if not a.agrees] == [START + 5, START + 6, START + 7]
    assert "neither all payloads nor an aggregate" in audited[5].findings[Check.FINGERPRINT].words
    # What follows from the store alone is judged all the same.
    assert audited[6].findings[Check.AGGREGATE].verdict == Verdict.AGREES
    assert audited[8].findings[Check.CHECKPOINT].words == "the replay goes on from that of uid 3"


def test_a_checkpoint_that_manifests_contradict_is_nothing_to_go_on_from(world: World) -> None:
    world.payload(START + 5, 1).unlink()
    world.stored("aggregate", START + 5, ".bin").unlink()
    for name in ("checkpoint.json", "model.safetensors"):
        world.stored("checkpoint", START + 8, f"/{name}").unlink()
    world.publish_checkpoint(99, START + 8)

    audited = world.audit()

    assert "manifests say" in audited[8].findings[Check.CHECKPOINT].words
    assert audited[8].findings[Check.FINGERPRINT].verdict == Verdict.UNKNOWN


def test_a_broken_checkpoint_is_no_start_and_is_named_where_it_stands(world: World) -> None:
    world.stored("checkpoint", START + 8, "/model.safetensors").unlink()

    audited = world.audit(START + 9)

    assert audited[0].window == START + 4
    assert [a.window for a in audited if not a.agrees] == [START + 8]


def test_a_checkpoint_that_manifests_contradict_is_no_start(world: World) -> None:
    world.publish_checkpoint(99, START + 8)

    audited = world.audit(START + 9)

    assert audited[0].window == START + 4
    assert [a.window for a in audited if not a.agrees] == [START + 8]


def test_without_a_first_checkpoint_the_run_begins_with_the_parameters_that_are_drawn(world: World) -> None:
    world.stored("checkpoint", START, "/model.safetensors").unlink()

    assert [a.window for a in world.audit(seed=1) if not a.agrees] == [START]


def test_parameters_that_are_drawn_otherwise_are_no_start(world: World) -> None:
    for name in ("model.safetensors", "checkpoint.json"):
        world.stored("checkpoint", START, f"/{name}").unlink()

    audited = world.audit(START, START + 5, seed=7)

    assert [a.window for a in audited if not a.agrees] == [START, START + 1, START + 2, START + 3]
    assert "it begins with parameters" in audited[0].findings[Check.FINGERPRINT].words


def test_old_manifests_that_are_deleted_move_the_beginning_to_a_checkpoint(world: World) -> None:
    for window in range(START, START + 6):
        world.stored("manifest", window, ".json").unlink()

    audited = world.audit()

    assert audited[0].window == START + 8
    assert first_fault(audited) is None


def test_windows_that_no_checkpoint_leads_to_are_judged_by_the_store_and_do_not_agree(world: World) -> None:
    for window in range(START, START + 6):
        world.stored("manifest", window, ".json").unlink()

    audited = world.audit(START + 7)

    assert audited[0].window == START + 7
    assert audited[0].findings[Check.PAYLOADS].verdict == Verdict.AGREES
    assert audited[0].findings[Check.FINGERPRINT].verdict == Verdict.UNKNOWN
    assert [a.window for a in audited if not a.agrees] == [START + 7]


def test_the_aggregate_of_the_newest_window_may_still_be_on_its_way(world: World) -> None:
    for ending in (".json", ".bin"):
        world.stored("aggregate", START + 11, ending).unlink()

    audited = world.audit()

    assert first_fault(audited) is None
    assert audited[11].findings[Check.AGGREGATE].words == "it is not published yet"


def test_a_payload_that_landed_late_was_rightly_left_out(world: World) -> None:
    path = world.payload(START + 2, LEFT_OUT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"anything")

    assert world.audit()[2].findings[Check.LEFT_OUT].verdict == Verdict.AGREES


UNREACHABLE: dict[str, Callable[[Peer], Peer | None]] = {
    "uid 1 is not registered": lambda _: None,
    "uid 1 cannot be read": lambda peer: replace(peer, address="no/bucket"),
}


@pytest.mark.parametrize("words", list(UNREACHABLE))
def test_an_aggregate_does_not_stand_for_payloads_that_must_still_be_there(world: World, words: str) -> None:
    audited = world.audit(view=world.view(without_uid_1(world, words)))

    found = first_fault(audited)
    assert found is not None
    assert found.window == START
    assert found.findings[Check.PAYLOADS].verdict == Verdict.UNKNOWN
    assert words in found.findings[Check.PAYLOADS].words


@pytest.mark.parametrize("words", list(UNREACHABLE))
def test_an_aggregate_stands_for_payloads_that_nobody_keeps_any_more(world: World, words: str) -> None:
    audited = world.audit(view=world.view(without_uid_1(world, words)), keep_windows=3)

    assert audited[0].findings[Check.PAYLOADS].verdict == Verdict.GONE
    assert audited[0].findings[Check.FINGERPRINT].verdict == Verdict.AGREES


def without_uid_1(world: World, words: str) -> dict[Uid, Peer]:
    """Return the register as somebody sees it who cannot reach uid 1."""
    seen = {uid: UNREACHABLE[words](peer) if uid == 1 else peer for uid, peer in world.peers().items()}
    return {uid: peer for uid, peer in seen.items() if peer is not None}


def test_a_validators_checkpoints_are_compared_too(world: World) -> None:
    validator = world.key("validator")
    peer = Peer(Uid(9), validator.hotkey, validator.public_key, validator.hotkey)
    world.publish_checkpoint(99, START + 3, by=validator)

    audited = world.audit(view=replace(world.view(), validator=peer))

    assert [a.window for a in audited if not a.agrees] == [START + 3]
    assert "that of uid 9" in audited[3].findings[Check.CHECKPOINT].words


def test_an_optimizer_with_a_state_is_replayed_and_compared(tmp_path: Path) -> None:
    world = World(tmp_path, Window(START), adamw=True).write()
    assert first_fault(world.audit()) is None

    path = world.stored("checkpoint", START + 8, "/optimizer.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    assert [a.window for a in world.audit() if not a.agrees] == [START + 8]


def test_an_audit_ends_when_it_is_asked_to(world: World) -> None:
    class AskedToEndError(Exception):
        pass

    asked = iter(range(30))

    def check() -> None:
        if next(asked, None) is None:
            raise AskedToEndError

    with pytest.raises(AskedToEndError):
        world.audit(check_interrupt=check)
