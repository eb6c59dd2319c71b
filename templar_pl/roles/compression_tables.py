"""The report on compression as tables for people and as a JSON file.

Keys of the JSON file:
    model                        where the shapes came from
    compression                  numbers of compression
    peers, mbits                 payloads received in a window; speed of the line in Mbit/s
    backend, threads             what was measured with; null without seconds
    groups[], total              tensors of one kind and shape; all tensors:
        name, shape              `*` stands for the number of a layer; absent in `total`
        tensors, parameters, chunks, coefficients       how many; the last: sent at most
        sent_bytes, bound_bytes  in a payload; if all that a chunk can say were equally likely, 8 bits for its scale
        ratio_fp32, ratio_bf16   times that the elements would be larger in this format
        seconds                  send, receive_one, receive_all; null if not measured
    payload_bytes                with header and signature
    upload_bytes, download_bytes of a window: one payload, and those of all peers
    upload_s, download_s         the same as seconds at `mbits`
    momentum_bytes               memory of the momentum
    published_bytes              name of a published form -> bytes of the same coefficients in it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from templar_pl.config import MAX_PEERS
from templar_pl.errors import ConfigError
from templar_pl.hparams import HParams
from templar_pl.protocol import payload_bytes
from templar_pl.roles.compression_figures import BF16_BYTES, FP32_BYTES, Figures, Group
from templar_pl.roles.compression_timing import NO_SECONDS, Seconds
from templar_pl.training.report import format_bytes

MAX_MBITS = 10**6


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a window has to pass through."""

    peers: int
    """Payloads received; 1..MAX_PEERS."""

    mbits: float
    """Speed in Mbit/s, each way; above 0, at most MAX_MBITS."""

    def __post_init__(self) -> None:
        if not 1 <= self.peers <= MAX_PEERS:
            raise ConfigError(f"peers must be in 1..{MAX_PEERS}, got {self.peers}")
        if not 0 < self.mbits <= MAX_MBITS:
            raise ConfigError(f"mbits must be above 0 and at most {MAX_MBITS}, got {self.mbits}")

    def seconds(self, num_bytes: int) -> float:
        """Return how long so many bytes take."""
        return 8 * num_bytes / (self.mbits * 1e6)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one window of compression costs."""

    model: str
    hparams: HParams
    line: Line
    groups: Sequence[Group]
    total: Figures
    backend: Literal["native", "torch"] | None
    """What was measured; None for nothing."""

    seconds: Sequence[Seconds]
    """Of each group; empty if nothing was measured."""

    @property
    def total_seconds(self) -> Seconds | None:
        """Seconds of all groups, one after the other; None if nothing was measured."""
        return reduce(add, self.seconds, NO_SECONDS) if self.seconds else None

    @property
    def payload_bytes(self) -> int:
        """Bytes of a payload, header and signature included."""
        return payload_bytes(self.total.grids)


def show_report(report: Report, console: Console) -> None:
    """Print the tables."""
    config = report.hparams.compression
    console.print(
        f"{report.model}: chunks of {config.chunk_size} x {config.chunk_size}, k = {config.topk}, "
        f"{config.value_bits} bit(s) a value, transform {config.transform}"
    )
    console.print(_tensor_table(report))
    console.print(_window_table(report))
    if report.backend:
        console.print(
            f"\nSeconds: {report.backend} backend, {torch.get_num_threads()} thread(s), random gradients; of large "
            "tensors a part is measured. Signing, hashing and the network come on top."
        )


def _tensor_table(report: Report) -> Table:
    """Return a row for each group, and one for all."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("tensors", overflow="fold")
    titles = ["count", "shape", "chunks", "sent", "of fp32", "bound", "of sent"]
    if report.seconds:
        titles += ["send ms", "receive 1 ms", f"receive {report.line.peers} ms"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    seconds: Sequence[Seconds | None] = report.seconds or [None] * len(report.groups)
    for group, group_seconds in zip(report.groups, seconds, strict=True):
        shape = " x ".join(map(str, group.shape)) or "scalar"
        table.add_row(group.pattern, *_cells(group, shape, group_seconds))
    table.add_section()
    table.add_row("all", *_cells(report.total, "", report.total_seconds))
    return table


def _cells(figures: Figures, shape: str, seconds: Seconds | None) -> list[str]:
    cells = [
        str(len(figures.grids)),
        shape,
        str(figures.chunks),
        format_bytes(figures.sent_bytes),
        f"1/{ratio(figures, FP32_BYTES):.1f}",
        format_bytes(figures.bound_bytes),
        f"{figures.bound_bytes / max(1, figures.sent_bytes):.1%}",
    ]
    if seconds is None:
        return cells
    return [*cells, *(f"{1e3 * s:.2f}" for s in (seconds.send, seconds.receive_one, seconds.receive_all))]


def _window_table(report: Report) -> Table:
    """Return what a window costs in all."""
    total, line, payload = report.total, report.line, report.payload_bytes
    download = line.peers * payload
    window = report.hparams.window
    fp32, bf16 = ratio(total, FP32_BYTES), ratio(total, BF16_BYTES)
    rows = {
        "parameters": f"{total.parameters:,}",
        "coefficients sent": f"{total.coefficients:,} at most, {total.coefficients / total.parameters:.3%}",
        "payload": f"{payload:,} bytes, 1/{fp32:.1f} of fp32, 1/{bf16:.1f} of bf16",
        **{
            f"published, {name}": f"{size:,} bytes, {size / payload:.2f} times the payload"
            for name, size in total.published_bytes().items()
        },
        "up": _transfer(line, payload, window.time_window_delta_seconds, "time_window_delta_seconds"),
        f"down, {line.peers} peers": _transfer(line, download, window.gather_timeout_seconds, "gather_timeout_seconds"),
        "memory of the momentum": format_bytes(total.momentum_bytes),
    }
    if seconds := report.total_seconds:
        rows["compression"] = f"{seconds.send:.3g} s to send, {seconds.receive_all:.3g} s to receive {line.peers}"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title="\none window", title_justify="left")
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _transfer(line: Line, num_bytes: int, limit_s: float, limit: str) -> str:
    text = f"{format_bytes(num_bytes)}: {line.seconds(num_bytes):.3g} s at {line.mbits:g} Mbit/s"
    if not limit_s:
        return text
    return f"{text}; {8e-6 * num_bytes / limit_s:.3g} Mbit/s do it within {limit} ({limit_s:g} s)"


