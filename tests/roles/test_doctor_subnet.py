"""`doctor` on a subnet of Bittensor: what would stop `fit` or cost money is said before, and nothing is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from templar_pl.config import WindowConfig
from templar_pl.exchange import credentials as names
from templar_pl.roles.doctor_rows import State
from templar_pl.roles.doctor_subnet import judge_head, judge_window
from tests.end_to_end.node import TINY
from tests.end_to_end.test_r2 import variables
from tests.roles.doctor_runs import BITTENSOR, R2, everything, examined
from tests.roles.subnet_worlds import DIGEST, HPARAMS, REGISTER_BLOCKS, SubnetWorld
from tests.servers.nodes import empty, node_buckets
from tests.servers.seaweed import S3Server

pytestmark = pytest.mark.usefixtures("own_folder_and_log")

Capture = pytest.CaptureFixture[str]
ROWS = ("wallet", "chain", "newest block", "window", "hotkey", "commitment", "payloads count", "start of the run")
PASSWORD = "open sesame"  # noqa: S105 - of a key that lives as long as the test


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SubnetWorld:
    for name in ("TEMPLAR_HOTKEY_PASSWORD", *names_of_keys()):
        monkeypatch.delenv(name, raising=False)
    return SubnetWorld(tmp_path)


def names_of_keys() -> list[str]:
    return [names.ACCOUNT_ID, names.WRITE_KEY_ID, names.WRITE_SECRET, names.READ_KEY_ID, names.READ_SECRET]


def as_typed(world: SubnetWorld, name: str) -> tuple[str, ...]:
    """Return the options of a user, for a model that fits everywhere."""
    wallet = (f"--wallet.name={name}", f"--wallet.hotkey={name}", f"--wallet.path={world.folder / 'wallets'}")
    return (BITTENSOR, "--local", *TINY, *wallet)


def test_a_newcomer_is_told_everything_and_nothing_is_written_anywhere(
    world: SubnetWorld, capsys: Capture, seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(seaweed_server.endpoint_url)
    for name, value in variables("me", seaweed_server.endpoint_url).items():
        monkeypatch.setenv(name, value)
    world.registered("alice")
    before, head = everything(world.folder), world.fake.head

    options = (R2, *as_typed(world, "alice"), "--bittensor.start_window=99")
    report = examined(capsys, *options, command_line=world.command_line())

    assert report.code == 0, report
    assert set(ROWS) <= report.of_state("ok")
    assert "none yet" in report.found["commitment"]
    assert "publishes a run file" in report.found["start of the run"]
    assert everything(world.folder) == before
    assert world.fake.head == head
    assert world.commitments() == {}
    assert world.fake.link.num_open == 0
    assert list(node_buckets("me", seaweed_server.endpoint_url).own().list("")) == []


def test_a_wallet_that_is_not_there_hides_nothing_of_the_chain(world: SubnetWorld, capsys: Capture) -> None:
    report = examined(capsys, *as_typed(world, "alice"), command_line=world.command_line())

    assert report.code == 1
    assert report.of_state("failed") == {"wallet", "start of the run"}
    assert "make it: btcli wallet create --wallet alice" in report.found["wallet"]
    assert "subnet 3 has 0 registered" in report.found["chain"]
    assert report.states["hotkey"] == "skipped"


def test_payloads_in_folders_are_named_as_what_nobody_else_finds(world: SubnetWorld) -> None:
    world.registered("alice")

    row = world.seen("alice")["buckets"]

    assert row.state == State.WARNING
    assert "configs/r2.yaml" in row.mend


def test_missing_keys_of_the_bucket_spoil_only_what_needs_it(world: SubnetWorld, capsys: Capture) -> None:
    world.registered("alice")

    report = examined(capsys, R2, *as_typed(world, "alice"), command_line=world.command_line())

    assert report.of_state("failed") == {"keys"}
    assert {"commitment", "payloads count", "start of the run"} <= report.of_state("skipped")
    assert {"wallet", "chain", "newest block", "window", "hotkey"} <= report.of_state("ok")


def test_an_unregistered_hotkey_gets_the_command_that_registers_it_and_the_one_that_tells_the_price(
    world: SubnetWorld,
) -> None:
    address = world.new_wallet("alice")

    row = world.seen("alice")["hotkey"]

    assert row.state == State.FAILED
    assert f"{address} is not registered on subnet 3 of finney" in row.found
    price, command = re.findall(r"btcli .+", row.mend)
    assert shlex.split(price) == ["btcli", "subnets", "burn-cost", "3", "--network", "finney"]
    path = str(world.folder / "wallets")
    assert shlex.split(command)[:7] == ["btcli", "subnets", "register", "--netuid", "3", "--network", "finney"]
    assert shlex.split(command)[7:] == ["--wallet", "alice", "--wallet-hotkey", "alice", "--wallet-path", path]


def test_a_password_is_taken_from_the_environment_or_missed_by_the_name_of_its_variable(
    world: SubnetWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register.register_hotkey(world.new_wallet("alice", PASSWORD))

    missed = world.seen("alice")["wallet"]
    monkeypatch.setenv("TEMPLAR_HOTKEY_PASSWORD", PASSWORD)
    given = world.seen("alice")["wallet"]

    assert missed.state == State.FAILED
    assert "TEMPLAR_HOTKEY_PASSWORD" in missed.found
    assert given.state == State.OK
    assert "encrypted, password from TEMPLAR_HOTKEY_PASSWORD" in given.found
    assert PASSWORD not in given.found


def test_a_subnet_that_is_not_there_is_named(world: SubnetWorld) -> None:
    world.new_wallet("alice")

    rows = world.seen("alice", netuid=77)

    assert rows["chain"].state == State.FAILED
    assert "finney has no subnet 77: give --netuid one that it has" in rows["chain"].found
    assert {rows[name].state for name in ("newest block", "hotkey", "start of the run")} == {State.SKIPPED}


def test_a_chain_that_cannot_be_reached_shows_the_host_and_no_secret_of_its_address(world: SubnetWorld) -> None:
    world.registered("alice")
    world.fake.link.cut()

    rows = world.seen("alice", network="wss://node.example.org:443/key-of-alice", open_timeout_s=0.5)

    assert rows["chain"].state == State.FAILED
    assert "cannot connect to wss://node.example.org:443; look at --bittensor.network" in rows["chain"].found
    assert "key-of-alice" not in str(rows)
    assert rows["wallet"].state == State.OK


def test_commands_to_register_show_no_secret_of_an_address(world: SubnetWorld) -> None:
    world.new_wallet("alice")

    row = world.seen("alice", network="wss://me:word@node.example.org:443/key-of-alice")["hotkey"]

    assert row.mend.count("--network wss://node.example.org:443") == 2
    assert "word" not in row.mend
    assert "key-of-alice" not in row.mend


def test_a_head_from_the_future_is_blamed_on_the_clock(world: SubnetWorld) -> None:
    world.registered("alice")
    world.fake.mine_at(world.fake.head.timestamp_ms + 3_600_000)

    row = world.seen("alice")["newest block"]

    assert row.state == State.FAILED
    assert "from now by this machine's clock, which is behind" in row.found
    assert "NTP" in row.mend


@pytest.mark.parametrize(
    ("age_s", "state"),
    [
        (-1.9, State.OK),
        (35.9, State.OK),
        (-2.1, State.WARNING),
        (36.1, State.WARNING),
        (84.0, State.WARNING),
        (84.1, State.FAILED),
        (-84.1, State.FAILED),
    ],
)
def test_a_head_may_be_as_old_as_skipped_slots_explain(age_s: float, state: State) -> None:
    assert judge_head(age_s, 12.0, 84.0).state == state


def test_a_lagging_endpoint_can_be_replaced(world: SubnetWorld) -> None:
    assert "--bittensor.network wss://" in judge_head(60.0, 12.0, 84.0).mend


@pytest.mark.parametrize(
    ("delta_s", "gather_s", "block_s", "state"),
    [
        (10, 35, 12, State.OK),
        (10, 35, None, State.OK),
        (10, 84, 12, State.WARNING),
        (84, 100, 12, State.FAILED),
        (10, 12, 12, State.FAILED),
        (10, 12, None, State.FAILED),
    ],
)
def test_uploads_and_gathers_must_fit_into_a_window(
    delta_s: float, gather_s: float, block_s: float | None, state: State
) -> None:
    window = WindowConfig(time_window_delta_seconds=delta_s, gather_timeout_seconds=gather_s)

    assert judge_window(window, block_s).state == state


def test_stake_and_permit_of_the_own_hotkey_are_told(world: SubnetWorld) -> None:
    world.registered("alice")
    world.registered("victor", stake=1234.0, validator_permit=True)

    assert "uid 0, stake 0, no validator permit" in world.seen("alice")["hotkey"].found
    assert "uid 1, stake 1234, with a validator permit" in world.seen("victor")["hotkey"].found


def test_a_commitment_is_recognised_and_another_one_is_said_to_be_replaced(
    world: SubnetWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables("me", "http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    world.registered("alice")
    world.network("alice", start_window=60).open(DIGEST, HPARAMS.window).close()

    world.fake.mine(REGISTER_BLOCKS + 20)
    world.age(0.0)
    same, other = (world.seen("alice", kind=kind, start_window=60) for kind in ("local", "r2"))

    assert "the own bucket, as it should be" in same["commitment"].found
    assert "another bucket or read key: `fit` replaces it" in other["commitment"].found
    assert same["payloads count"].found.startswith("now:")
    assert "at the earliest" in other["payloads count"].found


def test_payloads_of_a_newcomer_count_from_a_register_that_all_have(world: SubnetWorld) -> None:
    world.registered("alice")
    network = world.network("alice", start_window=60)

    before = world.seen("alice")["payloads count"].found
    network.open(DIGEST, HPARAMS.window).close()
    after = world.seen("alice")["payloads count"].found
    world.fake.mine(REGISTER_BLOCKS + 20)
    world.age(0.0)
    later = world.seen("alice")["payloads count"].found

    assert "min at the earliest" in before
    assert re.match(r"in 1[01]\.\d min, when all nodes know", after)
    assert later.startswith("now:")


def test_nobody_who_tells_where_the_run_began_stops_it_and_both_ways_out_are_named(world: SubnetWorld) -> None:
    world.registered("alice")

    row = world.seen("alice")["start of the run"]

    assert row.state == State.FAILED
    assert "--bittensor.start_window" in row.found
    assert "--bittensor.leader" in row.found


def test_the_validator_whose_run_file_counts_is_named_with_its_stake(world: SubnetWorld) -> None:
    world.registered("alice")
    world.registered("victor", stake=1234.0, validator_permit=True)
    world.network("victor", start_window=60).open(DIGEST, HPARAMS.window).close()

    row = world.seen("alice")["start of the run"]

    assert (row.state, row.found) == (State.OK, "window 60, by the run file of uid 1 (stake 1234)")


def test_a_run_of_other_settings_stops_it(world: SubnetWorld) -> None:
    world.registered("alice")
    world.registered("victor", stake=1234.0, validator_permit=True)
    world.network("victor", start_window=60).open(bytes(32), HPARAMS.window).close()

    row = world.seen("alice")["start of the run"]

    assert row.state == State.FAILED
    assert "the run file of uid 1 is of a run with other settings" in row.found


def test_an_own_run_file_that_says_something_else_stops_whoever_begins_a_run(world: SubnetWorld) -> None:
    world.registered("victor")
    world.network("victor", start_window=60).open(DIGEST, HPARAMS.window).close()

    stands = world.seen("victor", start_window=60)["start of the run"]
    differs = world.seen("victor", start_window=61)["start of the run"]

    assert stands.found == "window 60, by --bittensor.start_window and the run file in the own bucket"
    assert differs.state == State.FAILED
    assert "start_window is 60, not 61" in differs.found


def test_a_run_that_would_begin_in_the_past_is_a_warning(world: SubnetWorld) -> None:
    world.registered("victor")

    row = world.seen("victor", start_window=10)["start of the run"]

    assert row.state == State.WARNING
    assert "4 windows ago" in row.found
    assert "such as 16" in row.mend
