"""`compress-report`: what one window of compression costs in bytes and seconds for a model."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from jsonargparse import ActionYesNo, ArgumentParser, Namespace, set_parsing_settings
from rich.console import Console

from templar_pl.command_line import EXIT_SETTINGS, EXIT_STOPPED, hparams_files, say_error
from templar_pl.compression import Backend, NativeError, UpdateCodec
from templar_pl.config import MAX_PEERS, CompressionConfig
from templar_pl.errors import ConfigError
from templar_pl.hparams import HParams, load_hparams
from templar_pl.roles.compression_figures import Figures, group_by_kind
from templar_pl.roles.compression_tables import MAX_MBITS, Line, Report, report_as_json, show_report
from templar_pl.roles.compression_timing import Stopwatch
from templar_pl.roles.parameter_shapes import Shapes, file_shapes, llama_shapes

WEIGHT_FILES = (".ckpt", ".safetensors")
DESCRIPTION = """\
What one window of compression costs for a model: for each kind of tensor, and in all, the bytes that are sent, beside
fp32 and the entropy bound, and the seconds that this machine takes to send and to receive."""
WIDE = 200  # columns; the table of a Llama takes 140


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked for."""

    model: str
    """Name of the file."""

    shapes: Shapes
    hparams: HParams
    line: Line
    backend: Backend
    seconds: bool
    """Whether to measure."""


def run_compress_report(arguments: Sequence[str]) -> int:
    """Print the report that `arguments` ask for; return 0, 1 if it could not be written, 2 for wrong settings."""
    try:
        given = parse(arguments)
        target = Path(given.json) if given.json else None
        if target is not None and not target.parent.is_dir():
            raise ConfigError(f"json must be a file in a folder that exists, got {target}")
        report = make_report(ask(given))
        # Rich would fold or cut what is wider than the terminal; here the terminal wraps it.
        show_report(report, Console(file=sys.stdout, width=WIDE, highlight=False))
        if target is not None:
            target.write_text(json.dumps(report_as_json(report), indent=2) + "\n", encoding="utf-8")
    except ConfigError as error:
        say_error(error)
        return EXIT_SETTINGS
    except OSError as error:
        say_error(error)
        return EXIT_STOPPED
    return 0


def parse(arguments: Sequence[str]) -> Namespace:
    """Read the command line; `compression` holds only the numbers that are given.

    Raises:
        ConfigError: an option is unknown or its value of another type.
    """
    parser = new_parser()
    try:
        given = parser.parse_args(list(arguments), defaults=False)
    except ArgumentError as error:
        raise ConfigError(str(error)) from error
    return Namespace(**{**vars(parser.get_defaults()), "compression": Namespace(), **vars(given)})


def new_parser() -> ArgumentParser:
    """Return the options of the command."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="python -m templar_pl compress-report", description=DESCRIPTION, exit_on_error=False)
    texts: dict[str, tuple[object, object, str]] = {
        "model": (str | None, None, "A .json file of numbers, a .ckpt or a .safetensors file; else hparams.json."),
        "peers": (int | None, None, f"Payloads received in a window; 1..{MAX_PEERS}; max_topk_peers if not given."),
        "mbits": (float, 100.0, f"Speed of the line each way, in Mbit/s; above 0, at most {MAX_MBITS}."),
        "backend": (Backend, "auto", "What is measured; `auto` is native where it works."),
        "json": (str | None, None, "Write all figures to this file as well."),
    }
    for name, (kind, default, text) in texts.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    parser.add_argument("--local", action=ActionYesNo, default=False, help="Lay the toy model's numbers over the file.")
    parser.add_argument("--seconds", action=ActionYesNo, default=True, help="Measure how long it takes.")
    parser.add_class_arguments(CompressionConfig, "compression", help="Instead of the numbers in the file")
    return parser


def ask(given: Namespace) -> Question:
    """Read the model and the numbers that a command line names.

    Raises:
        ConfigError: a file or a number is wrong.
    """
    path = None if given.model is None else Path(given.model)
    if path is not None and path.suffix not in (".json", *WEIGHT_FILES):
        raise ConfigError(f"model must be a .json, .ckpt or .safetensors file, got {path}")
    weights = path if path is not None and path.suffix in WEIGHT_FILES else None
    files = hparams_files(None if weights else given.model, local=given.local)
    hparams = load_hparams(*files)
    return Question(
        model=str(weights or " + ".join(file.name for file in files)),
        shapes=file_shapes(weights) if weights else llama_shapes(hparams.llama),
        hparams=replace(hparams, compression=replace(hparams.compression, **vars(given.compression))),
        line=Line(peers=hparams.peers.max_topk_peers if given.peers is None else given.peers, mbits=given.mbits),
        backend=cast(Backend, given.backend),
        seconds=given.seconds,
    )


def make_report(question: Question) -> Report:
    """Compute and measure what was asked for.

    Raises:
        ConfigError: the backend was asked for by name and does not work here.
    """
    config = question.hparams.compression
    # On `meta` a codec allocates no momentum.
    grids = UpdateCodec(question.shapes, config, torch.device("meta"), backend="torch").grids
    groups = group_by_kind(grids)
    try:
        watch = Stopwatch(config, backend=question.backend, peers=question.line.peers) if question.seconds else None
    except (NativeError, ValueError) as error:
        raise ConfigError(f"backend {question.backend} cannot be measured: {error}") from error
    return Report(
        model=question.model,
        hparams=question.hparams,
        line=question.line,
        groups=groups,
        total=Figures(grids),
        backend=watch.backend if watch else None,
        seconds=[watch.measure(group.grids) for group in groups] if watch else [],
    )
