"""Files of tensors of any content: read in one way, or refused with a type."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import CheckpointError, Fault, StoreError
from templar_pl.exchange.tensor_files import open_tensors, write_tensors

VALUES = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor(3, dtype=torch.int8)}


def names(path: Path, max_header_bytes: int = 1000) -> list[str]:
    with open_tensors(path, max_header_bytes=max_header_bytes) as file:
        return list(file.layout)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "good"
    write_tensors(path, VALUES)
    return path


@given(data=st.binary(max_size=100))
def test_any_bytes_are_refused_with_a_type(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(data)

    with pytest.raises(CheckpointError):
        names(path)


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_leaves_another_layout_of_the_same_size(good: Path, place: int, bit: int) -> None:
    data = bytearray(good.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path = good.with_name("flipped")
    path.write_bytes(bytes(data))

    try:
        with open_tensors(path, max_header_bytes=1000) as file:
            assert sum(file.read(name).nbytes for name in file.layout) == 49
    except CheckpointError as error:
        assert error.fault in (Fault.FORMAT, Fault.SIZE)  # noqa: PT017 - some bits only change a number


@given(length=st.integers(0, 10**4))
def test_a_file_that_is_cut_is_refused(good: Path, length: int) -> None:
    data = good.read_bytes()
    path = good.with_name("cut")
    path.write_bytes(data[: length % len(data)])

    with pytest.raises(CheckpointError):
        names(path)


def test_a_head_longer_than_allowed_is_refused_unread(good: Path) -> None:
    length = struct.unpack("<Q", good.read_bytes()[:8])[0]

    assert names(good, length + 8) == ["w", "b"]
    with pytest.raises(CheckpointError, match=f"has {length + 8} bytes, and {length + 7} are allowed"):
        names(good, length + 7)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40])
def test_a_head_longer_than_the_file_is_refused_unread(tmp_path: Path, length: int) -> None:
    (tmp_path / "file").write_bytes(struct.pack("<Q", length) + b"{}      ")

    with pytest.raises(CheckpointError, match="the head of the file has"):
        names(tmp_path / "file", 2**65)


def test_a_file_that_exists_is_not_overwritten(good: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        write_tensors(good, VALUES)


def test_a_file_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        names(tmp_path / "absent")
