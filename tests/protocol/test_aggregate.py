"""The update of one window, as bytes."""

from __future__ import annotations

import hashlib
import math
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from templar_pl.errors import AggregateError, Fault
from templar_pl.protocol import (
    AggregateHead,
    Shapes,
    check_aggregate,
    decode_aggregate,
    encode_aggregate,
    max_aggregate_bytes,
    shapes_digest,
)
from templar_pl.units import Window
from tests.protocol.aggregates import (
    Update,
    by_name,
    cut,
    encoded,
    head,
    shapes_of,
    signed,
    slow_aggregate,
    slow_head,
    small_update,
    updates,
)
from tests.protocol.documents import GOLDEN
from tests.protocol.samples import HashSigner, verify_hash

MIB = 2**20
HEAD_BYTES = 144
SMALL: Update = {
    "weight": torch.tensor([[1, -1, 0], [-1, 1, 1]]),
    "bias": torch.tensor([0.0, 0.0, 0.0, 1.0]),
    "empty": torch.zeros(0),
    "scale": torch.tensor(-1),
}
SHAPES = shapes_of(SMALL)
GOOD = slow_aggregate(head(), SMALL, HashSigner())
GOLDEN_FILE = GOLDEN / "aggregate_v1.bin"


def decode(data: bytes | Iterable[bytes], shapes: Shapes = SHAPES, expected: AggregateHead | None = None) -> Update:
    chunks = [data] if isinstance(data, bytes) else data
    return dict(decode_aggregate(chunks, shapes, expected or head(), verify_hash))


def fault_of(data: bytes, shapes: Shapes = SHAPES) -> Fault:
    with pytest.raises(AggregateError) as caught:
        decode(data, shapes)
    assert len(str(caught.value)) < 300
    return caught.value.fault


def rehashed(pieces: Iterable[bytes]) -> bytes:
    """Put good hashes and a good signature around the bytes of parameters: a hostile aggregator can."""
    data = slow_head(head(), SMALL)
    for piece in pieces:
        data += piece
        data += hashlib.sha256(data).digest()
    return signed(data, HashSigner())


@given(updates())
def test_an_aggregate_has_the_bytes_of_the_slow_reference(update: Update) -> None:
    assert encoded(update) == slow_aggregate(head(), update, HashSigner())


@given(updates(), st.integers(1, 300))
def test_decoding_undoes_encoding_whatever_the_chunks(update: Update, size: int) -> None:
    decoded = decode(cut(encoded(update), size), shapes_of(update))

    assert list(decoded) == sorted(update)
    for name, tensor in decoded.items():
        assert tensor.dtype == torch.int8
        assert tensor.shape == update[name].shape
        assert torch.equal(tensor, update[name].to(torch.int8))


@given(updates(), st.sampled_from([torch.int8, torch.float32, torch.float64]))
def test_tensors_have_the_dtype_that_was_asked_for(update: Update, dtype: torch.dtype) -> None:
    decoded = dict(decode_aggregate([encoded(update)], shapes_of(update), head(), verify_hash, dtype=dtype))

    for name, tensor in decoded.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, update[name].to(dtype))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, 2), st.booleans())
def test_checking_refuses_just_what_decoding_refuses(place: int, byte: int, more: int, is_signed: bool) -> None:
    changed = bytearray(GOOD)
    changed[place] = byte
    data = bytes(changed[:-96] if is_signed else changed)
    data = (signed(data, HashSigner()) if is_signed else data) + bytes(more)

    def fault(read: Callable[[], object]) -> Fault | None:
        try:
            read()
        except AggregateError as error:
            return error.fault
        return None

    assert fault(lambda: check_aggregate([data], SHAPES, head(), verify_hash)) is fault(lambda: decode(data))


def test_no_tensor_that_was_yielded_is_kept_while_the_next_one_is_read() -> None:
    update = {name: torch.ones(2**18 + 1) for name in "abc"}
    decoding = decode_aggregate([encoded(update)], shapes_of(update), head(), verify_hash, dtype=torch.float32)

    places = set()
    for _ in range(3):
        _, tensor = next(decoding)
        places.add(tensor.data_ptr())
        del tensor

    assert len(places) == 1


def test_no_tensor_is_held_while_the_next_one_of_an_update_is_made() -> None:
    shapes = dict.fromkeys("abc", (2**18 + 1,))
    made: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def fresh(shape: tuple[int, ...]) -> Tensor:
        held.append(sum(tensor() is not None for tensor in made))
        tensor = torch.ones(shape)
        made.append(weakref.ref(tensor))
        return tensor

    list(encode_aggregate(head(), ((name, fresh(shape)) for name, shape in shapes.items()), shapes, HashSigner()))

    assert held == [0, 0, 0]


@given(updates())
def test_no_aggregate_is_longer_than_is_said(update: Update) -> None:
    assert len(encoded(update)) <= max_aggregate_bytes(shapes_of(update))


