"""Work that is dealt out to threads: numpy and small operations of torch use one thread each, so a few run at once.

The threads live for one call, so that none waits in between and a fork meets none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from templar_pl.compression.precision import full_precision

Item = TypeVar("Item")


def share_out(items: Sequence[Item], run: Callable[[Iterator[Item]], None], *, threads: int) -> None:
    """Call `run` in several threads at once, which take the items from one iterator; nothing may hang on their order.

    Args:
        items: what there is to do.
        run: works on what it takes. What it raises is raised here; what is not begun by then may be left out.
        threads: at most so many at once, this one included; at least 1.
    """
    dealt = iter(items)
    helpers = min(threads, len(items)) - 1
    if helpers < 1:
        run(dealt)
        return
    with ThreadPoolExecutor(helpers) as executor:
        others = [executor.submit(run, dealt) for _ in range(helpers)]
        try:
            run(dealt)
        finally:
            for _ in dealt:  # after an error nobody begins anything new
                pass
    for other in others:
        other.result()


@contextmanager
def alone(device: torch.device) -> Iterator[int]:
    """Let torch compute in full precision and in one thread inside the block; yield how many threads it may use.

    Threads that share a small operation wait for each other longer than they work. Other threads that use torch for the
    first time meanwhile stay with one, since torch has one number for all that are new.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with full_precision(device):
            yield threads
    finally:
        torch.set_num_threads(threads)


def share_tensors(
    items: Sequence[Item], run: Callable[[Iterator[Item]], None], *, device: torch.device, threads: int
) -> None:
    """Do what `share_out` does for work of torch, each thread `alone`; on other devices than a CPU in one thread.

    To be called inside of `alone`: precision belongs to the process, and is not to be taken back by the first thread
    that ends while others compute.
    """

    def run_alone(dealt: Iterator[Item]) -> None:
        with alone(device):
            run(dealt)

    if threads_for(device, threads) < 2 or len(items) < 2:
        run(iter(items))
    else:
        share_out(items, run_alone, threads=threads)


def threads_for(device: torch.device, threads: int) -> int:
    """Return how many threads `share_tensors` uses at most."""
    return threads if device.type == "cpu" else 1
