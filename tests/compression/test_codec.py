"""The momentum of a whole model, window after window."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from templar_pl.compression import Backend, MomentumCodec, SparseChunks, encode_body, native_fault
from templar_pl.config import CompressionConfig
from tests.compression import reference
from tests.compression.payloads import to_slow

CPU = torch.device("cpu")
SHAPES: dict[str, tuple[int, ...]] = {
    "prime": (67, 71),
    "narrow": (5, 130),
    "vector": (131,),
    "short": (3,),
    "scalar": (),
    "empty": (0, 4),
    "kernel": (6, 3, 5, 2),
}
CONFIG = CompressionConfig(chunk_size=64, topk=32, momentum_decay=0.95)
LR = dict.fromkeys(SHAPES, 0.01)


BACKEND: Backend = "auto"


@pytest.fixture(params=["torch", "native"], autouse=True)
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with both backends, if the compiled library is there."""
    if request.param == "native" and native_fault():
        pytest.skip(native_fault())
    monkeypatch.setattr(f"{__name__}.BACKEND", request.param)


def new_codec(**settings: object) -> MomentumCodec:
    return MomentumCodec(SHAPES, CompressionConfig(**{**vars(CONFIG), **settings}), CPU, backend=BACKEND)


def gradients_of(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def codec_after(windows: int) -> MomentumCodec:
    codec = new_codec()
    for window in range(windows):
        codec.accumulate_(gradients_of(window), LR)
        codec.compress_()
    return codec


def copy_of(codec: MomentumCodec) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in codec.momentum.items()}


def equal_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(left[name].view(torch.int32), right[name].view(torch.int32)) for name in SHAPES)


class SlowCodec:
    """The same rule, parameter by parameter in float64."""

    def __init__(self) -> None:
        self.spectra = {name: [dct * 0 for dct in self.transform(np.zeros(s))] for name, s in SHAPES.items()}

    @staticmethod
    def transform(array: np.ndarray) -> list[np.ndarray]:
        return [reference.dct(chunk, is_vector=array.ndim < 2) for chunk in reference.cut(array, 64)]

    def send(self, gradients: Mapping[str, Tensor]) -> dict[str, reference.SlowPayload]:
        payload = {}
        for name, gradient in gradients.items():
            new = self.transform(gradient.double().numpy())
            old = self.spectra[name]
            momentum = [0.95 * m + 0.01 * g for m, g in zip(old, new, strict=True)]
            payload[name], self.spectra[name] = reference.compress(momentum, 32)
        return payload


def slow_update(payloads: list[dict[str, reference.SlowPayload]], name: str) -> np.ndarray:
    chunks = reference.update_integers([p[name] for p in payloads], SHAPES[name], 64, "mean", "norm")
    return np.sign(reference.paste(chunks, SHAPES[name], 64))


def test_20_windows_of_two_peers_are_those_of_the_slow_reference() -> None:
    fast, slow = [new_codec(), new_codec()], [SlowCodec(), SlowCodec()]
    for window in range(20):
        sent, wanted = [], []
        for peer in range(2):
            gradients = gradients_of(1000 * peer + window)
            fast[peer].accumulate_(gradients, LR)
            sent.append(fast[peer].compress_())
            wanted.append(slow[peer].send(gradients))

        assert [{name: to_slow(chunks) for name, chunks in payload.items()} for payload in sent] == wanted
        update = fast[window % 2].update(sent)
        assert list(update) == list(SHAPES)
        for name, signs in update.items():
            assert signs.shape == SHAPES[name]
            np.testing.assert_array_equal(signs.double().numpy(), slow_update(wanted, name))


@pytest.mark.parametrize("value_bits", [2, 3, 8])
def test_a_restored_momentum_sends_the_same_levels_again(value_bits: int) -> None:
    codec = MomentumCodec(SHAPES, CompressionConfig(**{**vars(CONFIG), "value_bits": value_bits}), CPU)
    codec.accumulate_(gradients_of(1), LR)
    before = copy_of(codec)

    first = encode_body(codec.compress_(), codec.grids)
    codec.restore_()
    restored = copy_of(codec)
    second = codec.compress_()

    assert equal_bits(before, restored)
    assert encode_body(second, codec.grids).data == first.data


def test_restoring_after_a_failed_put_brings_back_every_bit() -> None:
    codec = codec_after(3)
    before = copy_of(codec)

    codec.compress_()
    assert not equal_bits(codec.momentum, before)
    codec.restore_()

    assert equal_bits(codec.momentum, before)


