"""The aggregator: what it writes down of the windows of a run, and what it refuses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from templar_pl.chain import verify
from templar_pl.errors import ConfigError, Fault, OutOfSyncError, StoreError
from templar_pl.exchange import AggregatePublisher, publish_peer_list
from templar_pl.exchange.network_checkpoints import Source, Wanted, load_latest
from templar_pl.node_config import FollowConfig
from templar_pl.protocol import (
    HeldList,
    PeerListFile,
    aggregate_keys,
    manifest_keys,
    notice_keys,
    payload_key,
)
from templar_pl.protocol.keys import WindowKeys
from templar_pl.roles.aggregate import AggregateConfig, run_aggregate
from templar_pl.training import LocalNetwork, RecoveryConfig
from templar_pl.units import Uid, Window
from tests.roles.past_runs import CHAIN, DELTA_S, NUMBERS, PastRun, Tiny, WatchedNetwork, aggregator, replica
from tests.roles.published import caught_up, followed, manifests, run_file, standing
from tests.training.local import local_strategy, quiet_trainer


def test_what_landed_in_time_is_written_down_and_leads_everybody_to_the_same_parameters(
    past: PastRun, tmp_path: Path
) -> None:
    assert run_aggregate(aggregator(past.folder, 6)) == 0

    found = manifests(past, 6)
    assert [len(manifest.payloads) for manifest in found] == [0, 3, 3, 3, 3, 3]
    ends = [past.end_of(window) for window in range(6)]
    assert [(m.opened_at, m.closed_at) for m in found] == [(end, end + DELTA_S) for end in ends]
    joiner = caught_up(past, 6, tmp_path)
    assert joiner.applied == 6
    assert joiner.fingerprint() == followed(past, 6).fingerprint()


def test_the_run_file_names_the_run_and_its_first_parameters(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 1))

    found = run_file(past)
    assert (found.run, found.digest, found.netuid, found.start_window) == ("run", past.digest, 7, 0)
    assert found.blocks_per_window == NUMBERS.window.blocks_per_window
    assert found.checkpoint is not None
    assert found.checkpoint.key == "run/checkpoint/000000000/model.safetensors"


def test_whoever_is_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    past = PastRun(tmp_path, ["alice", "late", "early", "silent"])
    past.send("alice", 1)
    past.send("late", 1, after_s=DELTA_S + 0.5)
    past.send("early", 1, after_s=-1.5)

    run_aggregate(aggregator(tmp_path, 2))

    manifest = manifests(past, 2)[1]
    assert list(manifest.payloads) == [past.senders["alice"].uid]
    faults = {name: manifest.left_out[sender.uid].fault for name, sender in past.senders.items() if name != "alice"}
    assert faults == {"late": Fault.LATE, "early": Fault.EARLY, "silent": Fault.MISSING}
    assert "written 0.500 s after uploads" in manifest.left_out[past.senders["late"].uid].words


def test_a_forged_payload_is_left_out(tmp_path: Path) -> None:
    past = PastRun(tmp_path, ["alice", "bob"])
    past.send("alice", 1)
    taken = past.senders["alice"].bucket.get(payload_key("run", Window(1), Uid(0)), max_bytes=10**6)
    past.put("bob", payload_key("run", Window(1), past.senders["bob"].uid), taken, past.end_of(1) + 1)

    run_aggregate(aggregator(tmp_path, 2))

    assert manifests(past, 2)[1].left_out[past.senders["bob"].uid].fault is Fault.SENDER


def test_the_aggregator_itself_is_no_candidate(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 2))

    assert manifests(past, 2)[1].left_out == {}


def test_a_validators_lists_say_whose_payloads_count(past: PastRun) -> None:
    validator = past.join("validator", sends=False)
    for window, start, uids in ((0, 2, (0, 2)), (0, 4, (1, 77))):
        listed = PeerListFile(
            run="run", window=Window(window), effective_from=Window(start), uids=tuple(map(Uid, uids))
        )
        publish_peer_list(validator.bucket, listed, validator.signer)
        network = WatchedNetwork(past.folder, follow=FollowConfig(validator="validator"))
        run_aggregate(aggregator(past.folder, start + 2, network=network))

    assert [list(manifest.payloads) for manifest in manifests(past, 6)] == [[], [0, 1, 2], [0, 2], [0, 2], [1], [1]]
    assert all(not manifest.left_out for manifest in manifests(past, 6))


@pytest.mark.parametrize(("is_complete", "first"), [(True, [0, 1, 2]), (False, [0, 2])])
def test_windows_that_are_made_up_for_have_the_members_of_then(
    past: PastRun, is_complete: bool, first: list[int]
) -> None:
    validator = past.join("validator", sends=False)
    earlier = (HeldList(Window(0), ()), HeldList(Window(2), (Uid(0), Uid(2))))
    listed = PeerListFile(
        run="run",
        window=Window(0),
        effective_from=Window(4),
        uids=(Uid(1),),
        earlier=earlier if is_complete else earlier[1:],
    )
    publish_peer_list(validator.bucket, listed, validator.signer)

    network = WatchedNetwork(past.folder, follow=FollowConfig(validator="validator"))
    run_aggregate(aggregator(past.folder, 6, network=network))

    assert [list(manifest.payloads) for manifest in manifests(past, 6)[1:]] == [first, [0, 2], [0, 2], [1], [1]]


def test_a_list_of_nobody_is_no_list(past: PastRun) -> None:
    validator = past.join("validator", sends=False)
    nobody = PeerListFile(run="run", window=Window(0), effective_from=Window(1), uids=())
    publish_peer_list(validator.bucket, nobody, validator.signer)

    network = WatchedNetwork(past.folder, follow=FollowConfig(validator="validator"))
    run_aggregate(aggregator(past.folder, 2, network=network))

    assert list(manifests(past, 2)[1].payloads) == [0, 1, 2]


def test_a_list_that_cannot_be_read_leaves_all_who_sent(past: PastRun, caplog: pytest.LogCaptureFixture) -> None:
    validator = past.join("validator", sends=False)
    validator.bucket.put("run/peers.json", b"no list")

    network = WatchedNetwork(past.folder, follow=FollowConfig(validator="validator"))
    run_aggregate(aggregator(past.folder, 3, network=network))

    assert list(manifests(past, 3)[2].payloads) == [0, 1, 2]
    assert caplog.text.count("the list of peers cannot be read") == 1


def test_a_second_life_goes_on_where_the_first_one_ended(past: PastRun, tmp_path: Path) -> None:
    for windows in (2, 5, 5, 9):
        assert run_aggregate(aggregator(past.folder, windows)) == 0

    assert caught_up(past, 9, tmp_path).fingerprint() == followed(past, 9).fingerprint()


def test_a_manifest_that_stands_is_followed_to_the_letter(past: PastRun, tmp_path: Path) -> None:
    run_aggregate(aggregator(past.folder, 4))
    published = standing(past, 4, leave_out=Uid(1))

    run_aggregate(aggregator(past.folder, 6))

    assert manifests(past, 6)[4] == published
    assert len(manifests(past, 6)[5].payloads) == 3
    assert caught_up(past, 6, tmp_path).fingerprint() == followed(past, 6).fingerprint()


def test_an_aggregate_that_a_checkpoint_overtook_is_made_again(past: PastRun, tmp_path: Path) -> None:
    run_aggregate(aggregator(past.folder, 3))  # with a checkpoint behind the last window
    past.bucket().delete([keys("run").key(Window(2)) for keys in (notice_keys, aggregate_keys)])

    run_aggregate(aggregator(past.folder, 3))

    caught_up(past, 3, tmp_path)


def test_an_own_aggregate_that_was_changed_is_replaced_by_the_payloads(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 5))
    past.bucket().put(aggregate_keys("run").key(Window(4)), b"something else")

    run_aggregate(aggregator(past.folder, 6))

    assert replica_after(past, 6) == followed(past, 6).fingerprint()


def replica_after(past: PastRun, windows: int) -> bytes:
    return manifests(past, windows)[-1].after


def test_checkpoints_of_the_network_come_every_so_many_windows(past: PastRun, tmp_path: Path) -> None:
    run_aggregate(aggregator(past.folder, 7))

    joiner = replica(seed=1)
    source = Source("aggregator", past.signer().public_key, past.bucket())
    wanted = Wanted("run", past.digest, Window(0), joiner.state, verify)
    fetched = load_latest(source, wanted, tmp_path / "fetched")
    assert (fetched.checkpoint.window, fetched.checkpoint.applied) == (6, 6)
    assert joiner.fingerprint() == manifests(past, 7)[6].before
    assert joiner.learning_rate == manifests(past, 7)[6].learning_rate


def test_what_no_checkpoint_needs_is_deleted_and_nothing_else(past: PastRun) -> None:
    config = AggregateConfig(keep_windows=3, keep_checkpoints=1)
    options = {"aggregate": config, "windows": 8, "netuid": 7}

    run_aggregate(aggregator(past.folder, 8, options=options))

    # The checkpoint of window 6 is the newest; the three windows before it stay, and all after it.
    kinds = {"manifest": manifest_keys("run"), "aggregate": aggregate_keys("run"), "notice": notice_keys("run")}
    stay = {
        kind: [window for key in past.bucket().list(keys.prefix) if (window := keys.window_of(key)) is not None]
        for kind, keys in kinds.items()
    }
    assert stay == {kind: [3, 4, 5, 6, 7] for kind in kinds}
    checkpoints = {key.split("/")[2] for key in past.bucket().list("run/checkpoint/")}
    assert checkpoints == {"000000000", "000000006", "latest.json"}


def test_checkpoints_that_cannot_be_deleted_hold_nothing_else_up(past: PastRun) -> None:
    def fail(name: str, key: str) -> None:
        if name == "delete" and "/checkpoint/" in key:
            raise StoreError("403 Forbidden")

    options = {"aggregate": AggregateConfig(keep_windows=3, keep_checkpoints=1), "windows": 8, "netuid": 7}
    run_aggregate(aggregator(past.folder, 8, options=options, network=WatchedNetwork(past.folder, before=fail)))

    keys = manifest_keys("run")
    assert [keys.window_of(key) for key in past.bucket().list(keys.prefix)] == [3, 4, 5, 6, 7]
    assert {key.split("/")[2] for key in past.bucket().list("run/checkpoint/")} >= {"000000003", "000000006"}


def test_a_manifest_that_was_published_and_deleted_is_not_written_anew(past: PastRun) -> None:
    options = {"aggregate": AggregateConfig(keep_windows=3, keep_checkpoints=1), "windows": 8, "netuid": 7}
    run_aggregate(aggregator(past.folder, 8, options=options))
    bucket, keys = past.bucket(), manifest_keys("run")
    left = list(bucket.list(keys.prefix))
    bucket.delete(list(bucket.list("run/checkpoint/000000006/")))  # so that of the start is the newest

    with pytest.raises(OutOfSyncError, match="window 0: its manifest was published, since that of window 7 is there"):
        run_aggregate(aggregator(past.folder, 9, options=options | {"windows": 9}))

    assert list(bucket.list(keys.prefix)) == left
    assert keys.key(Window(0)) not in left


@pytest.mark.parametrize("left", [notice_keys, aggregate_keys])
def test_the_newest_manifest_is_not_written_anew_either(past: PastRun, left: Callable[[str], WindowKeys]) -> None:
    run_aggregate(aggregator(past.folder, 8))  # the newest checkpoint is that before window 6
    (gone,) = {notice_keys, aggregate_keys} - {left}
    past.bucket().delete([keys("run").key(Window(7)) for keys in (manifest_keys, gone)])

    with pytest.raises(OutOfSyncError, match=r"window 7: its manifest was published, .* or its aggregate"):
        run_aggregate(aggregator(past.folder, 8))

    assert manifest_keys("run").key(Window(7)) not in list(past.bucket().list("run/manifest/"))


def test_a_damaged_manifest_is_not_to_be_deleted(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 8))
    past.bucket().put(manifest_keys("run").key(Window(7)), b"damaged")

    with pytest.raises(ConfigError, match=r"restore it, or begin another --store\.run") as caught:
        run_aggregate(aggregator(past.folder, 8))

    assert "delete" not in str(caught.value)


def test_fewer_windows_than_the_checkpoints_reach_back_are_refused(tmp_path: Path) -> None:
    options = {"aggregate": AggregateConfig(keep_windows=5, keep_checkpoints=2), "windows": 1, "netuid": 7}

    with pytest.raises(ConfigError, match=r"keep_windows must be at least 6, keep_checkpoints \(2\) times"):
        run_aggregate(aggregator(tmp_path, 1, options=options))


def test_a_store_that_fails_for_a_while_costs_no_window(past: PastRun, caplog: pytest.LogCaptureFixture) -> None:
    left = Counter({"put_once run/manifest/000000002.json": 1, "put_file run/aggregate/000000001.bin": 1})

    def fail(name: str, key: str) -> None:
        if left[f"{name} {key}"] > 0:
            left[f"{name} {key}"] -= 1
            raise StoreError("503 Slow Down")

    run_aggregate(aggregator(past.folder, 4, network=WatchedNetwork(past.folder, before=fail)))

    assert sum(left.values()) == 0
    assert len(manifests(past, 4)) == 4
    assert "the aggregate of window 1 cannot be put, trying again: 503 Slow Down" in caplog.text


def test_an_aggregate_that_cannot_be_put_for_long_stops_the_aggregator(past: PastRun) -> None:
    def fail(name: str, key: str) -> None:
        if name == "put_file" and "/aggregate/" in key:
            raise StoreError("403 Forbidden")

    node = aggregator(
        past.folder,
        9,
        network=WatchedNetwork(past.folder, before=fail),
        recovery=RecoveryConfig(patience_s=0.1),
    )

    with pytest.raises(StoreError, match="403 Forbidden"):
        run_aggregate(node)


def test_another_process_with_the_same_hotkey_is_noticed(past: PastRun) -> None:
    def put_another(name: str, key: str) -> None:
        if (name, key) == ("put_once", manifest_keys("run").key(Window(2))):
            standing(past, 2, leave_out=Uid(1))

    node = aggregator(past.folder, 4, network=WatchedNetwork(past.folder, before=put_another))

    with pytest.raises(ConfigError, match="another process runs with this hotkey"):
        run_aggregate(node)

    assert run_aggregate(aggregator(past.folder, 4)) == 0
    assert len(manifests(past, 4)[2].payloads) == 2


def test_two_processes_of_one_machine_are_refused(past: PastRun) -> None:
    connection = past.network().open(past.digest, NUMBERS.window, sends=False)
    try:
        with pytest.raises(ConfigError, match="another process runs as hotkey 'aggregator'"):
            run_aggregate(aggregator(past.folder, 1))
    finally:
        connection.close()


def test_a_window_whose_payloads_are_gone_stops_the_aggregator(past: PastRun) -> None:
    numbers = replace(NUMBERS, window=replace(NUMBERS.window, stale_retention=4))

    with pytest.raises(OutOfSyncError, match="window 1: payloads are kept for 4 windows"):
        run_aggregate(aggregator(past.folder, 9, hparams=numbers))


def test_a_payload_that_a_manifest_lists_and_nobody_has_stops_the_aggregator(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 4))
    standing(past, 4, leave_out=Uid(1))
    past.senders["carol"].bucket.delete([payload_key("run", Window(4), past.senders["carol"].uid)])
    numbers = replace(NUMBERS, window=replace(NUMBERS.window, gather_timeout_seconds=4.5))

    with pytest.raises(OutOfSyncError, match=r"window 4: its aggregate is missing.*000000004/2\.bin"):
        run_aggregate(aggregator(past.folder, 6, hparams=numbers))


def test_parameters_that_are_not_those_of_the_manifests_stop_the_aggregator(past: PastRun) -> None:
    run_aggregate(aggregator(past.folder, 2))
    source = past.source()
    [latest] = [source.fetch_manifest(Window(1))]
    wrong = dict.fromkeys(past.shapes, 1.0)
    past.bucket().delete([notice_keys("run").key(Window(1))])
    publisher = AggregatePublisher(past.bucket(), "run", past.folder, past.signer(), verify)
    update = [(name, torch.full(past.shapes[name], value)) for name, value in sorted(wrong.items())]
    publisher.publish_aggregate(latest, update, past.shapes)

    with pytest.raises(OutOfSyncError, match="window 2: the parameters after all that was published are"):
        run_aggregate(aggregator(past.folder, 3))


def test_a_chain_that_writes_windows_down_itself_is_refused(tmp_path: Path) -> None:
    network = LocalNetwork(str(tmp_path), "run", "aggregator", replace(CHAIN, record_windows=True))

    with pytest.raises(ConfigError, match=r"--chain\.record_windows false"):
        run_aggregate(aggregator(tmp_path, 1, network=network))


def test_a_run_of_64_bit_parameters_is_that_of_a_fit(tmp_path: Path) -> None:
    class Fitted(Tiny):
        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            return self.net(batch[0]).square().mean()

    settings = {"compression": NUMBERS.compression, "peers": NUMBERS.peers, "settings_digest": b"settings"}
    strategy = local_strategy(tmp_path / "fit", **settings)
    rows = DataLoader(TensorDataset(torch.ones(4, 13)))
    quiet_trainer(strategy, 1, precision="64-true").fit(Fitted(), rows)
    past = PastRun(tmp_path / "past", precision="64-true")
    past.send_all(5)

    run_aggregate(aggregator(past.folder, 5, precision="64-true"))

    assert strategy.session is not None
    assert run_file(past).digest == strategy.session.run.digest
    assert [len(manifest.payloads) for manifest in manifests(past, 5)] == [0, 3, 3, 3, 3]
    joiner = caught_up(past, 5, tmp_path)
    assert joiner.fingerprint() == followed(past, 5).fingerprint()
    assert {parameter.dtype for parameter in joiner.parameters.values()} == {torch.float64}


def test_the_log_says_what_each_window_was(past: PastRun, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_aggregate(aggregator(past.folder, 2))

    assert "window 1: 3 payload(s) | manifest out " in caplog.text
