"""`doctor`: everything that would stop a run, found before the run begins, each with how to mend it.

It only looks. What it writes, one small object in the own bucket, it deletes again.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from templar_pl.command_line import EXIT_STOPPED
from templar_pl.exchange import R2Credentials
from templar_pl.hparams import HParams
from templar_pl.node_config import StoreConfig
from templar_pl.roles.doctor_machine import (
    check_arithmetic,
    check_device,
    check_disk,
    check_memory,
    check_native,
    check_software,
    disk_free,
)
from templar_pl.roles.doctor_memory import FP32_BYTES, Need, estimate_need, free_bytes
from templar_pl.roles.doctor_rows import Check, Part, Row, State, run_checks
from templar_pl.roles.doctor_run import check_chain, check_checkpoint, check_numbers, check_pages, check_tokenizer
from templar_pl.roles.doctor_store import OwnStore, check_clock, check_keys
from templar_pl.roles.doctor_table import as_json, show_table
from templar_pl.training import LlamaModule, Network, TemplarDataModule, run_digest, try_trainer
from templar_pl.training.checkpoints import KEPT_CHECKPOINTS
from templar_pl.training.report import format_bytes

WIDTH = 120
"""Columns where the output is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `fit` would start with, part by part, so that a wrong one spoils only what depends on it."""

    groups: Mapping[str, Part[Any]]
    """Every group of settings by name, and what is made of several by a name of its own."""

    hparams: Part[HParams]
    digest: Part[bytes]
    """32 bytes: of the numbers and of how weights are drawn."""

    store: Part[StoreConfig]
    credentials: Callable[[], R2Credentials]
    """Reads the keys of the own bucket from the environment."""

    network: Part[Network]
    checkpoints: Part[Path]
    """Folder of this node's checkpoints."""

    ckpt_path: Part[str | None]
    model: Part[LlamaModule]
    """On `meta`: without weights."""

    data: Part[TemplarDataModule]
    trainer: Part[Mapping[str, Any]]
    """Arguments of the trainer."""


def run_doctor(settings: Settings, *, json: bool) -> int:
    """Examine, print the report to standard output, and return 0, or 1 if something would stop the run."""
    rows = examine(settings)
    if json:
        sys.stdout.write(as_json(rows) + "\n")
    else:
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False)
        show_table(rows, console)
    return EXIT_STOPPED if any(row.state == State.FAILED for row in rows) else 0


def examine(settings: Settings) -> list[Row]:
    """Return what every check found."""
    trial = Part(lambda: try_trainer(settings.trainer.get()))
    need = Part(lambda: _need(settings, trial))
    wrong = {name: part.fault() for name, part in {**settings.groups, "trainer": trial}.items() if part.fault()}
    checks = [*_machine_checks(settings, trial, need), *_run_checks(settings, trial), *_store_checks(settings)]
    return [*_settings_rows(wrong), *run_checks(checks)]


def _settings_rows(wrong: Mapping[str, str]) -> list[Row]:
    if not wrong:
        return [Row("settings", State.OK, "all in range")]
    return [Row(f"settings: {name}", State.FAILED, fault) for name, fault in wrong.items()]


def _machine_checks(settings: Settings, trial: Part[tuple[torch.device, str]], need: Part[Need]) -> Iterator[Check]:
    def device() -> torch.device:
        return trial.get()[0]

    yield Check("software", check_software)
    yield Check("device and precision", lambda: check_device(*trial.get()))
    yield Check("exact update", lambda: check_arithmetic(device()))
    yield Check("native compression", lambda: check_native(device(), settings.groups["compression"].get()))
    yield Check("memory", lambda: check_memory(need.get(), device(), free_bytes(device())))
    yield Check("disk", lambda: _check_disk(settings, need.get()))


def _run_checks(settings: Settings, trial: Part[tuple[torch.device, str]]) -> Iterator[Check]:
    def digest() -> bytes:
        parameters = dict(_as_trained(settings.model.get(), trial.get()[1]).named_parameters())
        hparams = settings.hparams.get()
        return run_digest(parameters, hparams.compression, hparams.peers, settings.digest.get())

    yield Check(
        "tokenizer", lambda: check_tokenizer(settings.groups["pages"].get(), settings.groups["llama"].get().vocab_size)
    )
    yield Check("pages", lambda: check_pages(settings.data.get()))
    yield Check("hparams digest", lambda: check_numbers(settings.network.get().run_dir, settings.store.get().run))
    yield Check("chain", lambda: check_chain(settings.network.get(), digest(), settings.hparams.get().window))
    yield Check("checkpoint", lambda: check_checkpoint(settings.ckpt_path.get(), settings.checkpoints.get()))


def _store_checks(settings: Settings) -> Iterator[Check]:
    keys, nonce = Part(settings.credentials), secrets.token_hex(8)

    def is_local() -> bool:
        return settings.store.get().kind == "local"

    def store() -> OwnStore:
        keys.get()
        return OwnStore.of(settings.store.get().run, nonce, settings.credentials, settings.groups["r2"].get())

    def try_keys() -> Iterable[Row]:
        if is_local():
            return [Row("keys", State.SKIPPED, "payloads are in folders of this machine (store.kind: local)")]
        if keys.fault():
            return [Row("keys", State.FAILED, keys.fault())]
        return check_keys(store())

    def compare_clocks() -> Iterable[Row]:
        if is_local():
            return [Row("clock", State.SKIPPED, "payloads are in folders of this machine, which has one clock")]
        return check_clock(store(), settings.groups["window"].get().time_window_delta_seconds)

    yield Check("keys", try_keys)
    yield Check("clock", compare_clocks)


def _check_disk(settings: Settings, need: Need) -> Iterator[Row]:
    """Count what is still to be written, and compare it with what is free."""
    folder, checkpoints = settings.network.get().run_dir, settings.checkpoints.get()
    kept = sum(path.stat().st_size for path in checkpoints.glob("window-*.ckpt"))
    # The oldest goes once the newest is there.
    wanted = max(0, (KEPT_CHECKPOINTS + 1) * need.checkpoint - kept)
    what = f"{KEPT_CHECKPOINTS + 1} checkpoints of {format_bytes(need.checkpoint)}"
    if settings.store.get().kind == "local":
        windows = settings.hparams.get().window.stale_retention
        wanted += windows * need.payload
        what += f" and {windows} payloads"
    return check_disk(wanted, what, folder, disk_free(folder))


def _need(settings: Settings, trial: Part[tuple[torch.device, str]]) -> Need:
    element_bytes = 2 * FP32_BYTES if trial.get()[1] == "64-true" else FP32_BYTES
    return estimate_need(settings.model.get(), settings.hparams.get(), element_bytes)


def _as_trained(model: LlamaModule, precision: str) -> LlamaModule:
    """Return a model on `meta` with the dtypes it is trained in."""
    return model.double() if precision == "64-true" else model
