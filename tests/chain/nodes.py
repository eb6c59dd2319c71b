"""Nodes, clocks and whole processes for the tests of chains."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from templar_pl.chain.hotkeys import load_or_create_hotkey
from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.errors import ChainError
from templar_pl.units import Uid, Window

RUN = "ab" * 32
START = 1_700_000_000.0
PATIENCE_S = 30.0
"""Longest wait for another process or thread; reached only when something is broken."""


class ManualTime:
    """UTC seconds that move when the test says so."""

    def __init__(self, utc: float = START) -> None:
        self.utc = utc

    def __call__(self) -> float:
        return self.utc


def local_chain(
    folder: Path, name: str, config: LocalChainConfig | None = None, now: ManualTime | None = None
) -> LocalChain:
    """Return the chain in `folder` as the node `name` sees it, not open yet."""
    signer = load_or_create_hotkey(folder / "keys", name)
    return LocalChain(folder / "chain.sqlite", signer, config or LocalChainConfig(), run=RUN, now=now)


def joined(chain: LocalChain) -> LocalChain:
    """Open a chain, register, and join its open window."""
    chain.open()
    chain.register()
    assert chain.agreement.join(chain.window()) == chain.window()
    return chain


def wait_until(fact: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait until something is true; fail if it takes too long."""
    deadline = time.monotonic() + patience_s
    while not fact():
        assert time.monotonic() < deadline, "what is waited for does not come"
        time.sleep(0.005)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def num_open_files() -> int:
    """Count files and sockets of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def mine(folder: Path, name: str, num_windows: int, min_miners: int) -> dict[Window, dict[Uid, bytes]]:
    """Take part in windows 0..num_windows - 1 from a process of its own; return window -> payloads."""
    chain = local_chain(folder, name, LocalChainConfig(min_miners=min_miners))
    chain.open()
    try:
        chain.register()
        record: dict[Window, dict[Uid, bytes]] = {}
        window = chain.agreement.join(Window(0))
        assert window == 0
        while window < num_windows:
            chain.agreement.announce(window, sha(f"{name} {window}"))
            record[window] = dict(chain.agreement.settle(window, PATIENCE_S).payloads)
            window = Window(window + 1)
        chain.agreement.leave()
        return record
    finally:
        chain.close()


def write_for_ever(folder: Path, name: str) -> None:
    """Write to the chain as fast as it takes, until killed."""
    chain = local_chain(folder, name)
    chain.open()
    uid = chain.register()
    count = 0
    while True:
        count += 1
        window = chain.window()
        chain.commit(f"{count:09}")
        chain.set_weights({uid: count})
        try:
            if chain.agreement.join(window) == window:
                chain.agreement.announce(window, sha(str(count)))
        except ChainError:
            continue  # the others closed the window in between


def make_key(folder: Path, name: str) -> str:
    return load_or_create_hotkey(folder, name).hotkey
