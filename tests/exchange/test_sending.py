"""A payload whose first parts leave while later ones are compressed is the payload that is sent whole."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig
from templar_pl.errors import StoreError
from templar_pl.exchange.agreed import AgreedRecord
from templar_pl.exchange.growing import GrowingBody
from templar_pl.exchange.r2_options import R2Options
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.round_trip import MIN_STREAMED_BYTES, RoundTrip
from templar_pl.exchange.sending import Sending
from templar_pl.exchange.store import Buckets
from templar_pl.exchange.window_values import Identity, Limits, Outgoing, Training
from templar_pl.protocol.agreement import Settlement
from templar_pl.protocol.header import Header
from templar_pl.protocol.keys import payload_key
from templar_pl.units import Uid, Window
from tests.exchange.fakes import MemoryBuckets, MemoryDisk
from tests.servers.nodes import IMPATIENT, bucket_at, empty, node_buckets
from tests.servers.proxy import error, first, passed_on, proxy
from tests.servers.seaweed import S3Server

# Many small chunks of which much is sent: a payload worth streaming from few parameters.
SHAPES = {"a": (1024, 1024), "b": (17,), "c": (2048, 1024), "d": (1024, 1024)}
CONFIG = CompressionConfig(chunk_size=8, topk=32)
LR = dict.fromkeys(SHAPES, 1.0)
FIRST = Window(0)
KEY = payload_key("run", FIRST, Uid(0))
TRAINING = Training(bytes(32), bytes(32), loss=1.0, batches=1, tokens=10)


class Announced:
    """An agreement that only hears."""

    def __init__(self) -> None:
        self.hashes: list[bytes | None] = []

    def join(self, window: Window) -> Window:
        return window

    def announce(self, window: Window, sha256: bytes | None) -> None:
        self.hashes.append(sha256)

    def settle(self, window: Window, timeout_s: float) -> Settlement:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError


class Node:
    def __init__(self, folder: Path, buckets: Buckets, timeout_s: float = 60.0) -> None:
        signer = load_or_create_hotkey(folder, "me")
        identity = Identity("run", bytes(32), Uid(0), "", signer, verify)
        self.codec = MomentumCodec(SHAPES, CONFIG, torch.device("cpu"))
        limits = Limits(timeout_s, 1.0, max_peers=15, keep_windows=10, check_interrupt=lambda: None)
        self.source = PayloadSource(self.codec, identity, buckets, limits)
        self.public_key, self.agreement = signer.public_key, Announced()
        record = AgreedRecord(self.agreement, identity, self.source, lambda _: {}, limits)
        self.round_trip = RoundTrip(
            self.codec, identity, buckets=buckets, record=record, source=self.source, timeout_s=timeout_s
        )

    def send(self, seed: int = 0) -> Outgoing:
        outgoing, sending = self.round_trip.compress_(FIRST, TRAINING, gradients(seed), LR, may_upload=True)
        return self.round_trip.put(outgoing, is_open=True, sending=sending)


def gradients(seed: int = 0) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture(params=["moto", "seaweed"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "moto":
        return request.getfixturevalue("upstream")
    server: S3Server = request.getfixturevalue("seaweed_server")
    empty(server.endpoint_url)
    return server.endpoint_url


def test_what_arrives_is_a_payload_that_says_what_the_momentum_gave_up(url: str, tmp_path: Path) -> None:
    node, whole = Node(tmp_path, node_buckets("me", url)), Node(tmp_path, MemoryBuckets(MemoryDisk(), "me"))
    assert node.round_trip.payload_size > MIN_STREAMED_BYTES

    sent, expected = node.send(), whole.send()

    stored = bucket_at(url).get(KEY, max_bytes=len(sent.data))
    assert stored == sent.data
    payload = node.source.decode(Uid(0), node.public_key, FIRST, stored)
    assert payload.header == expected.payload.header
    assert all(payload.chunks[name].says_what(expected.payload.chunks[name]) for name in SHAPES)
    assert all(torch.equal(node.codec.momentum[name], whole.codec.momentum[name]) for name in SHAPES)
    assert node.agreement.hashes == [sent.sha256]


def test_parts_are_on_their_way_before_the_payload_is_signed(tmp_path: Path) -> None:
    signer = load_or_create_hotkey(tmp_path, "me")
    header = Header(
        run=bytes(32),
        window=FIRST,
        uid=Uid(0),
        public_key=signer.public_key,
        pages=bytes(32),
        fingerprint=bytes(32),
        loss=1.0,
        batches=1,
        tokens=10,
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        bucket = bucket_at(f"http://127.0.0.1:{server.getsockname()[1]}", IMPATIENT)
        sending = Sending(bucket, KEY, header, 10_000, signer)
        sending.add(memoryview(b"the first part"))
        connection, _ = server.accept()
        with connection:
            arrived = b""
            while b"the first part" not in arrived:
                arrived += connection.recv(10_000)
            sending.give_up()

    assert b"TMPL" in arrived
    assert b"content-length: 10000" in arrived.lower()


def test_nothing_leaves_before_it_may_land(upstream: str, tmp_path: Path) -> None:
    with proxy(upstream, passed_on) as log:
        node = Node(tmp_path, node_buckets("me", log.url))
        outgoing, sending = node.round_trip.compress_(FIRST, TRAINING, gradients(), LR, may_upload=False)
        assert log.requests == []
        assert node.round_trip.put(outgoing, is_open=True, sending=sending) is outgoing

    assert bucket_at(upstream).get(KEY, max_bytes=len(outgoing.data)) == outgoing.data


def test_a_put_that_breaks_off_is_made_up_for(upstream: str, tmp_path: Path) -> None:
    with proxy(upstream, first(2, error(503, "SlowDown"))) as log:
        sent = Node(tmp_path, node_buckets("me", log.url)).send()

    assert bucket_at(upstream).get(KEY, max_bytes=len(sent.data)) == sent.data


def test_a_body_is_sent_from_its_beginning_when_it_is_sent_again(upstream: str) -> None:
    with proxy(upstream, first(2, error(503, "SlowDown"))) as log:
        assert bucket_at(log.url).put_growing_once("a", GrowingBody(1000, bytes(1000)))

    assert log.methods() == ["PUT"] * 3
    assert bucket_at(upstream).get("a", max_bytes=1000) == bytes(1000)


def test_a_put_that_fails_leaves_the_momentum_as_it_was(tmp_path: Path) -> None:
    options = R2Options(connect_timeout_s=0.2, read_timeout_s=0.5, retry_for_s=0)
    node = Node(tmp_path, node_buckets("me", "http://127.0.0.1:9", options), timeout_s=0.5)
    kept = MomentumCodec(SHAPES, CONFIG, torch.device("cpu"))
    kept.accumulate_(gradients(), LR)

    with pytest.raises(StoreError, match="could not be published by the deadline"):
        node.send()

    assert all(torch.equal(node.codec.momentum[name], kept.momentum[name]) for name in SHAPES)
    assert node.agreement.hashes == []


def test_a_payload_of_an_earlier_life_stands(url: str, tmp_path: Path) -> None:
    first_life = Node(tmp_path, node_buckets("me", url))
    published = first_life.send()
    second_life = Node(tmp_path, node_buckets("me", url))

    adopted = second_life.send()

    assert adopted.data == published.data
    assert all(torch.equal(first_life.codec.momentum[n], second_life.codec.momentum[n]) for n in SHAPES)


def test_an_error_in_compression_breaks_the_put_off(upstream: str, tmp_path: Path) -> None:
    node = Node(tmp_path, node_buckets("me", upstream))

    with pytest.raises(ValueError, match="shape"):
        node.round_trip.compress_(FIRST, TRAINING, {**gradients(), "d": torch.zeros(3)}, LR, may_upload=True)

    deadline = time.monotonic() + 30
    while any(thread.name == "publish" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the put still waits for the rest"
        time.sleep(0.01)
    assert list(bucket_at(upstream).list("")) == []
