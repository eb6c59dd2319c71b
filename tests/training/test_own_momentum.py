"""What becomes of the momentum when an own payload counts, does not count, or is another one than was sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from templar_pl.exchange.window_values import Collected, Outgoing
from templar_pl.protocol.agreement import Settlement
from templar_pl.training.own_momentum import OwnMomentum
from templar_pl.training.session import what_became_of_own
from templar_pl.units import Uid
from tests.exchange.landed_worlds import CLOSED, NOW, OPEN, Miner, World
from tests.exchange.manifests import standing_manifest

MINE = Uid(0)


@pytest.fixture
def miner(tmp_path: Path) -> Miner:
    return World(tmp_path).add("alice")


def window_of(listed: Outgoing | None, *, has_manifest: bool) -> Collected:
    """Return a window in which at most the miner's own payload counts."""
    hashes = {} if listed is None else {MINE: listed.sha256}
    standing = standing_manifest(hashes) if has_manifest else None
    payloads = {} if listed is None else {MINE: listed.payload}
    return Collected(Settlement(NOW, hashes, OPEN, CLOSED), payloads, {}, 0, standing)


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def prepared(miner: Miner) -> tuple[OwnMomentum, dict[str, Tensor], Outgoing, dict[str, Tensor]]:
    """Return the momentum of a miner, what it was before it sent, what it sent, and what was left."""
    miner.train()
    before = miner.momentum()
    miner.codec.load_state_dict({"momentum": {n: m.zero_() for n, m in miner.momentum().items()}, "transform": "dct"})
    sent = miner.send()
    return OwnMomentum(miner.codec, rebuild_windows=0), before, sent, miner.momentum()


def test_a_payload_that_the_manifest_lists_is_let_go_of(miner: Miner) -> None:
    momentum, _, sent, left = prepared(miner)

    momentum.settle(window_of(sent, has_manifest=True), miner.uid, sent, is_open=True)

    assert equal(miner.momentum(), left)


def test_a_payload_that_the_manifest_leaves_out_goes_back_to_the_bit(miner: Miner) -> None:
    momentum, before, sent, left = prepared(miner)

    momentum.settle(window_of(None, has_manifest=True), miner.uid, sent, is_open=True)

    assert equal(miner.momentum(), before)
    assert not equal(before, left)


def test_without_a_manifest_what_was_sent_stays_sent(miner: Miner) -> None:
    momentum, _, sent, left = prepared(miner)

    momentum.settle(window_of(None, has_manifest=False), miner.uid, sent, is_open=True)

    assert equal(miner.momentum(), left)


def test_another_own_payload_than_was_sent_is_let_go_of_if_that_one_is_listed(miner: Miner) -> None:
    momentum, _, sent, left = prepared(miner)
    same = Outgoing(NOW, sent.data[:-1] + bytes([sent.data[-1] ^ 1]), sent.payload)  # signed once more

    momentum.settle(window_of(same, has_manifest=True), miner.uid, sent, is_open=True)

    assert equal(miner.momentum(), left)


@pytest.mark.parametrize("is_open", [True, False])
def test_what_was_taken_for_not_sent_and_counts_is_let_go_of_in_its_own_window(miner: Miner, is_open: bool) -> None:
    momentum, before, sent, left = prepared(miner)
    miner.codec.restore_()

    momentum.settle(window_of(sent, has_manifest=True), miner.uid, None, is_open=is_open)

    assert equal(miner.momentum(), left if is_open else before)


def test_an_own_payload_that_is_listed_is_let_go_of_where_those_of_others_are_gone(miner: Miner) -> None:
    momentum, _, sent, left = prepared(miner)
    window = replace(window_of(sent, has_manifest=True), gone="others cannot be had")
    window.settlement.payloads[Uid(1)] = bytes(32)

    momentum.settle(window, miner.uid, sent, is_open=True)

    assert equal(miner.momentum(), left)


@pytest.mark.parametrize("has_sent", [True, False])
def test_of_an_own_payload_that_counts_and_is_gone_the_momentum_keeps_nothing(miner: Miner, has_sent: bool) -> None:
    momentum, _, sent, _ = prepared(miner)
    window = replace(window_of(None, has_manifest=True), gone="the own one cannot be had")
    window.settlement.payloads[MINE] = bytes(32)

    momentum.settle(window, miner.uid, sent if has_sent else None, is_open=True)

    assert all(not tensor.any() for tensor in miner.momentum().values())
    assert momentum.place < 0


def test_of_a_payload_taken_for_not_sent_that_counts_and_is_gone_only_what_it_says_is_let_go_of(miner: Miner) -> None:
    momentum, before, sent, left = prepared(miner)
    momentum.keep(sent, 1)
    miner.codec.restore_()
    assert equal(miner.momentum(), before)
    window = replace(window_of(None, has_manifest=True), gone="the own one cannot be had")
    window.settlement.payloads[MINE] = sent.sha256

    momentum.settle(window, miner.uid, None, is_open=True)

    assert equal(miner.momentum(), left)
    assert momentum.place == 1


def test_what_was_made_for_a_window_is_known_of_in_no_other(miner: Miner) -> None:
    momentum, _, sent, _ = prepared(miner)
    momentum.keep(sent, 1)
    miner.codec.restore_()
    momentum.settle(window_of(None, has_manifest=True), miner.uid, None, is_open=True)
    window = replace(window_of(None, has_manifest=True), gone="the own one cannot be had")
    window.settlement.payloads[MINE] = sent.sha256

    momentum.settle(window, miner.uid, None, is_open=True)

    assert all(not tensor.any() for tensor in miner.momentum().values())


def test_the_place_and_the_coefficients_are_saved_together(miner: Miner) -> None:
    momentum, _, _, left = prepared(miner)
    momentum.place = 7
    saved = momentum.state_dict()
    saved = {**saved, "momentum": {**saved["momentum"], "momentum": miner.momentum()}}
    momentum.forget()
    assert momentum.place < 0
    assert all(not tensor.any() for tensor in miner.momentum().values())

    momentum.load_state_dict(saved)

    assert momentum.place == 7
    assert equal(miner.momentum(), left)


def test_a_node_that_goes_back_trains_nothing_again_that_its_momentum_knows(miner: Miner) -> None:
    sent = miner.send()
    momentum = OwnMomentum(miner.codec, rebuild_windows=10)
    momentum.place = 3

    momentum.go_to(1)

    record = miner.record
    assert record.own_payload(NOW) is not None, "this window would be trained again if it were asked for"
    assert [momentum.to_rebuild(record, NOW, applied) for applied in (1, 2)] == [None, None]
    rebuilt = momentum.to_rebuild(record, NOW, 3)
    assert rebuilt is not None
    assert rebuilt.header == sent.payload.header


def test_a_node_that_goes_ahead_knows_of_all_that_it_sent_before(miner: Miner) -> None:
    momentum = OwnMomentum(miner.codec, rebuild_windows=10)
    momentum.place = 3

    momentum.go_to(7)

    assert momentum.place == 7


def test_a_report_tells_an_own_payload_that_is_not_listed_from_another_one_that_is(miner: Miner) -> None:
    sent = miner.send()
    another = replace(window_of(None, has_manifest=True), gone="the own one cannot be had")
    another.settlement.payloads[MINE] = bytes(32)

    assert what_became_of_own(window_of(sent, has_manifest=True), MINE, "") == ""
    assert what_became_of_own(window_of(None, has_manifest=True), MINE, "") == "the manifest does not list it"
    assert what_became_of_own(another, MINE, "").startswith("the manifest lists another one of this node")
    assert what_became_of_own(another, MINE, "the put failed") == "the put failed"
