"""How long this machine takes to send and to receive, measured on a part of the model that fits into little memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from templar_pl.compression import Backend, ChunkGrid, MomentumCodec, encode_body, pack_body, unpack_body
from templar_pl.config import CompressionConfig

MAX_ELEMENTS = 2**22
"""Elements that are measured at most at a time: 16 MiB each of gradients, momentum and update."""

ROUNDS = 5  # the first does not count
MAX_BODIES = 16  # different ones; more peers than that repeat them
LR = 4e-4
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """What one window of compression takes, in seconds."""

    send: float
    """From gradients to the bytes that travel, checked gradients taken for granted."""

    receive_one: float
    """From the bytes of one payload, which are checked, to the update."""

    receive_all: float
    """The same of so many peers' payloads."""

    def __mul__(self, factor: float) -> Seconds:
        """Return what so many times the work takes."""
        return Seconds(
            send=self.send * factor, receive_one=self.receive_one * factor, receive_all=self.receive_all * factor
        )

    def __add__(self, other: Seconds) -> Seconds:
        """Return what both take, one after the other."""
        return Seconds(
            send=self.send + other.send,
            receive_one=self.receive_one + other.receive_one,
            receive_all=self.receive_all + other.receive_all,
        )


NO_SECONDS = Seconds(send=0.0, receive_one=0.0, receive_all=0.0)


class Stopwatch:
    """Measures groups of parameters; groups that need the same work are measured once."""

    def __init__(self, config: CompressionConfig, *, backend: Backend, peers: int) -> None:
        """Store the settings.

        Args:
            config: numbers that all nodes share.
            backend: what computes.
            peers: payloads that are received together; 1..MAX_PEERS.

        Raises:
            NativeError: the compiled library was asked for and is not there.
            ValueError: native was asked for and cannot do this.
        """
        self.backend: Literal["native", "torch"] = MomentumCodec({"trial": (1,)}, config, _CPU, backend=backend).backend
        """Which one computes."""

        self._config, self._peers = config, peers
        self._measured: dict[tuple[tuple[int, ...], int], Seconds] = {}

    def measure(self, grids: Mapping[str, ChunkGrid]) -> Seconds:
        """Measure parameters of one shape with random gradients, one time for all of them.

        As many as MAX_ELEMENTS allow are measured, at least a part of one; the rest is taken to be like them.
        """
        chunks = sum(grid.num_chunks for grid in grids.values())
        if not chunks:
            return NO_SECONDS
        sample = sample_of(next(iter(grids.values())))
        count = max(1, min(len(grids), MAX_ELEMENTS // math.prod(sample.shape)))
        if (sample.shape, count) not in self._measured:
            self._measured[sample.shape, count] = self._measure(sample.shape, count)
        return self._measured[sample.shape, count] * (chunks / (count * sample.num_chunks))

    def _measure(self, shape: tuple[int, ...], count: int) -> Seconds:
        """Send several times, then receive what was sent."""
        shapes = {str(number): shape for number in range(count)}
        codec = MomentumCodec(shapes, self._config, _CPU, backend=self.backend)
        generator = torch.Generator().manual_seed(0)
        gradients = {name: torch.empty(grid.shape) for name, grid in codec.grids.items()}
        lr, sent, send_s = dict.fromkeys(gradients, LR), [], []
        for _ in range(max(ROUNDS, min(self._peers, MAX_BODIES))):
            for gradient in gradients.values():
                gradient.normal_(generator=generator)
            start = time.perf_counter()
            body = encode_body(codec.send_(gradients, lr), codec.grids)
            sent.append(pack_body(body, backend=self.backend))
            send_s.append(time.perf_counter() - start)

        def receive(peers: int) -> None:
            received = [sent[number % len(sent)] for number in range(peers)]
            bodies = [unpack_body(data, codec.grids, backend=self.backend) for data in received]
            codec.update(bodies, out=gradients)

        return Seconds(
            send=statistics.median(send_s[1:]),
            receive_one=median_s(lambda: receive(1)),
            receive_all=median_s(lambda: receive(self._peers)),
        )


def sample_of(grid: ChunkGrid) -> ChunkGrid:
    """Return the largest part of a parameter, as a matrix, with the same chunks and at most MAX_ELEMENTS elements."""
    if grid.is_vector:
        return replace(grid, shape=(min(grid.columns, MAX_ELEMENTS),))
    columns = min(grid.columns, MAX_ELEMENTS // grid.height // grid.width * grid.width)
    rows = min(grid.rows, max(1, MAX_ELEMENTS // columns // grid.height) * grid.height)
    return replace(grid, shape=(rows, columns))


def median_s(operation: Callable[[], None]) -> float:
    """Return the median seconds of an operation, after a first time that does not count."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
