"""One window's round trip between nodes: what is sent is applied by all, and what fails is kept or said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from templar_pl.chain import LocalChain, LocalChainConfig, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig
from templar_pl.errors import ChainError, Fault, OutOfSyncError, PayloadError, StoreError
from templar_pl.exchange import LocalBuckets
from templar_pl.exchange.agreed import AgreedRecord
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.window_values import Identity, Limits, Outgoing, Training
from templar_pl.protocol.keys import payload_key
from templar_pl.units import Uid, Window

SHAPES = {"matrix": (20, 33), "vector": (7,)}
CONFIG = CompressionConfig(chunk_size=8, topk=4, momentum_decay=0.5)
DIGEST = bytes(range(32))
FIRST = Window(0)


@dataclass
class Node:
    """Everything one process has, in one place."""

    chain: LocalChain
    codec: MomentumCodec
    buckets: LocalBuckets
    round_trip: RoundTrip
    identity: Identity

    def train(self, seed: int) -> None:
        """Fold a made-up gradient into the momentum."""
        generator = torch.Generator().manual_seed(seed)
        self.codec.accumulate_(
            {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()},
            dict.fromkeys(SHAPES, 0.1),
        )

    def send(self, window: Window = FIRST) -> Outgoing:
        """Compress and publish."""
        training = Training(pages=bytes(32), fingerprint=bytes(32), loss=1.0, batches=1, tokens=10)
        return self.round_trip.put(self.round_trip.encode(window, training, self.codec.compress_()), is_open=True)

    def object_path(self, folder: Path, window: Window = FIRST) -> Path:
        """Return the file of the own payload."""
        address = self.chain.peers()[self.identity.uid].address
        return folder / "store" / address / payload_key("run", window, self.identity.uid)


def join(
    folder: Path,
    name: str,
    *,
    timeout_s: float = 5.0,
    patience_s: float = 0.2,
    max_peers: int = 15,
    config: CompressionConfig = CONFIG,
) -> Node:
    """Return a node that takes part in window 0."""
    signer = load_or_create_hotkey(folder / "hotkeys", name)
    chain = LocalChain(folder / "chain.sqlite", signer, LocalChainConfig(), run=DIGEST.hex())
    chain.open()
    identity = Identity("run", DIGEST, chain.register(), "", signer, verify)
    chain.commit(signer.hotkey)
    assert chain.agreement.join(FIRST) == FIRST
    codec = MomentumCodec(SHAPES, config, torch.device("cpu"))
    buckets = LocalBuckets(folder / "store", signer.hotkey)
    limits = Limits(timeout_s, patience_s, max_peers, keep_windows=100, check_interrupt=lambda: None)
    source = PayloadSource(codec, identity, buckets, limits)
    record = AgreedRecord(chain.agreement, identity, source, lambda _: chain.peers(), limits)
    round_trip = RoundTrip(codec, identity, buckets=buckets, record=record, source=source, timeout_s=timeout_s)
    return Node(chain, codec, buckets, round_trip, identity)


def momentum_of(node: Node) -> dict[str, torch.Tensor]:
    return {name: momentum.clone() for name, momentum in node.codec.momentum.items()}


def test_all_nodes_apply_what_all_nodes_sent(tmp_path: Path) -> None:
    nodes = [join(tmp_path, name) for name in ("alice", "bob")]
    for seed, node in enumerate(nodes):
        node.train(seed)

    sent = [node.send() for node in nodes]
    collected = [node.round_trip.record.collect(FIRST, own) for node, own in zip(nodes, sent, strict=True)]

    assert [list(c.payloads) for c in collected] == [[Uid(0), Uid(1)]] * 2
    updates = [node.round_trip.update(c) for node, c in zip(nodes, collected, strict=True)]
    expected = nodes[0].codec.update([own.payload.chunks for own in sent])
    for name in SHAPES:
        assert torch.equal(updates[0][name], expected[name])
        assert torch.equal(updates[1][name], expected[name])
        assert updates[0][name].abs().sum() > 0
    # The own payload is not downloaded again.
    assert [c.bytes_down for c in collected] == [len(sent[1].data), len(sent[0].data)]


def test_a_payload_has_the_announced_size(tmp_path: Path) -> None:
    node = join(tmp_path, "alice")
    node.train(0)

    own = node.send()

    assert len(own.data) == node.round_trip.payload_size == node.object_path(tmp_path).stat().st_size


@pytest.mark.parametrize("value_bits", [1, 2])
def test_compact_payloads_are_shorter_and_give_the_same_update(tmp_path: Path, value_bits: Literal[1, 2]) -> None:
    updates, sizes = [], []
    for coding in (CONFIG.index_coding, "compact"):
        config, folder = replace(CONFIG, index_coding=coding, value_bits=value_bits), tmp_path / coding
        nodes = [join(folder, name, config=config) for name in ("alice", "bob")]
        for seed, node in enumerate(nodes):
            node.train(seed)
        sent = [node.send() for node in nodes]
        collected = [node.round_trip.record.collect(FIRST, own) for node, own in zip(nodes, sent, strict=True)]
        updates += [node.round_trip.update(c) for node, c in zip(nodes, collected, strict=True)]
        # What is asked of peers is as long as what travels; any other size is refused before it is downloaded.
        assert {len(own.data) for own in sent} == {node.round_trip.payload_size for node in nodes}
        sizes.append(nodes[0].round_trip.payload_size)

    assert sizes[0] > sizes[1]
    assert all(torch.equal(updates[0][name], update[name]) for update in updates for name in SHAPES)


def test_more_payloads_than_the_run_takes_are_left_out_alike_by_all(tmp_path: Path) -> None:
    nodes = [join(tmp_path, name, max_peers=2) for name in ("alice", "bob", "carol")]
    for seed, node in enumerate(nodes):
        node.train(seed)
    sent = [node.send() for node in nodes]

    chosen = [list(n.round_trip.record.collect(FIRST, own).payloads) for n, own in zip(nodes, sent, strict=True)]

    assert len(chosen[0]) == 2
    assert chosen[0] == chosen[1] == chosen[2]


def test_a_put_that_fails_leaves_the_momentum_as_it_was(tmp_path: Path) -> None:
    node = join(tmp_path, "alice", timeout_s=0.1)
    node.train(0)
    before = momentum_of(node)
    # A file is where the folder of the bucket must be: no put can succeed.
    (tmp_path / "store").write_text("in the way")

    with pytest.raises(StoreError):
        node.send()

    assert all(torch.equal(before[name], node.codec.momentum[name]) for name in SHAPES)


def test_a_window_closed_without_this_node_leaves_the_momentum_as_it_was(tmp_path: Path) -> None:
    alice, bob = join(tmp_path, "alice"), join(tmp_path, "bob")
    bob.chain.agreement.leave()
    alice.train(0)
    alice.send()
    alice.round_trip.record.collect(FIRST, None)
    bob.train(1)
    before = momentum_of(bob)

    with pytest.raises(ChainError):
        bob.send()

    assert all(torch.equal(before[name], bob.codec.momentum[name]) for name in SHAPES)


def test_a_payload_of_an_earlier_life_stands_and_the_momentum_follows_it(tmp_path: Path) -> None:
    first_life = join(tmp_path, "alice")
    first_life.train(0)
    published = first_life.send()
    second_life = join(tmp_path, "alice")
    second_life.train(0)

    adopted = second_life.send()

    assert adopted.data == published.data  # although a new signature would be another one
    for name in SHAPES:
        assert torch.equal(first_life.codec.momentum[name], second_life.codec.momentum[name])


def test_if_it_says_something_else_than_now_the_momentum_gives_up_what_it_said(tmp_path: Path) -> None:
    first_life = join(tmp_path, "alice")
    first_life.train(0)
    published = first_life.send()
    second_life = join(tmp_path, "alice")
    second_life.train(99)
    expected = MomentumCodec(SHAPES, CONFIG, torch.device("cpu"))
    expected.load_state_dict(second_life.codec.state_dict())
    expected.subtract_(published.payload.chunks)

    adopted = second_life.send()

    assert adopted.data == published.data
    for name in SHAPES:
        assert torch.equal(expected.momentum[name], second_life.codec.momentum[name])


def test_a_foreign_object_in_the_place_of_the_payload_is_an_error_of_the_store(tmp_path: Path) -> None:
    node = join(tmp_path, "alice", timeout_s=0.1)
    node.train(0)
    before = momentum_of(node)
    node.buckets.own().put(payload_key("run", FIRST, node.identity.uid), bytes(node.round_trip.payload_size))

    with pytest.raises(StoreError, match="holds another payload"):
        node.send()

    assert all(torch.equal(before[name], node.codec.momentum[name]) for name in SHAPES)


def test_an_agreed_payload_that_is_gone_stops_the_node(tmp_path: Path) -> None:
    alice, bob = join(tmp_path, "alice", timeout_s=0.1), join(tmp_path, "bob")
    for seed, node in enumerate((alice, bob)):
        node.train(seed)
    own = alice.send()
    bob.send()
    bob.object_path(tmp_path).unlink()

    with pytest.raises(OutOfSyncError, match=r"1 agreed payload\(s\) cannot be had"):
        alice.round_trip.record.collect(FIRST, own)


def test_an_agreed_payload_that_was_changed_afterwards_stops_the_node(tmp_path: Path) -> None:
    alice, bob = join(tmp_path, "alice"), join(tmp_path, "bob")
    for seed, node in enumerate((alice, bob)):
        node.train(seed)
    own = alice.send()
    changed = bytearray(bob.send().data)
    changed[-1] ^= 1
    bob.object_path(tmp_path).write_bytes(changed)

    with pytest.raises(OutOfSyncError, match="sha256 is"):
        alice.round_trip.record.collect(FIRST, own)


def test_an_agreed_payload_that_is_malformed_is_skipped_with_its_reason(tmp_path: Path) -> None:
    alice, bob = join(tmp_path, "alice"), join(tmp_path, "bob")
    for seed, node in enumerate((alice, bob)):
        node.train(seed)
    own = alice.send()
    training = Training(bytes(32), bytes(32), 1.0, 1, 10)
    forged = bob.round_trip.encode(Window(5), training, bob.codec.compress_())  # of another window
    key = payload_key("run", FIRST, bob.identity.uid)
    bob.buckets.own().put(key, forged.data)
    bob.chain.agreement.announce(FIRST, hashlib.sha256(forged.data).digest())

    collected = alice.round_trip.record.collect(FIRST, own)

    assert list(collected.payloads) == [alice.identity.uid]
    error = collected.skipped[bob.identity.uid]
    assert isinstance(error, PayloadError)
    assert error.fault is Fault.WINDOW


def test_a_window_nobody_closes_is_given_up_after_a_while(tmp_path: Path) -> None:
    alice = join(tmp_path, "alice", timeout_s=0.1, patience_s=0.3)
    join(tmp_path, "bob")  # never sends
    alice.train(0)
    own = alice.send()

    with pytest.raises(OutOfSyncError, match=r"window 0 was not closed within 0\.3 s"):
        alice.round_trip.record.collect(FIRST, own)
