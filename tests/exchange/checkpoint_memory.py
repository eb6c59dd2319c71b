"""Publishes and loads 400 MB of parameters, and prints how much the memory of the process grew for each, in MiB.

Arguments: folder.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from templar_pl.exchange.checkpoint_publisher import Moment
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.network_checkpoints import load_latest
from templar_pl.protocol.model_state import ModelState
from templar_pl.units import Window
from tests.exchange.models import START, Node, publisher, source, wanted

PAGE_MIB = 4096 / 2**20


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MIB


def growth_mib(call: Callable[[], object]) -> tuple[float, float]:
    """Return by how much the resident memory grew at most during a call, and its seconds."""
    before, peak, is_over = resident_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            peak[0] = max(peak[0], resident_mib())

    thread = threading.Thread(target=watch)
    thread.start()
    since = time.monotonic()
    try:
        call()
    finally:
        seconds = time.monotonic() - since
        is_over.set()
        thread.join()
    return peak[0] - before, seconds


def model(fill: float) -> ModelState:
    return ModelState({f"p{i}": torch.full((2500, 1000), fill) for i in range(40)})  # 40 of 10 MB


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    there = model(1.5)
    small = ModelState({"p": torch.ones(1000)})  # what is allocated once is allocated now
    growth_mib(lambda: publisher(LocalBuckets(folder / "warm", "peer").own(), folder).offer(Moment(START, 0), small))
    one = publisher(LocalBuckets(folder / "store", "peer").own(), folder / "other")
    figures = {
        "snapshot": growth_mib(lambda: one.offer(Moment(Window(START + 1), 1), there)),
        "upload": growth_mib(lambda: one.wait(120)),
    }
    assert not one.is_busy
    here = model(0.5)
    node = Node(torch.nn.Identity(), here)
    figures["load"] = growth_mib(lambda: load_latest(source(folder), wanted(node), folder / "fetched"))
    assert all(torch.equal(there.parameters[name], here.parameters[name]) for name in here.parameters)
    sys.stdout.write(json.dumps(figures))
