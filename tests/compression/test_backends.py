"""Native, torch, float64 and Python integers: the same bytes mean the same update, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.compression import (
    Body,
    MomentumCodec,
    NativeError,
    SectionError,
    SparseChunks,
    decode_body,
    dequantise,
    encode_body,
    native_fault,
)
from templar_pl.config import CompressionConfig
from tests.compression import reference
from tests.compression.payloads import arbitrary_payload, hostile_payload, to_slow, to_sparse

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**32 - 1)
SHAPES: dict[str, tuple[int, ...]] = {
    "square": (128, 64),
    "edges": (67, 130),
    "narrow": (5, 130),
    "low": (130, 3),
    "vector": (131,),
    "scalar": (),
    "empty": (0, 4),
    "kernel": (6, 3, 5, 2),
}
RULES: list[tuple[Literal["mean", "sum"], Literal["norm", "clip", "none"]]] = [
    ("mean", "norm"), ("mean", "none"), ("sum", "norm"), ("sum", "none"), ("mean", "clip"), ("sum", "clip"),
]  # fmt: skip
FORMS: list[dict[str, object]] = [{"value_bits": bits} for bits in (1, 2, 3, 8)]
FORMS += [{"transform": "none"}, {"transform": "none", "value_bits": 3}]
needs_native = pytest.mark.skipif(bool(native_fault()), reason=native_fault() or "native is there")


def codec(backend: Literal["auto", "native", "torch", "float64"], **settings: object) -> MomentumCodec:
    config = CompressionConfig(**settings)  # pyright: ignore[reportArgumentType]  # a table of mixed types
    if backend == "float64":
        return MomentumCodec(SHAPES, config, CPU, product_dtype=torch.float64)
    return MomentumCodec(SHAPES, config, CPU, backend=backend)


def arbitrary_body(rng: np.random.Generator, like: MomentumCodec, kind: str) -> Body:
    """Draw what a peer sends: anything, values that nearly tie, or what makes sums largest."""
    make: dict[str, Callable] = {
        "arbitrary": lambda grid: arbitrary_payload(rng, grid),
        "alike": lambda grid: arbitrary_payload(rng, grid, spread=3),
        "hostile": lambda grid: hostile_payload(rng, grid, loud=int(rng.integers(2))),
    }
    return encode_body({n: to_sparse(make[kind](g), g.topk) for n, g in like.grids.items()}, like.grids)


def real_bodies(count: int, **settings: object) -> list[Body]:
    """Return what peers send after a few windows of one common and one own gradient."""
    bodies = []
    for peer in range(count):
        sender, generator = codec("torch", **settings), torch.Generator().manual_seed(peer)
        common = torch.Generator().manual_seed(99)
        sent = None
        for _ in range(3):
            gradients = {
                name: torch.randn(shape, generator=common) + torch.randn(shape, generator=generator)
                for name, shape in SHAPES.items()
            }
            sent = sender.send_(gradients, dict.fromkeys(SHAPES, 0.01))
        assert sent is not None
        bodies.append(encode_body(sent, sender.grids))
    return bodies


def assert_same_update(bodies: list[Body], **settings: object) -> None:
    """Compare all backends, with one and two threads."""
    updates = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            # "auto" is native where it is there and knows the settings.
            codecs = [codec(backend, **settings) for backend in ("torch", "float64", "auto")]
            updates += [made.update(bodies) for made in codecs]
            updates += [dict(made.updates(bodies)) for made in codecs]  # one parameter after the other
            updates.append(codecs[-1].update(bodies[::-1]))
        finally:
            torch.set_num_threads(1)
    for name in SHAPES:
        bits = [update[name].view(torch.int32) for update in updates]
        assert all(torch.equal(bits[0], other) for other in bits[1:]), name


@pytest.mark.parametrize(("rule", "equalise"), RULES)
@pytest.mark.parametrize("kind", ["arbitrary", "alike", "hostile"])
@pytest.mark.parametrize("topk", [1, 32, 300])
def test_arbitrary_and_hostile_payloads_mean_the_same_to_all_backends(
    rule: str, equalise: str, kind: str, topk: int
) -> None:
    settings = {"combine": rule, "equalise": equalise, "topk": topk}
    rng, like = np.random.default_rng(topk), codec("torch", **settings)

    for num_payloads in (0, 1, 2, 16):
        assert_same_update([arbitrary_body(rng, like, kind) for _ in range(num_payloads)], **settings)


@pytest.mark.parametrize(("rule", "equalise"), RULES)
def test_512_payloads_mean_the_same_to_all_backends(rule: str, equalise: str) -> None:
    settings = {"combine": rule, "equalise": equalise}
    rng, like = np.random.default_rng(1), codec("torch", **settings)
    few = [arbitrary_body(rng, like, kind) for kind in ("arbitrary", "alike", "hostile", "hostile")]

    assert_same_update([few[number * number % 7 % 4] for number in range(512)], **settings)


@pytest.mark.parametrize(("rule", "equalise"), RULES)
@pytest.mark.parametrize("chunk_size", [64, 16])
def test_real_payloads_mean_the_same_to_all_backends(rule: str, equalise: str, chunk_size: int) -> None:
    settings = {"combine": rule, "equalise": equalise, "chunk_size": chunk_size, "topk": 8}
    bodies = real_bodies(16, **settings)

    for num_payloads in (1, 2, 16):
        assert_same_update(bodies[:num_payloads], **settings)


@pytest.mark.parametrize(("rule", "equalise"), [("mean", "norm"), ("mean", "none"), ("sum", "clip")])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_payloads_of_every_form_mean_the_same_to_all_backends(
    rule: str, equalise: str, form: dict[str, object]
) -> None:
    settings = {"combine": rule, "equalise": equalise, "topk": 8, **form}
    rng, like = np.random.default_rng(7), codec("torch", **settings)
    bodies = [arbitrary_body(rng, like, kind) for kind in ("arbitrary", "alike", "hostile", "hostile")]
    bodies += real_bodies(2, **settings)

    for num_payloads in (1, 2, 16):
        assert_same_update([bodies[number * number % 7 % 6] for number in range(num_payloads)], **settings)


@pytest.mark.parametrize(("rule", "equalise"), RULES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_real_payloads_of_every_form_mean_what_python_integers_say(
    rule: str, equalise: str, form: dict[str, object]
) -> None:
    settings = {"combine": rule, "equalise": equalise, "topk": 8, "chunk_size": 32, **form}
    bodies, made = real_bodies(16, **settings), codec("auto", **settings)

    for num_payloads in (1, 2, 16):
        update = made.update(bodies[:num_payloads])
        for name in ("edges", "vector", "scalar"):
            slow = [to_slow(body[name]) for body in bodies[:num_payloads]]
            transform = made.grids[name].transform
            chunks = reference.update_integers(slow, SHAPES[name], 32, rule, equalise, transform)
            wanted = np.sign(reference.paste(chunks, SHAPES[name], 32))
            assert (update[name].double().numpy() == wanted).all(), (name, num_payloads)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_decoded_from_the_bytes_means_what_was_sent(form: dict[str, object]) -> None:
    made, bodies = codec("auto", **form), real_bodies(3, **form)

    decoded = [decode_body(body.data, made.grids) for body in bodies]

    sent, read = made.update(bodies), made.update(decoded)
    assert all(torch.equal(sent[name], read[name]) for name in SHAPES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize(("rule", "equalise"), RULES)
@pytest.mark.parametrize("kind", ["arbitrary", "alike", "hostile", "real"])
def test_payloads_mean_the_same_on_cuda_as_on_the_cpu(rule: str, equalise: str, kind: str) -> None:
    settings = {"combine": rule, "equalise": equalise}
    rng, slow = np.random.default_rng(7), codec("torch", **settings)
    config = CompressionConfig(**settings)  # pyright: ignore[reportArgumentType]  # a table of mixed types
    fast = MomentumCodec(SHAPES, config, torch.device("cuda"))
    bodies = real_bodies(16, **settings) if kind == "real" else [arbitrary_body(rng, slow, kind) for _ in range(16)]

    for num_payloads in (1, 2, 16):
        wanted, got = slow.update(bodies[:num_payloads]), fast.update(bodies[:num_payloads])
        assert all(torch.equal(one, got[name]) for name, one in fast.updates(bodies[:num_payloads]))
        assert all(torch.equal(got[name].cpu().view(torch.int32), wanted[name].view(torch.int32)) for name in SHAPES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("value_bits", [1, 2, 3, 8])
def test_from_the_same_momentum_cuda_sends_and_keeps_what_the_cpu_does(value_bits: int) -> None:
    slow = codec("torch", value_bits=value_bits)
    config = CompressionConfig(value_bits=value_bits)  # pyright: ignore[reportArgumentType]
    fast = MomentumCodec(SHAPES, config, torch.device("cuda"))
    for name, momentum in slow.momentum.items():
        momentum.copy_(torch.randn(momentum.shape, generator=torch.Generator().manual_seed(len(name))))
        fast.momentum[name].copy_(momentum)

    sent, wanted = (encode_body(made.compress_(), made.grids) for made in (fast, slow))

    assert sent.data == wanted.data
    assert all(torch.equal(fast.momentum[name].cpu(), slow.momentum[name]) for name in SHAPES)
    fast.restore_()
    slow.restore_()
    assert all(torch.equal(fast.momentum[name].cpu(), slow.momentum[name]) for name in SHAPES)


@needs_native
@given(SEEDS, st.sampled_from(RULES), st.sampled_from([1, 5, 32, 64]), st.sampled_from([1, 3, 17]))
def test_native_gives_the_signs_of_python_integers(
    seed: int, rules: tuple[str, str], chunk_size: int, num_payloads: int
) -> None:
    # Edges on both sides; chunks of one element are all alike, so fewer of them do.
    rng, shape = np.random.default_rng(seed), (9, 70) if chunk_size > 1 else (3, 20)
    config = CompressionConfig(chunk_size=chunk_size, topk=1, combine=rules[0], equalise=rules[1])  # pyright: ignore
    native = MomentumCodec({"w": shape}, config, CPU, backend="native")
    slow = [arbitrary_payload(rng, native.grids["w"], spread=9) for _ in range(num_payloads)]
    bodies = [encode_body({"w": to_sparse(payload, 1)}, native.grids) for payload in slow]

    update = native.update(bodies)["w"]

    wanted = reference.paste(reference.update_integers(slow, shape, chunk_size, *rules), shape, chunk_size)
    assert (update.double().numpy() == np.sign(wanted)).all()


@needs_native
@given(SEEDS, st.sampled_from([1, 7, 32, 200, 4096]), st.sampled_from([64, 63, 8, 1]), st.integers(-130, 100))
def test_from_the_same_momentum_native_sends_and_keeps_what_torch_does(
    seed: int, topk: int, chunk_size: int, octave: int
) -> None:
    settings = {"topk": min(topk, chunk_size**2), "chunk_size": chunk_size}
    native, plain = codec("native", **settings), codec("torch", **settings)
    generator = torch.Generator().manual_seed(seed)
    for name, momentum in native.momentum.items():
        drawn = torch.randn(momentum.shape, generator=generator)
        loud = torch.exp2(torch.randint(-40, 1, (len(momentum), 1), generator=generator).float())
        drawn = (drawn * 8).round() / 8 if seed % 2 else drawn  # many ties and zeros
        momentum.copy_(drawn * loud * 2.0**octave)
        plain.momentum[name].copy_(momentum)
    before = {name: momentum.clone() for name, momentum in native.momentum.items()}

    sent, wanted = (encode_body(made.compress_(), made.grids) for made in (native, plain))

    assert sent.data == wanted.data
    for name in SHAPES:
        assert torch.equal(native.momentum[name].view(torch.int32), plain.momentum[name].view(torch.int32))
    native.restore_()
    for name in SHAPES:
        assert torch.equal(native.momentum[name].view(torch.int32), before[name].view(torch.int32))


@needs_native
@pytest.mark.parametrize("topk", [5, 32])
def test_what_native_sends_is_to_the_bit_what_it_takes_out_of_its_momentum(topk: int) -> None:
    sender, generator = codec("native", topk=topk), torch.Generator().manual_seed(0)
    for _ in range(3):
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        sender.accumulate_(gradients, dict.fromkeys(SHAPES, 0.01))
        before = {name: momentum.clone() for name, momentum in sender.momentum.items()}

        sent = sender.compress_()

        for name, chunks in sent.items():
            before[name].scatter_add_(-1, chunks.indices.long(), -dequantise(chunks))
            assert torch.equal(before[name], sender.momentum[name]), name


@needs_native
def test_one_pass_is_the_two_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    lr, at_once, in_steps = dict.fromkeys(SHAPES, 0.01), codec("native"), codec("native")

    fast = at_once.send_(gradients, lr)
    in_steps.accumulate_(gradients, lr)
    slow = in_steps.compress_()

    assert isinstance(fast, Body)
    assert isinstance(slow, Body)
    assert fast.data == slow.data
    assert all(torch.equal(at_once.momentum[name], in_steps.momentum[name]) for name in SHAPES)


@needs_native
@given(SEEDS, st.sampled_from([1, 3, 32]), st.sampled_from([64, 7]))
def test_native_momentum_is_close_to_that_of_torch(seed: int, topk: int, chunk_size: int) -> None:
    settings = {"topk": topk, "chunk_size": chunk_size}
    generator = torch.Generator().manual_seed(seed)
    gradients = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    native, plain = codec("native", **settings), codec("torch", **settings)

    for made in (native, plain):
        made.accumulate_(gradients, dict.fromkeys(SHAPES, 1.0))

    for name, momentum in native.momentum.items():
        error = (momentum.double() - plain.momentum[name].double()).norm()
        assert error <= 1e-6 * plain.momentum[name].double().norm()


@needs_native
@given(SEEDS, st.sampled_from([1, 3, 32, 90]), st.integers(0, 4))
def test_native_refuses_the_bytes_that_numpy_refuses_with_the_same_words(seed: int, topk: int, flips: int) -> None:
    rng = np.random.default_rng(seed)
    like = MomentumCodec({"w": (70, 9), "v": (9,)}, CompressionConfig(topk=topk), CPU, backend="torch")
    data = bytearray(arbitrary_body(rng, like, "arbitrary").data)
    for bit in rng.integers(0, 8 * len(data), flips):
        data[bit // 8] ^= 1 << (bit % 8)

    results: list[dict[str, SparseChunks] | str] = []
    for backend in ("native", "torch"):
        try:
            results.append(dict(decode_body(bytes(data), like.grids, backend=backend)))
        except SectionError as error:
            results.append(str(error))

    assert str(results[0]) == str(results[1])


def test_an_update_goes_where_it_is_told_to_and_nowhere_else() -> None:
    bodies, made = real_bodies(2), codec("torch")
    out = {name: torch.full(shape, 7.0) for name, shape in SHAPES.items()}
    out["square"] = torch.full((64, 128), 7.0).T  # not contiguous
    del out["low"]

    update = made.update(bodies, out=out)

    assert all(update[name].data_ptr() == out[name].data_ptr() for name in SHAPES.keys() - {"low", "square", "empty"})
    assert (out["square"] == 7).all()
    assert all(torch.equal(update[name], wanted) for name, wanted in made.update(bodies).items())


@needs_native
@pytest.mark.parametrize("rules", RULES)
def test_native_is_chosen_where_it_knows_the_settings(rules: tuple[str, str]) -> None:
    assert codec("auto", combine=rules[0], equalise=rules[1]).backend == "native"


@pytest.mark.parametrize(
    ("name", "value"),
    [("value_bits", 2), ("value_bits", 3), ("value_bits", 8), ("transform", "none")],
)
def test_native_is_not_chosen_for_a_setting_it_does_not_know_and_refused_if_asked_for(name: str, value: object) -> None:
    assert codec("auto", **{name: value}).backend == "torch"
    with pytest.raises(ValueError, match=f"does not know `{name}: {value}`"):
        codec("native", **{name: value})


def test_a_backend_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be"):
        codec("numpy")  # pyright: ignore[reportArgumentType]
    with pytest.raises((ValueError, NativeError)):
        MomentumCodec(SHAPES, CompressionConfig(), CPU, product_dtype=torch.float64, backend="native")
