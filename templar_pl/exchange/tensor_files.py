"""Files of tensors (protocol/tensor_layout.py), written and read piece by piece.

The safetensors library writes from a dict of tensors that are all in memory, those of a GPU copied first; here one
tensor is on its way at a time. The library's reader takes these files.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from templar_pl.errors import CheckpointError, Fault
from templar_pl.exchange.disk import explained
from templar_pl.exchange.large_objects import FileDigest, SourceFile
from templar_pl.protocol.tensor_layout import LENGTH_BYTES, Layout, decode_header, encode_header, file_bytes, layout_of

_BLOCK_BYTES = 2**24

PIECE_NUMEL = 2**20
"""Elements of a piece."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Layout:
    """Write a file of tensors; holds 16 MiB of them, or one tensor that is not contiguous.

    Args:
        path: of the file, which must not exist.
        tensors: on any devices; they must not change meanwhile.

    Returns:
        What the file holds.

    Raises:
        ValueError: a tensor or name cannot be stored.
        StoreError: the disk failed.
    """
    layout = layout_of(tensors)
    with explained("write", path), path.open("xb", buffering=0) as file:
        _write_all(file, memoryview(encode_header(layout)))
        for name in layout:
            for block in _blocks(tensors[name]):
                _write_all(file, block)
    return layout


class TensorFile:
    """A file of tensors that is read; opened by `open_tensors`."""

    def __init__(self, path: Path, file: FileIO, layout: Layout) -> None:
        """Store an open file.

        Args:
            path: its name, for messages.
            file: open for reading.
            layout: what it holds.
        """
        self.layout = layout
        self._path, self._file = path, file
        self._places: dict[str, int] = {}
        place = len(encode_header(layout))
        for name, form in layout.items():
            self._places[name] = place
            place += form.nbytes

    def digest(self) -> FileDigest:
        """Hash the whole file. Raises `StoreError` if it has changed since, or the disk failed."""
        with explained("read", self._path):
            return SourceFile(self._path, self._file.fileno()).digest()

    def read(self, name: str) -> Tensor:
        """Read one tensor into memory.

        Raises:
            CheckpointError: the file has become shorter.
            StoreError: the disk failed.
        """
        form = self.layout[name]
        tensor = torch.empty(form.shape, dtype=form.dtype)
        self._read(self._places[name], tensor)
        return tensor

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Read one tensor piece by piece; PIECE_NUMEL elements in memory.

        Yields:
            The place of the first element, and (n,) elements in row-major order; the next ones overwrite them.

        Raises:
            CheckpointError: the file has become shorter.
            StoreError: the disk failed.
        """
        form = self.layout[name]
        numel = math.prod(form.shape)
        room = torch.empty(min(numel, PIECE_NUMEL), dtype=form.dtype)
        for start in range(0, numel, PIECE_NUMEL):
            piece = room[: numel - start]
            self._read(self._places[name] + start * form.dtype.itemsize, piece)
            yield start, piece

    def _read(self, place: int, tensor: Tensor) -> None:
        """Fill a contiguous tensor with what begins at a byte of the file."""
        left = _bytes_of(tensor)
        with explained("read", self._path):
            self._file.seek(place)
            while left:
                count = self._file.readinto(left) or 0
                if count == 0:
                    raise CheckpointError(f"{self._path} has become shorter while it was read", fault=Fault.SIZE)
                left = left[count:]


@contextmanager
def open_tensors(path: Path, *, max_header_bytes: int) -> Iterator[TensorFile]:
    """Open a file of tensors of any content.

    Args:
        path: of the file.
        max_header_bytes: a longer head is refused unread; reading one takes some 50 times as much memory at worst.

    Raises:
        CheckpointError: it is no such file in its only form (FORMAT), or ends too early or too late (SIZE).
        StoreError: the disk failed.
    """
    with explained("read", path):
        opened = path.open("rb", buffering=0)
    with opened as file:
        with explained("read", path):
            size = os.fstat(file.fileno()).st_size
            layout = _read_header(file, size, max_header_bytes)
        if (expected := file_bytes(layout)) != size:
            raise CheckpointError(f"{path} has {size} bytes, by its head {expected}", fault=Fault.SIZE)
        yield TensorFile(path, file, layout)


def _read_header(file: FileIO, size: int, max_header_bytes: int) -> Layout:
    start = file.read(LENGTH_BYTES) or b""
    length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else size
    if length + LENGTH_BYTES > min(size, max_header_bytes):
        allowed = f"and {max_header_bytes} are allowed in a file of {size}"
        raise CheckpointError(f"the head of the file has {length + LENGTH_BYTES} bytes, {allowed}", fault=Fault.FORMAT)
    return decode_header(start + (file.read(length) or b""))


def _blocks(tensor: Tensor) -> Iterator[memoryview]:
    flat = tensor.detach().contiguous().reshape(-1)
    step = _BLOCK_BYTES // flat.element_size()
    for start in range(0, flat.numel(), step):
        yield _bytes_of(flat[start : start + step].cpu())


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, as they lie in memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
