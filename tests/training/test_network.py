"""Settings under which nodes could not agree are refused before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from templar_pl import LocalNetwork
from templar_pl.chain import LocalChainConfig, hotkey_of, load_or_create_hotkey
from templar_pl.config import WindowConfig
from templar_pl.errors import ConfigError
from templar_pl.node_config import FollowConfig
from templar_pl.protocol import manifest_keys
from templar_pl.units import Window


def test_a_gather_that_ends_before_uploads_are_over_is_refused_where_nobody_records_windows(tmp_path: Path) -> None:
    chain = LocalChainConfig(pace="wall", seconds_per_block=1.0, record_windows=False)
    window = WindowConfig(time_window_delta_seconds=1.0, gather_timeout_seconds=3.4)

    with pytest.raises(ConfigError, match=r"gather_timeout_seconds must be at least 3\.5"):
        LocalNetwork(str(tmp_path), chain=chain).open(bytes(32), window)

    assert not list(tmp_path.iterdir())


def test_where_windows_are_recorded_a_gather_may_be_short(tmp_path: Path) -> None:
    chain = LocalChainConfig(pace="wall", seconds_per_block=1.0)
    window = WindowConfig(time_window_delta_seconds=1.0, gather_timeout_seconds=3.4)

    LocalNetwork(str(tmp_path), chain=chain).open(bytes(32), window).close()


@pytest.mark.parametrize(
    ("window_s", "records", "warns"), [(3.4, False, True), (3.4, True, False), (4.0, False, False)]
)
def test_windows_too_short_to_come_back_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, window_s: float, records: bool, warns: bool
) -> None:
    chain = LocalChainConfig(pace="wall", seconds_per_block=window_s, record_windows=records)
    window = WindowConfig(blocks_per_window=1, time_window_delta_seconds=1.0, gather_timeout_seconds=4.0)

    LocalNetwork(str(tmp_path), chain=chain).open(bytes(32), window).close()

    assert ("windows of 3.4 s are short: one may be known only 3.5 s after its end" in caplog.text) is warns


def test_who_is_followed_is_named_by_its_address_or_by_a_key_of_this_machine(tmp_path: Path) -> None:
    keys = tmp_path / "hotkeys"
    aggregator, validator = (load_or_create_hotkey(keys, name).hotkey for name in ("writer", "judge"))
    follow = FollowConfig(aggregator="writer", validator=validator, wait_s=7.0)

    connection = LocalNetwork(str(tmp_path), follow=follow).open(bytes(32), WindowConfig())

    assert (connection.aggregator, connection.validator) == (aggregator, validator)
    assert connection.manifest_wait_s == 7.0
    connection.close()


def test_nobody_is_followed_on_a_local_chain_unless_it_is_named(tmp_path: Path) -> None:
    connection = LocalNetwork(str(tmp_path)).open(bytes(32), WindowConfig())

    assert (connection.aggregator, connection.validator) == (None, None)
    connection.close()


def test_a_node_may_follow_itself_before_it_has_a_key(tmp_path: Path) -> None:
    network = LocalNetwork(str(tmp_path), hotkey="writer", follow=FollowConfig(aggregator="writer"))
    network.look(bytes(32), WindowConfig())

    connection = network.open(bytes(32), WindowConfig(), sends=False)

    assert connection.aggregator == connection.hotkey
    connection.close()


@pytest.mark.parametrize("follow", [{"aggregator": "writer"}, {"validator": "writer"}])
def test_a_name_without_a_key_is_refused_with_what_to_do(tmp_path: Path, follow: dict[str, Any]) -> None:
    load_or_create_hotkey(tmp_path / "hotkeys", "miner")
    network = LocalNetwork(str(tmp_path), follow=FollowConfig(**follow))

    for join in (network.open, network.look):
        with pytest.raises(
            ConfigError, match=rf"follow\.{next(iter(follow))} is 'writer', .* in {tmp_path}/hotkeys: start that node"
        ):
            join(bytes(32), WindowConfig())


@pytest.mark.parametrize(
    "wrong", [{"aggregator": "../key"}, {"validator": ""}, {"wait_s": -1.0}, {"wait_s": float("nan")}, {"wait_s": True}]
)
def test_a_setting_of_following_that_is_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"follow\.{next(iter(wrong))} must be"):
        FollowConfig(**wrong)


def test_an_address_is_read_whatever_network_it_is_written_for() -> None:
    hotkey = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
    elsewhere = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"

    assert hotkey_of(hotkey) == hotkey_of(elsewhere) == hotkey
    assert hotkey_of(hotkey[:-1] + "X") is None


def test_an_outsider_sees_a_run_without_a_key_and_without_a_trace(tmp_path: Path) -> None:
    chain = LocalChainConfig(pace="wall", record_windows=False)
    writer = LocalNetwork(str(tmp_path), hotkey="writer", chain=chain).open(bytes(32), WindowConfig(), sends=False)
    key = manifest_keys(writer.run).key(Window(0))
    writer.buckets.own().put(key, b"manifest")
    writer.close()
    before = sorted(tmp_path.rglob("*"))

    view = LocalNetwork(str(tmp_path), hotkey="nobody").view(bytes(32), WindowConfig())

    assert view.aggregator == view.register(Window(0))[writer.uid]
    assert (view.run, view.validator, view.start_window) == (writer.run, None, 0)
    assert view.buckets.of(view.aggregator.address).get(key, max_bytes=9) == b"manifest"
    assert sorted(tmp_path.rglob("*")) == before


def test_an_aggregator_must_be_named_unless_one_node_alone_has_manifests(tmp_path: Path) -> None:
    connections = [LocalNetwork(str(tmp_path), hotkey=name).open(bytes(32), WindowConfig()) for name in ("one", "two")]
    outside = LocalNetwork(str(tmp_path))
    with pytest.raises(ConfigError, match="manifests are published by no node of this run: name one"):
        outside.view(bytes(32), WindowConfig())
    for connection in connections:
        connection.buckets.own().put(manifest_keys(connection.run).key(Window(0)), b"")
        connection.close()

    with pytest.raises(ConfigError, match=r"name one aggregator by --follow\.aggregator"):
        outside.view(bytes(32), WindowConfig())
    named = LocalNetwork(str(tmp_path), follow=FollowConfig(aggregator="two", validator="one"))
    view = named.view(bytes(32), WindowConfig())

    assert view.aggregator.hotkey == connections[1].hotkey
    assert view.validator is not None
    assert view.validator.hotkey == connections[0].hotkey


def test_whoever_is_named_must_be_in_the_run(tmp_path: Path) -> None:
    load_or_create_hotkey(tmp_path / "hotkeys", "stranger")
    LocalNetwork(str(tmp_path), hotkey="one").open(bytes(32), WindowConfig()).close()

    with pytest.raises(ConfigError, match="is not registered in this run"):
        LocalNetwork(str(tmp_path), follow=FollowConfig(aggregator="stranger")).view(bytes(32), WindowConfig())


WALL = LocalChainConfig(pace="wall", seconds_per_block=1000.0, record_windows=False)
WINDOW = WindowConfig(blocks_per_window=1, time_window_delta_seconds=2.0, gather_timeout_seconds=5.0)


def test_a_founded_run_waits_in_window_0_and_has_uids_in_the_order_of_the_names(tmp_path: Path) -> None:
    nodes = {"one": True, "two": True, "writer": False, "later": None}
    network = LocalNetwork(str(tmp_path), chain=WALL)

    view = network.found(bytes(32), WINDOW, nodes=nodes, wait_s=5000.0)

    uids = {peer.hotkey: uid for uid, peer in view.chain.peers().items()}
    assert [uids.get(view.hotkeys[name]) for name in nodes] == [0, 1, 2, None]
    assert list(view.chain.candidates(Window(1))) == [0, 1]
    assert view.chain.window() == 0
    assert 5990.0 < view.chain.seconds_left(Window(0)) <= 6000.0
    view.chain.close()


def test_a_node_joins_a_founded_run_as_who_it_was_registered_and_whoever_looks_on_sees_its_bucket(
    tmp_path: Path,
) -> None:
    view = LocalNetwork(str(tmp_path), chain=WALL).found(
        bytes(32), WINDOW, nodes={"one": True, "two": True}, wait_s=100.0
    )

    connection = LocalNetwork(str(tmp_path), hotkey="two", chain=WALL).open(bytes(32), WINDOW)
    connection.buckets.own().put(f"{connection.run}/note", b"words")

    address = view.chain.peers()[connection.uid].address
    assert (connection.uid, connection.run, connection.hotkey) == (1, view.run, view.hotkeys["two"])
    assert view.buckets.of(address).get(f"{view.run}/note", max_bytes=10) == b"words"
    connection.close()
    view.chain.close()


def test_a_run_is_founded_once_and_only_where_windows_end_by_the_clock(tmp_path: Path) -> None:
    network = LocalNetwork(str(tmp_path), chain=WALL)
    network.found(bytes(32), WINDOW, nodes={"one": True}, wait_s=1.0).chain.close()

    with pytest.raises(ConfigError, match="is there already: name another folder"):
        network.found(bytes(32), WINDOW, nodes={"one": True}, wait_s=1.0)
    with pytest.raises(ConfigError, match=r"needs chain\.pace wall"):
        LocalNetwork(str(tmp_path), "other").found(bytes(32), WINDOW, nodes={"one": True}, wait_s=1.0)
