"""The head of a file of tensors: what is written is read by the library, and nothing else is read here."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from templar_pl.errors import CheckpointError, Fault
from templar_pl.protocol.tensor_layout import (
    DTYPES,
    Layout,
    TensorForm,
    decode_header,
    difference,
    encode_header,
    file_bytes,
    layout_of,
)

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
tensors = st.dictionaries(
    names, st.tuples(st.sampled_from(list(DTYPES.values())), shapes).map(lambda f: torch.ones(f[1], dtype=f[0]))
)


def content(layout: Layout, values: dict[str, Tensor]) -> bytes:
    """Return the bytes of a whole file, by another way than the code's."""
    return encode_header(layout) + b"".join(
        struct.pack(f"<{values[name].nbytes}B", *values[name].reshape(-1).view(torch.uint8).tolist()) for name in layout
    )


@given(tensors)
def test_the_library_reads_what_is_written(values: dict[str, Tensor]) -> None:
    layout = layout_of(values)

    data = content(layout, values)
    read = safetensors.torch.load(data)

    assert len(data) == file_bytes(layout)
    assert read.keys() == values.keys()
    for name, value in values.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


@given(tensors)
def test_every_tensor_is_aligned(values: dict[str, Tensor]) -> None:
    layout = layout_of(values)
    place = len(encode_header(layout))

    for form in layout.values():
        assert place % form.dtype.itemsize == 0
        place += form.nbytes


@given(tensors)
def test_decoding_undoes_encoding(values: dict[str, Tensor]) -> None:
    layout = layout_of(values)

    assert list(decode_header(encode_header(layout)).items()) == list(layout.items())


def test_one_dtype_gives_the_bytes_of_the_library() -> None:
    values = {name: torch.arange(6.0).reshape(2, 3) for name in ("b", "a.weight", "a.bias", "é")}

    assert content(layout_of(values), values) == safetensors.torch.save(values)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_type(data: bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        decode_header(data)
    assert caught.value.fault is Fault.FORMAT


GOOD = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
)


def header(entries: object, spaces: str = "") -> bytes:
    text = (json.dumps(entries, separators=(",", ":")) + spaces).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def test_the_header_that_others_are_made_of_is_good() -> None:
    assert decode_header(header(GOOD)) == {"w": TensorForm(torch.float32, (2, 3))}


@given(st.sampled_from(["dtype", "shape", "data_offsets"]), json_values)
def test_any_other_value_of_a_field_is_refused(field: str, value: object) -> None:
    if value == GOOD["w"][field]:
        return
    with pytest.raises(CheckpointError):
        decode_header(header({"w": {**GOOD["w"], field: value}}))


def entry(dtype: str, shape: list[object], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE: dict[str, Callable[[], bytes]] = {
    "overlapping": lambda: header({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}),
    "the same place twice": lambda: header({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 0, 8)}),
    "a gap": lambda: header({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 16, 24)}),
    "a gap in front": lambda: header({"a": entry("F32", [2], 8, 16)}),
    "another order": lambda: header({"b": entry("F32", [2], 0, 8), "a": entry("F32", [2], 8, 16)}),
    "small elements first": lambda: header({"a": entry("U8", [8], 0, 8), "b": entry("F32", [2], 8, 16)}),
    "a place that runs backwards": lambda: header({"a": entry("F32", [2], 8, 0)}),
    "a negative size": lambda: header({"a": entry("F32", [-2], 0, -8)}),
    "a size that is true": lambda: header({"a": entry("F32", [True], 0, 4)}),
    "a fraction as a size": lambda: header({"a": entry("F32", [2.0], 0, 8)}),
    "a size beyond 64 bits": lambda: header({"a": entry("U8", [2**70], 0, 2**70)}),
    "sizes whose product is beyond 64 bits": lambda: header({"a": entry("U8", [2**40, 2**40], 0, 2**80)}),
    "sizes whose product wraps around to 0": lambda: header({"a": entry("U8", [2**32, 2**32], 0, 0)}),
    "too many dimensions": lambda: header({"a": entry("U8", [1] * 17, 0, 1)}),
    "truth values": lambda: header({"a": entry("BOOL", [2], 0, 2)}),
    "8-bit fractions": lambda: header({"a": entry("F8_E5M2", [2], 0, 2)}),
    "a dtype in lower case": lambda: header({"a": entry("f32", [2], 0, 8)}),
    "a dtype of another size": lambda: header({"w": {**GOOD["w"], "dtype": "F16"}}),
    "metadata": lambda: header({"__metadata__": {"a": "b"}, **GOOD}),
    "a field more": lambda: header({"w": {**GOOD["w"], "more": 1}}),
    "a tensor that is a list": lambda: header({"w": []}),
    "a list": lambda: header([]),
    "a space": lambda: header(GOOD).replace(b":{", b": {", 1),
    "eight spaces more": lambda: header(GOOD, " " * 8),
    "a name twice": lambda: struct.pack("<Q", 0) + b'{"w":{},"w":{}}',
    "a tensor twice": lambda: (
        header(GOOD)[:8]
        + header(GOOD)[8:].rstrip(b" ").replace(b"}}", b"}}", 1)[:-1]
        + b","
        + json.dumps(GOOD, separators=(",", ":")).encode()[1:]
    ),
    "an escape that is not needed": lambda: header(GOOD).replace(b'"w"', b'"\\u0077"'),
    "half of a character": lambda: header({"\ud800": GOOD["w"]}),
    "nested deep": lambda: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a length too short": lambda: struct.pack("<Q", 8) + header(GOOD)[8:],
    "numbers of 5000 digits": lambda: header(GOOD).replace(b"24", b"2" * 5000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_head_is_refused_with_a_type(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        decode_header(HOSTILE[name]())

    assert caught.value.fault is Fault.FORMAT
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e5m2])
def test_a_tensor_that_cannot_be_stored_is_named(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"w cannot be stored: dtype must be one of F64.*got torch"):
        layout_of({"w": torch.empty(2, dtype=dtype)})


def test_the_name_that_the_format_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        encode_header({"__metadata__": TensorForm(torch.float32, (1,))})


def test_the_first_difference_is_said_with_its_name() -> None:
    mine = layout_of({"a": torch.zeros(2), "b": torch.zeros(3)})

    assert difference(mine, mine) == ""
    assert difference({"a": mine["a"]}, mine) == "b is missing"
    assert difference({**mine, "c": mine["a"]}, mine) == "c is not known"
    assert difference({**mine, "b": mine["a"]}, mine) == "b is F32 [2], must be F32 [3]"
    assert math.prod(mine["a"].shape) == mine["a"].numel
