"""Runs the command line in processes of its own, as a user would by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 240.0  # importing torch and lightning on a loaded machine of two cores takes a while

# A model and windows so small that a window takes some ten milliseconds.
TINY = (
    "--llama.hidden_size=16",
    "--llama.num_attention_heads=2",
    "--llama.num_key_value_heads=2",
    "--llama.intermediate_size=32",
    "--llama.num_hidden_layers=1",
    "--pages.sequence_length=32",
    "--pages.pages_per_window=1",
    "--pages.batch_size=32",
    "--data.page_set.rows_per_page=1",
    "--data.page_set.num_validation_pages=2",
    "--trainer.check_val_every_n_epoch=1000",
    "--trainer.num_sanity_val_steps=0",
)


class Node:
    """One `python -m templar_pl` in a folder; its output goes to a file there."""

    def __init__(
        self,
        folder: Path,
        name: str,
        arguments: Sequence[str],
        command: str = "fit",
        variables: Mapping[str, str] | None = None,
        program: Sequence[str] = ("templar_pl",),
    ) -> None:
        self.folder, self.name = folder, name
        self.log = folder / f"{name}.{time.monotonic_ns()}.log"
        line = [sys.executable, "-m", *program, command, "--config", str(ROOT / "configs" / "miner.yaml")]
        if command == "fit":
            line += TINY
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | dict(variables or {})
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*line, f"--wallet.hotkey={name}", *arguments],
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def text(self) -> str:
        """Return what the process has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, needle: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the process has printed `needle`; fail if it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while needle not in self.text():
            assert self.process.poll() is None, f"{self.name} ended before {needle!r}:\n{self.text()}"
            assert time.monotonic() < deadline, f"{self.name} did not print {needle!r}:\n{self.text()}"
            time.sleep(0.02)

    def finish(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout_s)

    def succeed(self) -> None:
        """Wait for the end and fail unless it is a good one."""
        assert self.finish() == 0, self.text()

    def kill(self) -> None:
        """Kill the process as the kernel does when memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def checkpoint(self) -> dict[str, Any]:
        """Load the newest checkpoint of the node."""
        # On Bittensor the name of the wallet stands before that of its hotkey.
        folders = [path for path in self.folder.glob("runs/*/*/nodes/*") if path.name.split("+")[-1] == self.name]
        paths = sorted(path for folder in folders for path in folder.glob("checkpoints/window-*.ckpt"))
        assert paths, f"{self.name} saved no checkpoint:\n{self.text()}"
        return torch.load(paths[-1], weights_only=True)


def differing(left: Any, right: Any, where: str = "") -> list[str]:
    """Name the places at which two nested states differ in a bit."""
    if isinstance(left, torch.Tensor):
        same = isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
        return [] if same else [where]
    if isinstance(left, dict):
        keys = left.keys() | (right.keys() if isinstance(right, dict) else set())
        return [d for k in sorted(keys, key=str) for d in differing(left.get(k), right.get(k), f"{where}/{k}")]
    if isinstance(left, list | tuple):
        if len(left) != len(right):
            return [where]
        return [d for i, (a, b) in enumerate(zip(left, right, strict=True)) for d in differing(a, b, f"{where}/{i}")]
    return [] if left == right else [where]