def test_what_was_restored_is_sent_again() -> None:
    codec = codec_after(3)

    first = codec.compress_()
    codec.restore_()
    second = codec.compress_()

    assert {n: to_slow(c) for n, c in first.items()} == {n: to_slow(c) for n, c in second.items()}


def test_restoring_is_refused_once_the_momentum_has_changed() -> None:
    codec = codec_after(1)
    codec.accumulate_(gradients_of(9), LR)

    with pytest.raises(ValueError, match="must follow compress_"):
        codec.restore_()


def test_an_own_payload_sent_after_the_momentum_was_saved_can_be_taken_out() -> None:
    codec = codec_after(3)
    saved = new_codec()
    saved.load_state_dict(codec.state_dict())

    saved.subtract_(codec.compress_())

    assert equal_bits(saved.momentum, codec.momentum)


def test_a_payload_that_does_not_count_is_put_back_to_the_bit() -> None:
    codec = codec_after(3)
    before = copy_of(codec)

    sent = codec.compress_()
    codec.update([sent])
    codec.put_back_(sent)

    assert equal_bits(codec.momentum, before)
    with pytest.raises(ValueError, match="must follow compress_"):
        codec.restore_()


def test_a_payload_that_was_taken_out_by_what_it_says_is_put_back_so() -> None:
    codec, other = codec_after(3), codec_after(3)
    stands = codec_after(2).compress_()
    before = copy_of(codec)

    codec.subtract_(stands)
    codec.put_back_(stands)

    for name, momentum in codec.momentum.items():
        sent = {(c, i) for c, row in enumerate(to_slow(stands[name]).sent) for i in row}
        places = {(c, i) for c, i in (momentum != other.momentum[name]).nonzero().tolist()}
        assert places <= sent
        torch.testing.assert_close(momentum, before[name], rtol=0, atol=1e-6)


def test_what_is_put_back_into_a_changed_momentum_is_what_the_payload_says() -> None:
    codec = codec_after(3)
    sent = codec.compress_()
    codec.accumulate_(gradients_of(9), LR)
    taken = new_codec()
    taken.load_state_dict(codec.state_dict())
    values = {name: zero - momentum for name, (zero, momentum) in values_of(taken, sent).items()}

    before = copy_of(codec)
    codec.put_back_(sent)

    assert equal_bits(codec.momentum, {name: before[name] + values[name] for name in SHAPES})


