"""Fingerprints of parameters."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from templar_pl.protocol import TensorSum, combine_sums, fingerprint, partial_sum

MASK = 2**64 - 1
REAL_DTYPES = [
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def make_tensor(dtype: torch.dtype, numel: int, seed: int) -> Tensor:
    """Random values, every one different from its neighbours where the dtype allows it."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(numel, generator=generator).to(dtype)
    return torch.randint(0, 2 if dtype is torch.bool else 100, (numel,), generator=generator).to(dtype)


def slow_sum(tensor: Tensor) -> int:
    """SplitMix64 of every element, in Python's own integers."""
    bits = tensor.reshape(-1).view(INTEGERS[tensor.element_size()]).tolist()
    total = 0
    for place, element in enumerate(bits):
        z = (place * 0x9E3779B97F4A7C15 + element) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        total += z ^ (z >> 31)
    return total & MASK


@given(st.sampled_from(REAL_DTYPES), st.integers(0, 40), st.integers(0, 1000))
def test_a_sum_is_that_of_the_slow_reference(dtype: torch.dtype, numel: int, seed: int) -> None:
    tensor = make_tensor(dtype, numel, seed)

    assert int(partial_sum(tensor)) % 2**64 == slow_sum(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_sum_of_many_blocks_is_that_of_the_slow_reference(dtype: torch.dtype) -> None:
    tensor = make_tensor(dtype, 100_003, seed=1)

    assert int(partial_sum(tensor)) % 2**64 == slow_sum(tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_a_sum_is_the_same_on_cuda(dtype: torch.dtype) -> None:
    tensor = make_tensor(dtype, 5_000_001, seed=1)

    assert int(partial_sum(tensor.cuda(), 7)) == int(partial_sum(tensor, 7))


@given(st.lists(st.integers(0, 200_000), max_size=4))
def test_pieces_add_up_to_the_whole(cuts: list[int]) -> None:
    whole = make_tensor(torch.float32, 200_000, seed=0)
    edges = [0, *sorted(cuts), whole.numel()]

    pieces = [partial_sum(whole[start:end], start) for start, end in pairwise(edges)]

    assert torch.equal(torch.stack(pieces).sum(), partial_sum(whole))


@given(st.sampled_from(REAL_DTYPES[:-1]), st.integers(0, 70_000), st.data())
def test_one_flipped_bit_changes_the_sum(dtype: torch.dtype, place: int, data: st.DataObject) -> None:
    tensor = make_tensor(dtype, 70_001, seed=1)
    bits = tensor.element_size() * 8
    flip = data.draw(st.integers(0, bits - 1))
    flipped = tensor.clone()

    as_bytes = flipped.view(torch.uint8)
    as_bytes[place * bits // 8 + flip // 8] ^= 1 << (flip % 8)

    assert int(partial_sum(flipped)) != int(partial_sum(tensor))


@given(st.integers(0, 69_999), st.integers(0, 69_999))
def test_two_swapped_elements_change_the_sum(first: int, second: int) -> None:
    tensor = torch.arange(70_000, dtype=torch.float32)
    swapped = tensor.clone()

    swapped[[first, second]] = tensor[[second, first]]

    assert (int(partial_sum(swapped)) == int(partial_sum(tensor))) == (first == second)


def test_the_sign_of_a_zero_changes_the_fingerprint() -> None:
    assert fingerprint({"a": torch.tensor([0.0])}) != fingerprint({"a": torch.tensor([-0.0])})


def test_name_dtype_and_shape_change_the_fingerprint() -> None:
    zeros = torch.zeros(2, 3)
    variants = [{"a": zeros}, {"b": zeros}, {"a": zeros.to(torch.int32)}, {"a": zeros.T}, {"a": zeros, "b": zeros[:0]}]

    assert len({fingerprint(variant) for variant in variants}) == len(variants)


def test_neither_names_order_nor_memory_layout_change_the_fingerprint() -> None:
    first, second = torch.randn(5, 7), torch.randn(3)
    same_in_other_memory = first.T.contiguous().T

    assert fingerprint({"a": first, "b": second}) == fingerprint({"b": second, "a": same_in_other_memory})


def test_a_parameter_that_requires_a_gradient_has_a_fingerprint() -> None:
    values = torch.randn(4)

    assert fingerprint({"a": torch.nn.Parameter(values)}) == fingerprint({"a": values})


def test_a_fingerprint_is_the_hash_of_what_is_documented() -> None:
    tensor = torch.tensor([[1.0, -2.0, 0.5]])
    content = b"templar_pl/fingerprint/1\0"
    for name, value in (("a", tensor), ("b", tensor.to(torch.bfloat16))):
        dtype = str(value.dtype).split(".")[1].encode()
        content += struct.pack("<I", 1) + name.encode() + struct.pack("<I", len(dtype)) + dtype
        content += struct.pack("<IQQQ", 2, 1, 3, slow_sum(value))

    assert fingerprint({"b": tensor.to(torch.bfloat16), "a": tensor}) == hashlib.sha256(content).digest()


def test_a_fingerprint_is_the_same_on_every_platform() -> None:
    tensors = {
        "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8,
        "bias": torch.tensor([-0.0, 1.5], dtype=torch.bfloat16),
        "steps": torch.tensor(7),
    }

    assert fingerprint(tensors).hex() == "75407f439e1f0d58831aa17b3ac624c6054fc8d6fcc78f20baf7971542f10dfb"


def test_shards_give_the_fingerprint_of_the_whole() -> None:
    whole = torch.randn(8, 5)
    shards = [partial_sum(whole[:3], 0), partial_sum(whole[3:], 15)]

    value = sum(int(shard) for shard in shards)

    assert combine_sums({"a": TensorSum(whole.dtype, (8, 5), value)}) == fingerprint({"a": whole})


def test_what_has_no_order_of_bits_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs real numbers or booleans, got torch\.complex64"):
        partial_sum(torch.zeros(2, dtype=torch.complex64))


def test_a_negative_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset must be at least 0, got -1"):
        partial_sum(torch.zeros(2), -1)