def test_the_longest_aggregate_of_a_large_model_is_near_the_bound_of_information() -> None:
    shapes = {"embedding": (32_000, 2048), "layer": (8192, 2048)}
    elements = 40_192 * 2048

    assert max_aggregate_bytes(shapes) / elements < 1.001 * math.log2(3) / 8


def test_empty_chunks_between_others_change_nothing() -> None:
    assert list(decode([b"", GOOD[:200], b"", b"", GOOD[200:], b""])) == sorted(SMALL)


@given(st.binary(max_size=2 * len(GOOD)))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert fault_of(data) in {Fault.SIZE, Fault.FORMAT}


@given(st.binary(max_size=len(GOOD)), st.integers(0, len(GOOD)))
def test_any_bytes_behind_a_good_start_are_refused(data: bytes, kept: int) -> None:
    if GOOD[:kept] + data != GOOD:
        assert fault_of(GOOD[:kept] + data) in Fault


@given(st.binary(max_size=60), st.integers(0, 3))
def test_any_bytes_of_a_parameter_under_good_hashes_are_refused_or_encode_to_themselves(data: bytes, at: int) -> None:
    pieces = [slow_piece(name) for name in sorted(SMALL)]
    pieces[at] = data
    whole = rehashed(pieces)

    try:
        update = decode(whole)
    except AggregateError:
        return
    assert encoded(update) == whole


def slow_piece(name: str) -> bytes:
    """The bytes of a parameter without its hash."""
    alone = slow_aggregate(head(), {name: SMALL[name]}, HashSigner())
    return alone[HEAD_BYTES:-128]


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_anywhere_is_refused(bit: int) -> None:
    for place in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[place] ^= 1 << bit
        assert fault_of(bytes(changed)) in Fault


@pytest.mark.parametrize("length", range(0, len(GOOD), 3))
def test_a_shorter_aggregate_is_refused(length: int) -> None:
    assert fault_of(GOOD[:length]) is Fault.SIZE


@pytest.mark.parametrize("more", [b"\0", GOOD])
def test_a_longer_aggregate_is_refused(more: bytes) -> None:
    assert fault_of(GOOD + more) is Fault.SIZE


@pytest.mark.parametrize(
    ("changes", "fault", "reason"),
    [
        ({"run": b"x" * 32}, Fault.RUN, "run must be 7878"),
        ({"window": Window(1235)}, Fault.WINDOW, "window must be 1235, got 1234"),
        ({"public_key": b"x" * 32}, Fault.SENDER, "public_key must be 7878"),
        ({"manifest": b"x" * 32}, Fault.HASH, "manifest must be 7878"),
    ],
)
def test_an_aggregate_of_something_else_is_refused_with_its_fault(
    changes: dict[str, Any], fault: Fault, reason: str
) -> None:
    with pytest.raises(AggregateError, match=reason) as caught:
        decode(GOOD, expected=head(**changes))

    assert caught.value.fault is fault


@pytest.mark.parametrize(
    "shapes",
    [
        SHAPES | {"weight": (3, 2)},
        SHAPES | {"weight": (6,)},
        SHAPES | {"more": (1,)},
        {name: shape for name, shape in SHAPES.items() if name != "empty"},
        {"waight" if name == "weight" else name: shape for name, shape in SHAPES.items()},
    ],
)
def test_an_aggregate_of_a_model_with_other_parameters_is_refused(shapes: Shapes) -> None:
    assert fault_of(GOOD, shapes) is Fault.CONTENT


@pytest.mark.parametrize(("at", "fault"), [(0, Fault.FORMAT), (4, Fault.FORMAT), (HEAD_BYTES - 1, Fault.CONTENT)])
def test_a_wrong_field_of_the_head_is_refused_with_its_fault(at: int, fault: Fault) -> None:
    changed = bytearray(GOOD[:-96])
    changed[at] ^= 1

    assert fault_of(signed(bytes(changed), HashSigner())) is fault


def test_the_signature_of_another_hotkey_is_refused() -> None:
    assert fault_of(signed(GOOD[:-96], HashSigner(b"x" * 32))) is Fault.SIGNATURE


def test_a_block_with_a_fault_is_named_before_its_tensor_is_yielded() -> None:
    pieces = [slow_piece(name) for name in sorted(SMALL)]
    pieces[3] = pieces[3][:-1] + b"\xff"
    decoding = decode_aggregate([rehashed(pieces)], SHAPES, head(), verify_hash)

    assert [next(decoding)[0] for _ in range(3)] == ["bias", "empty", "scale"]
    with pytest.raises(AggregateError, match="parameter weight, elements from 0 on: the padding") as caught:
        next(decoding)
    assert caught.value.fault is Fault.CONTENT


