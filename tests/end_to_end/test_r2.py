"""Nodes with a bucket each on a real S3 server end with the same bits, and need no right but to read the others'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from templar_pl.exchange import credentials as names
from tests.end_to_end.node import ROOT, Node, differing
from tests.servers.nodes import credentials, node_buckets
from tests.servers.seaweed import S3Server, seaweed

MINERS = ("alice", "bob", "carol")
R2 = f"--config={ROOT / 'configs' / 'r2.yaml'}"


def variables(name: str, endpoint_url: str) -> dict[str, str]:
    """Return the environment of a node."""
    own = credentials(name, endpoint_url)
    return {
        names.ACCOUNT_ID: own.address.account,
        names.ENDPOINT_URL: endpoint_url,
        names.WRITE_KEY_ID: own.write_key.key_id,
        names.WRITE_SECRET: own.write_key.secret.reveal(),
        names.READ_KEY_ID: own.address.key.key_id,
        names.READ_SECRET: own.address.key.secret.reveal(),
    }


def start(folder: Path, name: str, server: S3Server, arguments: Sequence[str]) -> Node:
    return Node(folder, name, arguments, variables=variables(name, server.endpoint_url))


def test_three_miners_with_a_bucket_each_are_equal_after_ten_windows(tmp_path: Path) -> None:
    arguments = [R2, "--chain.min_miners=3", "--trainer.max_epochs=10", "--window.stale_retention=4"]
    arguments += ["--recovery.debug_windows=2"]
    with seaweed(MINERS, MINERS) as server:
        nodes = [start(tmp_path, name, server, arguments) for name in MINERS]
        for node in nodes:
            node.succeed()
        kept = {name: list(node_buckets(name, server.endpoint_url).own().list("")) for name in MINERS}

    alice, bob, carol = (node.checkpoint() for node in nodes)
    assert alice["epoch"] == bob["epoch"] == carol["epoch"] == 10
    assert not differing(alice["state_dict"], bob["state_dict"])
    assert not differing(alice["state_dict"], carol["state_dict"])
    assert all("peers 3/3" in node.text() for node in nodes)
    # Each wrote to its own bucket only, and took away what is too old.
    for keys in kept.values():
        kinds = [key.split("/")[1] for key in keys]
        assert 1 <= kinds.count("payload") <= 5
        assert 1 <= kinds.count("debug") <= 3
    assert len({key.rpartition("/")[2] for keys in kept.values() for key in keys}) == 6


def test_payloads_that_leave_while_they_are_compressed_train_two_miners_alike(tmp_path: Path) -> None:
    # Many small chunks: a payload of 1.6 MiB, which is sent part by part.
    arguments = [R2, "--chain.min_miners=2", "--trainer.max_epochs=3", "--compression.chunk_size=8"]
    arguments += ["--compression.topk=32", "--llama.hidden_size=256", "--llama.num_attention_heads=4"]
    arguments += ["--llama.num_key_value_heads=4", "--llama.intermediate_size=1024", "--llama.num_hidden_layers=6"]
    with seaweed(MINERS[:2], MINERS[:2]) as server:
        nodes = [start(tmp_path, name, server, arguments) for name in MINERS[:2]]
        for node in nodes:
            node.succeed()

    alice, bob = (node.checkpoint() for node in nodes)
    assert alice["epoch"] == bob["epoch"] == 3
    assert not differing(alice["state_dict"], bob["state_dict"])
    assert nodes[0].text().count("peers 2/2 | up 1.6 MiB, down 1.6 MiB") == 3


def test_without_a_record_of_windows_what_landed_in_time_is_applied_by_all(tmp_path: Path) -> None:
    arguments = [R2, "--chain.pace=wall", "--chain.record_windows=false", "--chain.seconds_per_block=1"]
    arguments += ["--window.blocks_per_window=2", "--window.time_window_delta_seconds=1", "--trainer.max_epochs=30"]
    with seaweed(MINERS, MINERS) as server:
        nodes = [start(tmp_path, name, server, arguments) for name in MINERS[:2]]
        nodes[0].wait_for("window 3:")
        nodes.append(start(tmp_path, MINERS[2], server, arguments))  # replays what it missed
        for node in nodes:
            node.succeed()

    alice, bob, carol = (node.checkpoint() for node in nodes)
    assert alice["epoch"] == bob["epoch"] == carol["epoch"] == 30
    assert not differing(alice["state_dict"], bob["state_dict"])
    assert not differing(alice["state_dict"], carol["state_dict"])
    assert "caught up from" in nodes[2].text()
    assert "peers 3/3" in nodes[0].text()


def test_nothing_a_run_leaves_behind_holds_a_key(tmp_path: Path) -> None:
    """Logs of all libraries, metrics, saved settings, checkpoints, the chain and the process itself are searched."""
    arguments = [R2, "--trace", "--trainer.max_epochs=3", "--window.checkpoint_frequency=1"]
    arguments += ["--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path / 'tb'}"]
    own = credentials("alice", "")
    read_secret, write_secret = (key.secret.reveal().encode() for key in (own.address.key, own.write_key))
    with seaweed(["alice"], ["alice"]) as server:
        node = start(tmp_path, "alice", server, arguments)
        node.wait_for("window 0:")
        title = Path(f"/proc/{node.process.pid}/cmdline").read_bytes()
        node.succeed()
    refused = Node(tmp_path, "alice", arguments, variables=variables("alice", "http://127.0.0.1:9"))
    assert refused.finish() != 0

    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {".log", ".ckpt", ".yaml", ".sqlite"} <= {path.suffix for path in left}
    assert "templar_pl" in title.decode()
    assert "cannot" in refused.text()
    assert [path for path, data in left.items() if write_secret in data] == []
    assert write_secret not in title
    assert read_secret not in title
    # The chain is where the key that may only read is published.
    assert {path.name.partition("-")[0] for path, data in left.items() if read_secret in data} == {"chain.sqlite"}
