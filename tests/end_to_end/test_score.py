"""A validator and miners as processes: it judges what they really sent, also after it was killed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from templar_pl.chain import LocalChain, LocalChainConfig, load_or_create_hotkey, verify
from templar_pl.exchange import LocalBuckets, fetch_peer_list, fetch_score_record
from templar_pl.protocol import EvaluationNote, Peer
from templar_pl.units import Uid, Window
from tests.chain.nodes import wait_until
from tests.end_to_end.node import ROOT, START_TIMEOUT_S, TINY, Node

CLOCK = (
    "--chain.pace=wall", "--chain.record_windows=false", "--chain.seconds_per_block=1", "--window.blocks_per_window=3",
    "--window.time_window_delta_seconds=1.5", "--window.gather_timeout_seconds=4", "--window.checkpoint_frequency=2",
    "--scoring.windows_per_weights=2", "--scoring.validator_sample_rate=1",
)  # fmt: skip


def validator(folder: Path, windows: int) -> Node:
    config = str(ROOT / "configs" / "validator.yaml")
    return Node(folder, "validator", ["--config", config, *TINY, *CLOCK, f"--windows={windows}"], command="score")


def last_judged(folder: Path) -> int:
    states = list(folder.glob("runs/*/*/nodes/validator/score/state.json"))
    return json.loads(states[0].read_text())["scoring"]["window"] if states else -1


def open_chain(folder: Path) -> LocalChain:
    config = LocalChainConfig(pace="wall", record_windows=False, seconds_per_block=1, blocks_per_window=3, delta_s=1.5)
    file = next(folder.glob("runs/*/*/chain.sqlite"))
    signer = load_or_create_hotkey(next(folder.glob("runs/*/hotkeys")), "validator")
    settings = _run_of(file)
    chain = LocalChain(file, signer, config, run=settings)
    chain.open()
    return chain


def _run_of(file: Path) -> str:
    with sqlite3.connect(file) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE name = 'run'").fetchone()[0])


def test_a_validator_judges_real_miners_and_goes_on_after_kill_9(tmp_path: Path) -> None:
    miners = [Node(tmp_path, name, [*CLOCK, "--trainer.max_epochs=-1"]) for name in ("alice", "bob")]
    try:
        for miner in miners:
            miner.wait_for("window 2:")
        first = validator(tmp_path, windows=1000)
        wait_until(lambda: last_judged(tmp_path) >= 3, START_TIMEOUT_S)
        first.kill()
        killed_after = last_judged(tmp_path)
        later = validator(tmp_path, windows=3)
        later.succeed()
    finally:
        for miner in miners:
            miner.kill()

    last = last_judged(tmp_path)
    assert last == killed_after + 3
    assert f"window {killed_after} was the last that was judged" in later.text()
    chain = open_chain(tmp_path)
    hotkey = load_or_create_hotkey(next(tmp_path.glob("runs/*/hotkeys")), "validator")
    me = next(peer for peer in chain.peers().values() if peer.hotkey == hotkey.hotkey)
    published = published_windows(tmp_path, me)
    assert published == list(range(published[0], last + 1))
    assert published[0] <= killed_after
    check(tmp_path, chain, me, published)
    chain.close()


def published_windows(folder: Path, me: Peer) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob(f"runs/*/*/store-*/{me.address}/*/scores/*.json"))


def check(folder: Path, chain: LocalChain, me: Peer, windows: list[int]) -> None:
    store = next(folder.glob("runs/*/*/store-*"))
    buckets, run = LocalBuckets(store, "reader"), store.parent.name
    sending = set(chain.candidates(Window(windows[-1])))
    evaluated = 0
    for window in map(Window, windows):
        record = fetch_score_record(buckets, me, run, window, verify)
        assert set(record.miners) == sending
        assert me.uid not in sending
        present = [miner for miner in record.miners.values() if miner.fault is None]
        assert {miner.steps_behind for miner in present} <= {0.0, None}
        if isinstance(record.evaluation, EvaluationNote):
            evaluated += 1
            assert set(record.evaluation.losses) == {uid for uid, miner in record.miners.items() if miner.fault is None}
    assert evaluated >= 2
    assert set(fetch_peer_list(buckets, me, run, verify).uids) <= sending
    assert set(chain.weights().get(me.uid, {})) <= {Uid(uid) for uid in sending}
    assert list(store.glob(f"{me.address}/{run}/checkpoint/*/checkpoint.json"))