def test_a_tensor_is_not_yielded_before_the_hash_behind_it_was_right() -> None:
    first_hash = HEAD_BYTES + len(slow_piece("bias"))
    changed = bytearray(GOOD)
    changed[first_hash] ^= 1

    with pytest.raises(
        AggregateError, match="the hash at the end of bias is not that of the bytes before it"
    ) as caught:
        next(decode_aggregate([bytes(changed)], SHAPES, head(), verify_hash))

    assert caught.value.fault is Fault.HASH


@pytest.mark.parametrize("number", [2.0, -2.0, 0.5, 2.0**-99, 256.0, 257.0, math.nan, math.inf, -math.inf])
def test_other_numbers_are_refused_with_the_parameter(number: float) -> None:
    update = {"a": torch.ones(3), "b": torch.tensor([1.0, -1.0, number, 0.0])}

    with pytest.raises(ValueError, match=f"-1, 0 and 1, got {number} in b"):
        encoded(update)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "lacks 2 parameters, the first is a"),
        ([("a", torch.ones(2))], "lacks 1 parameters, the first is b"),
        ([("b", torch.ones(3)), ("a", torch.ones(2))], r"a of shape \(2,\) must come next, got b of shape \(3,\)"),
        ([("a", torch.ones(2)), ("b", torch.ones(2))], r"b of shape \(3,\) must come next, got b of shape \(2,\)"),
        ([("a", torch.ones(2)), ("b", torch.ones(3)), ("c", torch.ones(1))], "nothing must come next, got c"),
    ],
)
def test_an_update_of_other_parameters_is_refused(given: list[tuple[str, Tensor]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(encode_aggregate(head(), given, {"b": (3,), "a": (2,)}, HashSigner()))


def test_a_foreign_signer_and_a_short_signature_are_refused() -> None:
    class ShortSigner(HashSigner):
        def sign(self, message: bytes) -> bytes:
            return super().sign(message)[:32]

    with pytest.raises(ValueError, match="the head names 4b4b"):
        list(encode_aggregate(head(), by_name(SMALL), SHAPES, HashSigner(b"x" * 32)))
    with pytest.raises(ValueError, match="a signature must have 64 bytes, got 32"):
        list(encode_aggregate(head(), by_name(SMALL), SHAPES, ShortSigner()))


@pytest.mark.parametrize("changes", [{"run": b"x"}, {"manifest": b""}, {"window": -1}, {"window": 10**9}])
def test_a_head_that_does_not_fit_its_fields_is_not_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must have 32 bytes|must be in 0\.\.999999999"):
        head(**changes)


def test_tensors_in_any_memory_order_are_written_in_the_order_of_their_elements() -> None:
    weight = torch.tensor([[1, -1, 0], [-1, 1, 1]])

    assert encoded({"w": weight.T.contiguous().T}) == encoded({"w": weight})


def test_equal_shapes_have_equal_digests_in_any_order_and_others_have_others() -> None:
    assert shapes_digest({"a": (1, 2), "b": ()}) == shapes_digest({"b": (), "a": (1, 2)})
    others: list[Shapes] = [{"a": (1, 2)}, {"a": (2, 1)}, {"a": (2,)}, {"b": (1, 2)}, {"a": (1,), "2": ()}, {}]
    assert len({shapes_digest(shapes) for shapes in others}) == len(others)


def test_tensors_are_asked_for_one_by_one() -> None:
    asked: list[str] = []

    def feed() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in by_name(SMALL):
            asked.append(name)
            yield name, tensor

    pieces = encode_aggregate(head(), feed(), SHAPES, HashSigner())
    assert not asked
    next(pieces)  # the head
    next(pieces)
    assert asked == ["bias"]


def test_fifty_million_elements_pass_through_little_memory(tmp_path: Path) -> None:
    numel = 50_000_000
    values = torch.tensor([1, -1, -1, 1, 1, 1, -1], dtype=torch.int8).repeat(numel // 7 + 1)[:numel]
    values[::100_003] = 0
    values[2_000_000:3_000_000] = 0
    shapes = {"w": (numel,)}
    tracemalloc.start()  # counts what Python and numpy hold, not the one tensor, which is torch's

    with (tmp_path / "a").open("wb") as file:
        file.writelines(encode_aggregate(head(), [("w", values)], shapes, HashSigner()))
    with (tmp_path / "a").open("rb") as file:
        chunks = iter(partial(file.read, MIB), b"")
        decoded = dict(decode_aggregate(chunks, shapes, head(), verify_hash))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * MIB
    assert torch.equal(decoded["w"], values)
    assert 8 * (tmp_path / "a").stat().st_size / numel < 1.001


def test_an_aggregate_of_format_version_1_reads_for_ever() -> None:
    golden = GOLDEN_FILE.read_bytes()

    decoded = decode(golden, shapes_of(small_update()))

    for name, tensor in small_update().items():
        assert torch.equal(decoded[name], tensor)
    assert encoded(small_update()) == golden