def ratio(figures: Figures, element_bytes: int) -> float:
    """Return how many times larger all elements are than what is sent."""
    return element_bytes * figures.parameters / max(1, figures.sent_bytes)


def report_as_json(report: Report) -> dict[str, Any]:
    """Return all figures under the keys that stand at the top."""
    payload, line = report.payload_bytes, report.line
    download = line.peers * payload
    seconds: Sequence[Seconds | None] = report.seconds or [None] * len(report.groups)
    return {
        "model": report.model,
        "compression": asdict(report.hparams.compression),
        "peers": line.peers,
        "mbits": line.mbits,
        "backend": report.backend,
        "threads": torch.get_num_threads() if report.backend else None,
        "groups": [
            {"name": group.pattern, "shape": list(group.shape), **_figures_as_json(group, group_seconds)}
            for group, group_seconds in zip(report.groups, seconds, strict=True)
        ],
        "total": _figures_as_json(report.total, report.total_seconds),
        "payload_bytes": payload,
        "upload_bytes": payload,
        "download_bytes": download,
        "upload_s": line.seconds(payload),
        "download_s": line.seconds(download),
        "momentum_bytes": report.total.momentum_bytes,
        "published_bytes": report.total.published_bytes(),
    }


def _figures_as_json(figures: Figures, seconds: Seconds | None) -> dict[str, Any]:
    return {
        "tensors": len(figures.grids),
        "parameters": figures.parameters,
        "chunks": figures.chunks,
        "coefficients": figures.coefficients,
        "sent_bytes": figures.sent_bytes,
        "bound_bytes": figures.bound_bytes,
        "ratio_fp32": ratio(figures, FP32_BYTES),
        "ratio_bf16": ratio(figures, BF16_BYTES),
        "seconds": None if seconds is None else asdict(seconds),
    }
