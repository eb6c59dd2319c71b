"""The file of a local chain: settings, faults, and what closing leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from templar_pl.chain.database import Database, explain
from templar_pl.chain.hotkeys import load_or_create_hotkey
from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.errors import ChainError, ConfigError
from templar_pl.units import Window
from tests.chain.nodes import PATIENCE_S, RUN, ManualTime, joined, local_chain, num_open_files, sha

WALL = LocalChainConfig(pace="wall")
WINDOW_S = WALL.seconds_per_block * WALL.blocks_per_window


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pace", "sprint"),
        ("seconds_per_block", 0.0),
        ("seconds_per_block", float("nan")),
        ("blocks_per_window", 0),
        ("blocks_per_window", 2.5),
        ("lease_s", 0.01),
        ("lease_s", True),
        ("min_miners", 0),
        ("min_miners", 513),
        ("delta_s", -1.0),
        ("delta_s", "10"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be"):
        LocalChainConfig(**{field: value})


CHANGES: list[dict[str, Any]] = [
    {"pace": "wall"},
    {"seconds_per_block": 6.0},
    {"blocks_per_window": 8},
    {"lease_s": 21.0},
    {"min_miners": 2},
    {"delta_s": 11.0},
]


@pytest.mark.parametrize("change", CHANGES)
def test_opening_with_another_setting_names_both_values(tmp_path: Path, change: dict[str, Any]) -> None:
    (name, value), config = next(iter(change.items())), LocalChainConfig()
    with contextlib.closing(local_chain(tmp_path, "a", config)) as chain:
        chain.open()
        other = local_chain(tmp_path, "b", dataclasses.replace(config, **change))

        with pytest.raises(ConfigError, match=f"{name} = .*use .* or delete the file") as caught:
            other.open()

    for shown in (getattr(config, name), value):
        assert str(int(shown) if isinstance(shown, float) else shown) in str(caught.value)


def test_opening_for_another_run_is_refused(tmp_path: Path) -> None:
    joined(local_chain(tmp_path, "a")).close()
    signer = load_or_create_hotkey(tmp_path / "keys", "a")

    with pytest.raises(ConfigError, match=f"made with run = {RUN}, but run = other is asked for"):
        LocalChain(tmp_path / "chain.sqlite", signer, LocalChainConfig(), run="other").open()


def test_a_whole_number_is_the_same_setting_with_and_without_a_point(tmp_path: Path) -> None:
    joined(local_chain(tmp_path, "a", LocalChainConfig(lease_s=30))).close()

    joined(local_chain(tmp_path, "a", LocalChainConfig(lease_s=30.0))).close()


def test_everything_is_still_there_after_closing_and_opening(tmp_path: Path) -> None:
    clock = ManualTime()
    chain = joined(local_chain(tmp_path, "a", now=clock))
    chain.commit("here")
    chain.set_weights({chain.register(): 2.0})
    chain.agreement.announce(Window(0), sha("a"))
    settlement = chain.agreement.settle(Window(0), 0.0)
    peers = chain.peers()
    chain.close()

    again = local_chain(tmp_path, "a", now=clock)
    again.open()

    assert (again.window(), again.peers(), again.weights()) == (1, peers, {0: {0: 1.0}})
    assert again.agreement.settle(Window(0), 0.0) == settlement
    again.close()


def test_a_constructor_touches_no_file(tmp_path: Path) -> None:
    signer = load_or_create_hotkey(tmp_path / "keys", "a")

    LocalChain(tmp_path / "folder" / "chain.sqlite", signer, LocalChainConfig(), run=RUN)

    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_closing_leaves_one_file_and_no_log_beside_it(tmp_path: Path) -> None:
    chain = joined(local_chain(tmp_path, "a"))

    chain.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.sqlite", "keys"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(ConfigError, match=f"{path}: it is not a chain file; name another path, or delete it"):
        local_chain(tmp_path, "a").open()

    assert path.read_bytes() == b"not a database" * 100


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE diary (entry)")
    before = path.read_bytes()

    with pytest.raises(ConfigError, match="database of another program"):
        local_chain(tmp_path, "a").open()

    assert path.read_bytes() == before


def test_a_damaged_file_is_reported_as_such(tmp_path: Path) -> None:
    joined(local_chain(tmp_path, "a")).close()
    path = tmp_path / "chain.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))

    with pytest.raises(ConfigError, match=f"{path}: it is damaged; put a copy back, or delete it"):
        local_chain(tmp_path, "a").open()


def test_a_path_that_is_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite").mkdir()

    with pytest.raises(ConfigError, match="it cannot be opened"):
        local_chain(tmp_path, "a").open()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    signer = load_or_create_hotkey(tmp_path / "keys", "a")

    with pytest.raises(ConfigError, match="cannot make the folder of the chain file"):
        LocalChain(tmp_path / "file" / "chain.sqlite", signer, LocalChainConfig(), run=RUN).open()


def test_a_failed_opening_leaves_no_connection_and_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    path.write_bytes(b"not a database" * 100)
    chain = local_chain(tmp_path, "a")
    files = num_open_files()
    with pytest.raises(ConfigError) as caught:
        chain.open()
    # The error in `caught` keeps a connection that was forgotten from being collected.
    assert (caught.type, num_open_files()) == (ConfigError, files)

    path.unlink()

    joined(chain).close()


def test_a_pause_ends_when_the_file_is_closed(tmp_path: Path) -> None:
    database = Database(tmp_path / "any.sqlite")
    database.close()

    with pytest.raises(ChainError, match="closed while a thread waited"):
        database.pause(PATIENCE_S)


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("INSERT INTO big VALUES (zeroblob(1000000))", ChainError, "the disk is full; free some space"),
        ("DELETE FROM big", ConfigError, "it is read-only; make the file and its folder writable"),
        ("BEGIN IMMEDIATE", ChainError, "another process has kept it locked"),
    ],
)
def test_faults_of_the_disk_say_what_to_do(tmp_path: Path, statement: str, kind: type[Exception], words: str) -> None:
    path = tmp_path / "any.sqlite"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
        first.execute("CREATE TABLE big (content)")
        first.execute("PRAGMA max_page_count = 10")
        second = stack.enter_context(contextlib.closing(sqlite3.connect(path, timeout=0)))
        connection = first
        if "DELETE" in statement:
            first.execute("PRAGMA query_only = true")
        if "BEGIN" in statement:
            first.execute("BEGIN IMMEDIATE")
            connection = second

        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(statement)

    explained = explain(caught.value, path)
    assert isinstance(explained, kind)
    assert f"chain file {path}: {words}" in str(explained)


def test_a_fault_in_our_own_statement_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection, pytest.raises(sqlite3.Error) as caught:
        connection.execute("SELECT nonsense")

    assert explain(caught.value, tmp_path) is None


def test_who_does_not_send_is_registered_and_no_candidate(tmp_path: Path) -> None:
    clock = ManualTime()
    chains = {name: local_chain(tmp_path, name, WALL, clock) for name in ("miner", "aggregator")}
    for name, chain in chains.items():
        chain.open()
        chain.register(sends=name == "miner")
    clock.utc += WINDOW_S

    for chain in chains.values():
        assert [peer.uid for peer in chain.peers().values()] == [0, 1]
        assert list(chain.candidates(chain.window())) == [0]
        chain.close()


def test_who_sends_from_now_on_counts_from_the_next_window_on(tmp_path: Path) -> None:
    clock = ManualTime()
    chain = local_chain(tmp_path, "node", WALL, clock)
    chain.open()
    uid = chain.register(sends=False)
    clock.utc += 5 * WINDOW_S
    window = chain.window()

    assert chain.register() == uid
    clock.utc += WINDOW_S
    chain.register()

    assert not chain.candidates(window)
    assert list(chain.candidates(Window(window + 1))) == [uid]
    chain.close()


def test_a_hotkey_whose_payloads_count_cannot_stop_to_send(tmp_path: Path) -> None:
    chain = local_chain(tmp_path, "node", WALL)
    chain.open()
    chain.register()

    with pytest.raises(ConfigError, match=r"takes part in this run as a miner; .* --wallet\.hotkey"):
        chain.register(sends=False)

    chain.close()
