"""How fast is compression, against the published reference scheme and against this machine's limits?

    python benchmarks/compression.py [--quick] [--rounds 5] [--json out.json]

All schemes take turns within one run, so that a busy machine slows all of them. `send` is momentum, DCT, top-k, values,
index coding and residual, from gradients to bytes; `receive_P` is from the bytes of P peers, checked, to the sign
update of every parameter. The reference sends int64 indices and fp32 values as they are, and checks nothing.
The gradients of `send` are taken as checked.

Keys of the JSON file:
    machine.cpu                      name of the processor
    machine.threads.T                limits with T threads, the best of several runs over 256 MiB: `read_bytes_per_s` (a
                                     maximum), `write_bytes_per_s` (a fill), `copy_bytes_per_s` (read + written); and
                                     `flop_per_s` (of a large fp32 matrix product)
    scopes.S.parameters, .chunks     elements and chunks of scope S (see `model_shapes.py`)
    scopes.S.threads.T.O.X           operation O (`send`, `receive_1`, `receive_16`) by scheme X (`reference`, `torch`,
                                     `native` if it is built):
        median_s, least_s            seconds
        times_faster                 median of the reference / median
        share_of_limit               least time at the machine's limits / median; the least time is that of memory
                                     or of arithmetic, whichever is longer. Memory: `send` reads the gradient (4 B an
                                     element) and reads and writes the momentum (8 B, as a copy does); `receive_P` reads
                                     the bytes of P payloads and writes the update (4 B). Arithmetic: a 64 x 64 DCT
                                     by three even/odd splits; on receipt one stage takes only the coefficients sent.
                                     A scope that fits into the cache can pass the memory's limit
    scopes.S.extra_bytes.O.X         growth of the peak resident memory during one operation, with one thread; without
                                     gradients, momentum and received bytes, with what is sent or returned
    scopes.S.threads.T.O.compact     the same of native (torch, if native is not built) with `index_coding: compact`;
                                     its limit is that of native
    bytes_per_chunk.X                of a 64 x 64 chunk at k = 32, from the lengths of what X sends
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

# As `python -m templar_pl` does: threads of torch that spin while they wait take the core from whatever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent

from benchmarks.memory import extra_bytes
from benchmarks.model_shapes import SCOPES
from benchmarks.reference import ReferenceCodec, ReferencePayload
from templar_pl.compression import (
    Body,
    MomentumCodec,
    body_bytes,
    chunk_grid,
    dequantise,
    encode_body,
    native_fault,
    pack_body,
    travel_bytes,
    unpack_body,
)
from templar_pl.config import CompressionConfig, IndexCoding

PEERS = (1, 16)
LR = 4e-4
TOPK = CompressionConfig().topk
SIDE = CompressionConfig().chunk_size
STAGE_FLOP = 2 * 64 * (32 * 32 + 16 * 16 + 8 * 8 + 8 * 8)  # one of the two stages of a 64 x 64 transform
QUICK_SCOPE = "layer_150m"


class Scheme(Protocol):
    """One way to compress."""

    def send(self) -> object:
        """Turn gradients into what travels."""
        ...

    def receive(self, num_peers: int) -> object:
        """Turn what so many peers sent into an update."""
        ...


class Reference(Scheme):
    """The published scheme."""

    def __init__(self, gradients: dict[str, Tensor], bodies: list[Body]) -> None:
        self._gradients = gradients
        self._codec = ReferenceCodec({name: tuple(g.shape) for name, g in gradients.items()})
        self._received = [_as_reference(body) for body in bodies]

    def send(self) -> object:
        """Send."""
        return self._codec.send(self._gradients, LR)

    def receive(self, num_peers: int) -> object:
        """Receive."""
        return self._codec.receive(self._received[:num_peers])


class Ours(Scheme):
    """The package's codec with one backend. The update goes where the gradient was, as it does in training."""

    def __init__(
        self, backend: str, gradients: dict[str, Tensor], bodies: list[Body], index_coding: IndexCoding = "elias_fano"
    ) -> None:
        self._gradients = gradients
        self._codec = new_codec(gradients, backend, index_coding)
        self._out = {name: torch.empty_like(gradient) for name, gradient in gradients.items()}
        self._received = [
            pack_body(encode_body(body, self._codec.grids), backend=self._codec.backend) for body in bodies
        ]
        self._lr = dict.fromkeys(gradients, LR)

    def send(self) -> object:
        """Send."""
        body = encode_body(self._codec.send_(self._gradients, self._lr), self._codec.grids)
        return pack_body(body, backend=self._codec.backend)

    def receive(self, num_peers: int) -> object:
        """Check and receive."""
        bodies = [
            unpack_body(data, self._codec.grids, backend=self._codec.backend) for data in self._received[:num_peers]
        ]
        return self._codec.update(bodies, out=self._out)


