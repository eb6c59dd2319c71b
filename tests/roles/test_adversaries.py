"""Adversaries pass every check that there is before a validator looks, and are what they are called."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from templar_pl.chain import load_hotkey, verify
from templar_pl.cli_adversary import adversary_command
from templar_pl.compression import chunk_grid, dequantise
from templar_pl.protocol import payload_key
from templar_pl.protocol.payload import Expected, Payload, decode_payload
from templar_pl.roles.adversaries import BEHIND
from templar_pl.scoring.overlap import Places, agreement_of, count_shared
from templar_pl.units import Uid, Window
from tests.roles.adversary_runs import COMPRESSION, HONEST, NAMES, WINDOWS, digest_of, train
from tests.training.local import ConvClassifier

LONG_S = 400


@dataclass(frozen=True)
class Ran:
    """What the nodes left behind."""

    ends: Mapping[str, Any]
    uids: Mapping[str, Uid]
    payloads: Mapping[str, list[Payload]]
    """Name of the node -> its payload of each window, decoded as peers decode it."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("adversaries")
    spawn = multiprocessing.get_context("spawn")
    nodes = [spawn.Process(target=train, args=(folder, name)) for name in NAMES]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join(LONG_S)
        assert node.exitcode == 0
    ends = {name: torch.load(folder / name) for name in NAMES}
    uids, payloads = {}, {}
    for name in NAMES:
        signer = load_hotkey(folder / "hotkeys", name)
        assert signer is not None
        (bucket,) = folder.glob(f"local/store-*/{signer.hotkey}/local/payload")
        uids[name] = Uid(int(next(bucket.rglob("*.bin")).stem))
        payloads[name] = [
            decode(bucket.parents[1], Window(window), uids[name], signer.public_key, ends[name]["digest"])
            for window in range(WINDOWS)
        ]
    return Ran(ends, uids, payloads)


def decode(bucket: Path, window: Window, uid: Uid, public_key: bytes, digest: bytes) -> Payload:
    data = (bucket / payload_key("local", window, uid)).read_bytes()
    expected = Expected(run=digest, window=window, uid=uid, public_key=public_key)
    return decode_payload(data, GRIDS, expected, verify)


GRIDS = {
    name: chunk_grid(tuple(parameter.shape), chunk_size=COMPRESSION.chunk_size, topk=COMPRESSION.topk)
    for name, parameter in sorted(ConvClassifier().named_parameters())
}


def agreement(first: Payload, second: Payload) -> float:
    def places(payload: Payload, name: str) -> Places:
        chunks = payload.chunks[name]
        return Places(chunks.indices.numpy(), chunks.counts.numpy(), GRIDS[name].chunk_numel)

    return agreement_of([count_shared(places(first, name), places(second, name)) for name in GRIDS])


def size_of(payload: Payload) -> float:
    """Return the L2 norm of what a payload says."""
    return math.sqrt(sum(float(dequantise(chunks).double().square().sum()) for chunks in payload.chunks.values()))


def closest_honest(ran: Ran, name: str, window: int) -> float:
    mine = ran.payloads[name][window]
    return max(agreement(mine, ran.payloads[other][window]) for other in HONEST if other != name)


def test_all_of_them_apply_the_same_updates(ran: Ran) -> None:
    expected = ran.ends["alice"]["parameters"]

    for name in NAMES:
        for key, parameter in ran.ends[name]["parameters"].items():
            assert torch.equal(parameter, expected[key]), (name, key)


def test_every_payload_says_the_pages_that_its_sender_was_given(ran: Ran) -> None:
    for name in NAMES:
        for window, payload in enumerate(ran.payloads[name]):
            assert payload.header.pages == digest_of(ran.uids[name], window), (name, window)


def test_a_copycat_sends_what_another_one_sent(ran: Ran) -> None:
    others = [name for name in NAMES if name != "copycat"]

    for window in range(WINDOWS):
        copy = ran.payloads["copycat"][window]
        assert max(agreement(copy, ran.payloads[name][window]) for name in others) == pytest.approx(1.0), window
        assert copy.header.uid == ran.uids["copycat"]
        assert max(closest_honest(ran, name, window) for name in HONEST) < 0.95


def test_noise_agrees_with_nobody_and_is_as_large_as_what_is_real(ran: Ran) -> None:
    for window in range(WINDOWS):
        assert abs(closest_honest(ran, "noisy", window)) < 0.25, window
        honest = sorted(size_of(ran.payloads[name][window]) for name in HONEST)
        assert honest[0] / 10 < size_of(ran.payloads["noisy"][window]) < honest[-1] * 10, window
    assert min(closest_honest(ran, name, 0) for name in HONEST) > 0.25


def test_a_lazy_miner_trains_on_the_same_pages_in_every_window(ran: Ran) -> None:
    assert len(set(ran.ends["lazy"]["seen"])) == 1
    assert len(set(ran.ends["alice"]["seen"])) == WINDOWS


def test_a_stale_miner_trains_at_parameters_that_are_old_and_says_so(ran: Ran) -> None:
    present = [payload.header.fingerprint for payload in ran.payloads["alice"]]
    assert len(set(present)) == WINDOWS

    stale = [payload.header.fingerprint for payload in ran.payloads["stale"]]

    assert stale == [present[max(0, window - BEHIND)] for window in range(WINDOWS)]
    # At the first parameters the loss does not fall, for the first windows.
    losses = [payload.header.loss for payload in ran.payloads["stale"]]
    assert min(losses[: BEHIND + 1]) > max(payload.header.loss for payload in ran.payloads["alice"][BEHIND:])


def test_a_liar_trains_at_old_parameters_and_says_the_present_ones(ran: Ran) -> None:
    present = [payload.header.fingerprint for payload in ran.payloads["alice"]]

    assert [payload.header.fingerprint for payload in ran.payloads["liar"]] == present
    losses = [payload.header.loss for payload in ran.payloads["liar"]]
    assert min(losses[: BEHIND + 1]) > max(payload.header.loss for payload in ran.payloads["alice"][BEHIND:])


def test_all_others_say_the_parameters_that_all_hold(ran: Ran) -> None:
    for window in range(WINDOWS):
        prints = {ran.payloads[name][window].header.fingerprint for name in NAMES if name != "stale"}
        assert len(prints) == 1


@pytest.mark.parametrize("arguments", [[], ["honest"], ["--config", "x"]])
def test_an_adversary_that_is_not_known_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert adversary_command(arguments) == 2
    assert "must be followed by one of copycat, noisy, lazy, stale" in capsys.readouterr().err


def test_an_adversary_takes_the_options_of_fit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        adversary_command(["noisy", "--local", "--trainer.limit_train_batches", "1", "--print_config"])

    assert stop.value.code in (0, None)
    assert "limit_train_batches: 1" in capsys.readouterr().out
