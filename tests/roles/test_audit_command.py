"""`audit` on the command line, on the machine of a local run: what it finds, prints, returns and leaves alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from templar_pl.chain import HotkeySigner, load_or_create_hotkey
from templar_pl.cli_audit import AuditCLI, audit_command
from templar_pl.cli_roles import run_role
from templar_pl.exchange import LocalBucket, LocalBuckets
from templar_pl.protocol import payload_key
from templar_pl.roles.node import Node
from templar_pl.training.replica import Replica
from templar_pl.units import Uid, Window
from tests.end_to_end.node import TINY
from tests.roles.audit_runs import EVERY, Member, Miner, Plan, write_run
from tests.roles.doctor_runs import MINER, everything

pytestmark = pytest.mark.usefixtures("own_folder_and_log")

WINDOWS = EVERY + 1
WALL = ("--chain.pace=wall", "--chain.seconds_per_block=3600", "--chain.record_windows=false")


def options(folder: Path, *more: str) -> list[str]:
    return [MINER, *TINY, f"--store.root={folder / 'runs'}", *more]


def node_of(folder: Path, hotkey: str) -> Node:
    taken: list[Node] = []

    def take(node: Node) -> int:
        taken.append(node)
        return 0

    assert run_role(options(folder, *WALL, f"--wallet.hotkey={hotkey}"), AuditCLI, take) == 0
    return taken[0]


def replica_of(node: Node) -> Replica:
    hparams = node.hparams
    return Replica(node.module, hparams.compression, hparams.peers, node.settings_digest, node.device)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two miners and an aggregator took part in a run; all of them have gone."""
    folder = tmp_path_factory.mktemp("finished")
    members: dict[str, Member] = {}
    for name in ("one", "two", "aggregator", "three"):
        node = node_of(folder, name)
        replica = replica_of(node)
        connection = node.network.open(replica.digest, node.hparams.window, sends=name != "aggregator")
        own = connection.buckets.own()
        assert isinstance(own, LocalBucket)
        assert isinstance(connection.signer, HotkeySigner)
        members[name] = Member(connection.uid, connection.signer, own)
        ends = [connection.chain.upload_interval(Window(window))[0] for window in range(WINDOWS)]
        connection.close()

    def ends_at(window: Window) -> float:
        return ends[window]

    plan = Plan(connection.run, connection.start_window, WINDOWS, node.hparams.compression, ends_at=ends_at)
    miners = [members["one"], members["two"]]
    write_run(plan, replica, members["aggregator"], miners, folder)
    for window in range(WINDOWS):
        for path in (folder / "runs").rglob(f"payload/{window:09d}/*.bin"):
            dated(path, ends_at(Window(window)) + 1)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def dated(path: Path, at: float) -> None:
    os.utime(path, (at, at))


def audit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = audit_command(list(arguments))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_good_run_passes_and_nothing_is_made_or_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(folder)

    code, out, err = audit(capsys, *options(folder))

    assert (code, out.splitlines()[-1]) == (0, "windows 0..4 agree"), out + err
    assert "by uid 2" in err
    assert everything(folder) == before


def test_a_changed_payload_is_named_and_the_exit_code_is_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (folder / "runs").rglob("payload/000000003/1.bin")
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    code, out, _ = audit(capsys, *options(folder))

    assert code == 1
    assert out.splitlines()[-1].startswith("window 3 does not agree: payloads: uid 1 has sha256 ")


def test_a_payload_that_landed_late_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (folder / "runs").rglob("payload/000000002/1.bin")
    dated(path, path.stat().st_mtime + 3600)

    code, out, _ = audit(capsys, *options(folder))

    assert code == 0
    assert "window 2: in time: doubt: uid 1 is listed, and what is there was written" in out
    assert out.splitlines()[-1] == "windows 0..4 agree; in 1 of them something is odd"


@pytest.mark.parametrize(("window", "is_odd"), [(0, False), (3, True)])
def test_who_could_send_and_is_not_named_is_found_by_the_register(
    folder: Path, capsys: pytest.CaptureFixture[str], window: int, is_odd: bool
) -> None:
    node = node_of(folder, "three")
    replica = replica_of(node)
    view = node.network.view(replica.digest, node.hparams.window)
    (store,) = (folder / "runs").rglob("store-*")
    signer = load_or_create_hotkey(store.parents[1] / "hotkeys", "three")
    member = Member(Uid(3), signer, LocalBuckets(store, signer.hotkey).own())
    Miner(member, replica, view.run, node.hparams.compression).send(Window(window))
    at = view.ends_at(Window(window))
    assert at is not None
    dated(store / signer.hotkey / payload_key(view.run, Window(window), Uid(3)), at)

    code, out, _ = audit(capsys, *options(folder))

    # It was registered in window 0, so its payloads count from the next one on.
    assert code == 0
    assert (f"window {window}: not named: doubt: uid 3 is not named" in out) == is_odd


def test_programs_read_what_was_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (folder / "runs").rglob("manifest/000000001.json")
    path.write_bytes(path.read_bytes()[:-1])

    code, out, _ = audit(capsys, *options(folder), "--first=1", "--last=2", "--json")

    found = json.loads(out)
    assert code == 1
    assert (found["agrees"], found["first_fault"]) == (False, 1)
    assert [(w["window"], w["agrees"]) for w in found["windows"]] == [(0, True), (1, False), (2, True)]
    assert found["windows"][1]["checks"]["manifest"]["verdict"] == "differs"
    assert found["summary"].startswith("window 1 does not agree: manifest: ")


def test_the_aggregator_may_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(capsys, *options(folder), "--follow.aggregator=aggregator")[0] == 0

    code, _, err = audit(capsys, *options(folder), "--follow.aggregator=one")

    assert code == 2
    assert "there is nothing to audit" in err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("--run=another", "there is no chain at"),
        ("--first=7", "--first must be in 0..4"),
        ("--schedule.learning_rate=0.001", "there is no chain at"),
        ("--follow.aggregator=nobody", "neither the address of a hotkey nor the name of a key"),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], wrong: str, words: str
) -> None:
    before = everything(folder)

    code, out, err = audit(capsys, *options(folder), wrong)

    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert everything(folder) == before


def test_a_run_is_named_by_the_short_option(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(capsys, *options(folder), "--run", "local")[0] == 0