def new_codec(gradients: Mapping[str, Tensor], backend: str, index_coding: IndexCoding = "elias_fano") -> MomentumCodec:
    """Return a codec for these parameters with the default numbers."""
    shapes = {name: tuple(gradient.shape) for name, gradient in gradients.items()}
    return MomentumCodec(shapes, CompressionConfig(index_coding=index_coding), torch.device("cpu"), backend=backend)  # pyright: ignore


def _as_reference(body: Body) -> ReferencePayload:
    """Say the same in the reference's form: chunks in rows, in the order of `ReferenceCodec`."""
    payload = ReferencePayload({}, {})
    for name, chunks in body.items():
        grid = body.grids[name]
        lead = (grid.num_chunks,) if grid.is_vector else (grid.chunk_rows, grid.chunk_columns)
        payload.indices[name] = chunks.indices.long().view(*lead, grid.topk)
        payload.values[name] = dequantise(chunks).view(*lead, grid.topk)
    return payload


def received_bodies(gradients: Mapping[str, Tensor], backend: str, count: int) -> list[Body]:
    """Return what peers send that have had one random gradient each."""
    lr, bodies = dict.fromkeys(gradients, LR), []
    for _ in range(count):
        codec = new_codec(gradients, backend)
        bodies.append(
            encode_body(codec.send_({n: torch.randn(g.shape) for n, g in gradients.items()}, lr), codec.grids)
        )
    return bodies