def values_of(codec: MomentumCodec, sent: Mapping[str, SparseChunks]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return zeros, and what is left when a payload is taken out of them."""
    for momentum in codec.momentum.values():
        momentum.zero_()
    codec.subtract_(sent)
    return {name: (torch.zeros_like(momentum), momentum) for name, momentum in codec.momentum.items()}


def test_gradients_of_half_precision_count_as_fp32_ones() -> None:
    halves, wholes = new_codec(), new_codec()
    gradients = {name: g.to(torch.bfloat16) for name, g in gradients_of(1).items()}

    halves.accumulate_(gradients, LR)
    wholes.accumulate_({name: g.float() for name, g in gradients.items()}, LR)

    assert equal_bits(halves.momentum, wholes.momentum)


def test_parameters_without_a_gradient_only_decay() -> None:
    codec = codec_after(2)
    before = copy_of(codec)

    codec.accumulate_(dict.fromkeys(SHAPES), {})

    assert equal_bits(codec.momentum, {name: m * 0.95 for name, m in before.items()})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2e19])
def test_a_gradient_that_is_no_sane_number_is_refused_by_name_and_changes_nothing(bad: float) -> None:
    codec = codec_after(2)
    before, gradients = copy_of(codec), gradients_of(5)
    gradients["vector"][3] = bad

    with pytest.raises(ValueError, match="gradient of vector"):
        codec.accumulate_(gradients, LR)

    assert equal_bits(codec.momentum, before)


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), 1e9])
def test_an_lr_out_of_range_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr of short"):
        new_codec().accumulate_(gradients_of(1), {**LR, "short": lr})


def test_gradients_of_another_model_are_refused() -> None:
    gradients: dict[str, Tensor | None] = {**gradients_of(1)}
    swapped = {**gradients, "vector": torch.zeros(4)}
    del gradients["short"]

    with pytest.raises(ValueError, match=r"missing \['short'\]"):
        new_codec().accumulate_(gradients, LR)
    with pytest.raises(ValueError, match=r"gradient of vector must have shape \(131,\)"):
        new_codec().accumulate_(swapped, LR)


def test_the_largest_accepted_gradients_stay_finite_through_compression() -> None:
    codec = new_codec(momentum_decay=1.0)
    for _ in range(3):
        codec.accumulate_({name: torch.full(shape, 2.0**64) for name, shape in SHAPES.items()}, dict.fromkeys(LR, 2e5))
        codec.compress_()

    assert all(momentum.isfinite().all() for momentum in codec.momentum.values())


def test_the_order_of_payloads_changes_nothing_in_the_update() -> None:
    payloads: list[Mapping[str, SparseChunks]] = []
    for seed in range(4):
        codec = new_codec()
        codec.accumulate_(gradients_of(seed), LR)
        payloads.append(codec.compress_())

    forward, backward = (new_codec().update(p) for p in (payloads, payloads[::-1]))

    assert equal_bits(forward, backward)


def test_float64_products_give_the_same_update() -> None:
    codec = codec_after(2)
    payloads = [codec.compress_(), codec.compress_()]

    other = MomentumCodec(SHAPES, CONFIG, CPU, product_dtype=torch.float64).update(payloads)

    assert equal_bits(codec.update(payloads), other)
    with pytest.raises(ValueError, match="product_dtype"):
        MomentumCodec(SHAPES, CONFIG, CPU, product_dtype=torch.bfloat16)


def test_a_payload_of_another_model_is_refused() -> None:
    payload = dict(codec_after(1).compress_())
    del payload["scalar"]

    with pytest.raises(ValueError, match=r"payload 0 .* missing \['scalar'\]"):
        new_codec().update([payload])


def test_a_saved_and_loaded_momentum_is_the_same_bits() -> None:
    codec, loaded, file = codec_after(4), new_codec(), io.BytesIO()
    torch.save(codec.state_dict(), file)
    file.seek(0)

    loaded.load_state_dict(torch.load(file, weights_only=True))

    assert equal_bits(loaded.momentum, codec.momentum)


def test_a_momentum_of_another_model_or_chunk_size_is_refused_and_changes_nothing() -> None:
    codec = codec_after(1)
    before = copy_of(codec)

    with pytest.raises(ValueError, match="prime must have"):
        codec.load_state_dict(new_codec(chunk_size=32).state_dict())
    with pytest.raises(ValueError, match="missing"):
        codec.load_state_dict({**codec.state_dict(), "momentum": {"prime": before["prime"]}})
    with pytest.raises(ValueError, match="must be `momentum` and `transform`"):
        codec.load_state_dict({})

    assert equal_bits(codec.momentum, before)


def test_a_momentum_of_another_transform_is_refused_and_changes_nothing() -> None:
    codec = codec_after(1)
    before = copy_of(codec)
    elements = MomentumCodec(SHAPES, CompressionConfig(**{**vars(CONFIG), "transform": "none"}), CPU)

    with pytest.raises(ValueError, match="must be of transform dct, got none"):
        codec.load_state_dict(elements.state_dict())

    assert equal_bits(codec.momentum, before)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.bfloat16])
def test_an_update_that_is_known_comes_out_as_one_that_was_computed(dtype: torch.dtype) -> None:
    codec = codec_after(2)
    codec.accumulate_(gradients_of(7), LR)
    update = codec.update([codec.compress_()])
    out = {"prime": torch.ones(SHAPES["prime"]), "narrow": torch.ones(130, 5).T, "vector": None}

    known = codec.known_update(((name, signs.to(dtype)) for name, signs in update.items()), out=out)

    assert list(known) == list(SHAPES)
    assert equal_bits(known, update)
    assert known["prime"].data_ptr() == out["prime"].data_ptr()  # type: ignore[union-attr]  # it is a tensor


def test_an_update_of_another_model_is_no_update() -> None:
    codec = new_codec()
    update = {name: torch.zeros(shape) for name, shape in SHAPES.items()}

    with pytest.raises(ValueError, match=r"missing \['vector'\]"):
        codec.known_update((name, zeros) for name, zeros in update.items() if name != "vector")
    with pytest.raises(ValueError, match=r"no prime of shape \(71, 67\)"):
        codec.known_update((update | {"prime": torch.zeros(71, 67)}).items())