def median_times(operations: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each operation in each round, in turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    for number in range(rounds + 1):
        for name, operation in operations.items():
            start = time.perf_counter()
            operation()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def machine_limits() -> dict[str, float]:
    """Measure what memory and arithmetic of this machine can do with the threads that are set."""
    source, target = torch.ones(2**26), torch.zeros(2**26)
    matrix = torch.randn(1536, 1536)
    operations: dict[str, Callable[[], object]] = {
        "read": source.amax,
        "write": lambda: target.fill_(1.0),
        "copy": lambda: target.copy_(source),
        "product": lambda: matrix @ matrix,
    }
    least = {name: min(seconds) for name, seconds in median_times(operations, 5).items()}
    num_bytes = source.element_size() * source.numel()
    return {
        "read_bytes_per_s": num_bytes / least["read"],
        "write_bytes_per_s": num_bytes / least["write"],
        "copy_bytes_per_s": 2 * num_bytes / least["copy"],
        "flop_per_s": 2 * 1536**3 / least["product"],
    }


def limit_s(peers: int, shapes: Mapping[str, tuple[int, ...]], limits: Mapping[str, float]) -> float:
    """Return the least seconds of an operation, as the top of this file says.

    Args:
        peers: whose payloads are received; 0 to send.
        shapes: of the parameters.
        limits: of the machine.
    """
    grids = {name: chunk_grid(shape, chunk_size=SIDE, topk=TOPK) for name, shape in shapes.items()}
    update_bytes = 4 * sum(math.prod(shape) for shape in shapes.values())
    chunks = sum(grid.num_chunks for grid in grids.values() if not grid.is_vector)
    if peers:
        memory_s = update_bytes / limits["write_bytes_per_s"]
        memory_s += peers * body_bytes(grids) / limits["read_bytes_per_s"]
        flop = chunks * (STAGE_FLOP + min(STAGE_FLOP, 2 * SIDE * TOPK * peers))
    else:
        memory_s = update_bytes / limits["read_bytes_per_s"] + 2 * update_bytes / limits["copy_bytes_per_s"]
        flop = 2 * chunks * STAGE_FLOP
    return max(memory_s, flop / limits["flop_per_s"])


def bytes_per_chunk() -> dict[str, float]:
    """Return the bytes that a 64 x 64 chunk adds to what each scheme sends; eight, since compact ones share bytes."""
    shapes = {"one": (SIDE, SIDE)}, {"one": (SIDE, SIDE), "eight": (8 * SIDE, SIDE)}
    sent = [ReferenceCodec(s).send({n: torch.randn(shape) for n, shape in s.items()}, LR) for s in shapes]
    raw = [sum(t.numel() * t.element_size() for p in (x.indices, x.values) for t in p.values()) for x in sent]
    plain, compact = (_ours_per_chunk(coding) for coding in ("elias_fano", "compact"))
    return {"reference": (raw[1] - raw[0]) / 8, "torch": plain, "native": plain, "compact": compact}


def _ours_per_chunk(index_coding: IndexCoding) -> float:
    eight, sixteen = (
        travel_bytes({"w": chunk_grid((n * SIDE, SIDE), chunk_size=SIDE, topk=TOPK, index_coding=index_coding)})
        for n in (8, 16)
    )
    return (sixteen - eight) / 8


def operations_of(schemes: Mapping[str, Scheme]) -> dict[str, dict[str, Callable[[], object]]]:
    """Return operation -> scheme -> what to call."""
    operations: dict[str, dict[str, Callable[[], object]]] = {"send": {n: s.send for n, s in schemes.items()}}
    for peers in PEERS:
        operations[f"receive_{peers}"] = {n: lambda s=s, p=peers: s.receive(p) for n, s in schemes.items()}
    return operations


def measure_scope(shapes: Mapping[str, tuple[int, ...]], machine: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Measure all operations of all schemes on one set of parameters."""
    gradients = {name: torch.randn(shape) for name, shape in shapes.items()}
    backends = ["torch"] if native_fault() else ["torch", "native"]
    bodies = received_bodies(gradients, backends[-1], max(PEERS))
    schemes: dict[str, Scheme] = {"reference": Reference(gradients, bodies)}
    schemes |= {backend: Ours(backend, gradients, bodies) for backend in backends}
    schemes["compact"] = Ours(backends[-1], gradients, bodies, "compact")
    parameters = sum(g.numel() for g in gradients.values())
    chunks = sum(grid.num_chunks for grid in bodies[0].grids.values())
    operations, timed = operations_of(schemes), {}
    peers_of = {"send": 0} | {f"receive_{peers}": peers for peers in PEERS}
    for threads, limits in machine["threads"].items():
        torch.set_num_threads(int(threads))
        timed[threads] = {}
        for operation, calls in operations.items():
            seconds = median_times(calls, rounds)
            reference = statistics.median(seconds["reference"])
            timed[threads][operation] = {
                scheme: {
                    "median_s": (median := statistics.median(all_s)),
                    "least_s": min(all_s),
                    "times_faster": reference / median,
                    "share_of_limit": limit_s(peers_of[operation], shapes, limits) / median,
                }
                for scheme, all_s in seconds.items()
            }
    torch.set_num_threads(1)
    extra = {o: {scheme: extra_bytes(call) for scheme, call in calls.items()} for o, calls in operations.items()}
    return {"parameters": parameters, "chunks": chunks, "threads": timed, "extra_bytes": extra}


def show(scope: str, result: Mapping[str, Any]) -> None:
    """Print the table of one scope."""
    print(f"\n{scope}: {result['parameters'] / 1e6:.1f} M parameters, {result['chunks']} chunks")
    print("threads  operation     scheme  median ms   times  share of limit  extra MB")
    for threads, operations in result["threads"].items():
        for operation, schemes in operations.items():
            for scheme, got in schemes.items():
                extra = result["extra_bytes"][operation][scheme] / 1e6
                print(
                    f"{threads:>7} {operation:>10} {scheme:>10} {got['median_s'] * 1e3:>10.1f} "
                    f"{got['times_faster']:>7.2f} {got['share_of_limit']:>15.2f} {extra:>9.1f}"
                )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--quick", action="store_true", help="a few seconds: one layer, two rounds")
    parser.add_argument("--rounds", type=int, default=5, help="times that each operation is measured")
    parser.add_argument("--scopes", nargs="+", choices=list(SCOPES), default=list(SCOPES), help="what to measure")
    arguments = parser.parse_args()
    scopes, rounds = ([QUICK_SCOPE], 2) if arguments.quick else (arguments.scopes, arguments.rounds)
    torch.manual_seed(0)
    machine: dict[str, Any] = {"cpu": platform.processor() or platform.machine(), "threads": {}}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        machine["threads"][str(threads)] = machine_limits()
    print(json.dumps(machine))
    if fault := native_fault():
        print(f"native is not measured: {fault}")
    results: dict[str, Any] = {}
    for scope in scopes:
        results[scope] = measure_scope(SCOPES[scope], machine, rounds)
        show(scope, results[scope])
    chunk_bytes = bytes_per_chunk()
    print(f"\nbytes a 64 x 64 chunk: {chunk_bytes}")
    if arguments.json:
        report = {"machine": machine, "scopes": results, "bytes_per_chunk": chunk_bytes}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
