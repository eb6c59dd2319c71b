"""The command line: Lightning's, with this project's groups of settings. The only reader of the environment."""

from __future__ import annotations

import argparse
import hashlib
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionYesNo, Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.logging import RichHandler

from templar_pl.chain import BittensorConfig, LocalChainConfig, without_secrets
from templar_pl.cli_network import NetworkOptions, node_network
from templar_pl.command_line import EXIT_SETTINGS, EXIT_SIGTERM, EXIT_STOPPED, hparams_files, say_error
from templar_pl.config import MAX_PEERS
from templar_pl.errors import ConfigError, TemplarError
from templar_pl.exchange import R2Options
from templar_pl.hparams import SECTIONS, HParams, load_hparams
from templar_pl.node_config import FollowConfig, StoreConfig, WalletConfig
from templar_pl.training import (
    LlamaModule,
    Network,
    PrintPredictions,
    RecoveryConfig,
    TemplarDataModule,
    TemplarStrategy,
    WindowCheckpoint,
    WindowLog,
    WindowProgressBar,
)

log = logging.getLogger(__name__)


class SavePublicConfig(SaveConfigCallback):
    """Saves the settings of a run beside its log, without what may be secret in the address of an endpoint."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **options: Any) -> None:
        """Take the settings; the given ones stay as they are.

        Args:
            parser: of the command line.
            config: all settings of the command.
            options: of Lightning's own callback.
        """
        config = config.clone()
        if (network := config["bittensor.network"]) is not None:
            config["bittensor.network"] = without_secrets(network)
        super().__init__(parser, config, **options)


class TemplarCLI(LightningCLI):
    """Commands `fit`, `validate`, `test` and `predict` with the groups of hparams.json and of this node."""

    strategy_class: type[TemplarStrategy] = TemplarStrategy
    """What takes part in the windows."""

    def __init__(self, arguments: Sequence[str], console: Console, **lightning: Any) -> None:
        """Parse `arguments` and run the command they name.

        Args:
            arguments: of the command line.
            console: for log and progress.
            lightning: more arguments of Lightning's command line.
        """
        self._arguments, self._console = list(arguments), console
        super().__init__(
            LlamaModule,
            TemplarDataModule,
            args=self._arguments,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SavePublicConfig,
            save_config_kwargs={"overwrite": True},
            load_from_checkpoint_support=False,
            **lightning,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups, with the numbers of hparams.json (and of the toy model, if local) as defaults."""
        self._add_node_options(parser)
        chosen = _peek(self._arguments)
        hparams = load_hparams(*hparams_files(chosen.hparams, local=chosen.local))
        for section, cls in SECTIONS.items():
            parser.add_class_arguments(cls, section)
            numbers = getattr(hparams, section)
            parser.set_defaults({f"{section}.{f.name}": getattr(numbers, f.name) for f in fields(cls)})
        parser.set_defaults({"trainer.strategy": "templar"})
        parser.link_arguments("llama", "model.llama", apply_on="instantiate")
        parser.link_arguments("schedule", "model.schedule", apply_on="instantiate")
        parser.link_arguments("pages.tokenizer_name", "model.tokenizer_name")
        parser.link_arguments("pages", "data.pages", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Set up the log before anything can be worth a line."""
        set_up_log(self._console, debug=self._setting("debug"), trace=self._setting("trace"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer around this node: its network, its folder, what it shows."""
        given = self._setting("trainer")
        hparams = self._hparams()
        network = self.node_network(
            NetworkOptions(**{field.name: self._setting(field.name) for field in fields(NetworkOptions)}), hparams
        )
        self._refuse_absent_checkpoint(network)
        if given["strategy"] == "templar":
            kwargs["strategy"] = self._strategy(network, hparams)
        if given["logger"] in (None, True):
            kwargs["logger"] = CSVLogger(network.node_dir, name="logs")
        if given["default_root_dir"] is None:
            kwargs["default_root_dir"] = str(network.node_dir)
        kwargs.update(choose_device(self._setting("device"), given, has_mps=torch.backends.mps.is_available()))
        self.trainer_defaults["callbacks"] = self._callbacks(network, hparams, given)
        return super().instantiate_trainer(**kwargs)

    def node_network(self, options: NetworkOptions, hparams: HParams) -> Network:
        """Return the network this node joins."""
        return node_network(options, hparams)

    def after_fit(self) -> None:
        """Say where the checkpoint is and what can be done with it."""
        callback = self.trainer.checkpoint_callback
        path = callback.last_model_path if isinstance(callback, WindowCheckpoint) else ""
        if not path:
            return
        configs = without_secrets(shlex.join(self._arguments[1:]))
        log.info("checkpoint: %s", path)
        log.info("measure it: python -m templar_pl validate %s --ckpt_path last", configs)
        log.info("write with it: python -m templar_pl predict %s --ckpt_path last --data.prompts prompts.txt", configs)
        windows = 2 * (self.trainer.current_epoch or 1)
        log.info("train on: python -m templar_pl fit %s --trainer.max_epochs %d", configs, windows)

    def _add_node_options(self, parser: LightningArgumentParser) -> None:
        flag: dict[str, Any] = {"action": ActionYesNo, "default": False}
        parser.add_argument("--local", help="Train the toy model of hparams.local.json.", **flag)
        parser.add_argument("--hparams", type=str | None, default=None, help="Another file than hparams.json.")
        parser.add_argument("--netuid", type=int, default=268, help="Number of the subnet.")
        parser.add_argument("--device", type=str | None, default=None, help="cpu, cuda or cuda:N.")
        parser.add_argument("--test", help="Apply the payloads of all peers, up to 512.", **flag)
        parser.add_argument("--debug", help="Log the details of this package.", **flag)
        parser.add_argument("--trace", help="Log the details of all libraries too.", **flag)
        # What all nodes share comes from the group `window`.
        parser.add_class_arguments(LocalChainConfig, "chain", skip={"blocks_per_window", "delta_s"})
        parser.add_class_arguments(BittensorConfig, "bittensor", skip={"blocks_per_window", "delta_s"})
        parser.add_class_arguments(StoreConfig, "store")
        parser.add_class_arguments(R2Options, "r2")
        parser.add_class_arguments(WalletConfig, "wallet")
        parser.add_class_arguments(FollowConfig, "follow")
        parser.add_class_arguments(RecoveryConfig, "recovery")

    def _hparams(self) -> HParams:
        return run_numbers({name: self._setting(name) for name in SECTIONS}, all_peers=self._setting("test"))

    def _strategy(self, network: Network, hparams: HParams) -> TemplarStrategy:
        return self.strategy_class(
            network,
            compression=hparams.compression,
            window=hparams.window,
            peers=hparams.peers,
            settings_digest=settings_digest(hparams, self._get(self.config, "model")["init_seed"]),
            recovery=self._setting("recovery"),
        )

    def _callbacks(self, network: Network, hparams: HParams, given: Any) -> list[Any]:
        callbacks: list[Any] = [WindowLog(), PrintPredictions(sys.stdout)]
        if given["enable_checkpointing"] is not False:
            callbacks.append(WindowCheckpoint(str(checkpoint_dir(network)), hparams.window.checkpoint_frequency))
        if given["enable_progress_bar"] is not False:
            callbacks.append(WindowProgressBar(self._console))
        return callbacks

    def _refuse_absent_checkpoint(self, network: Network) -> None:
        """Refuse to measure random weights where a trained model was asked for."""
        if self.subcommand == "fit" or self._setting("ckpt_path") != "last":
            return
        if not any(checkpoint_dir(network).glob("window-*.ckpt")):
            raise ConfigError(
                f"there is no checkpoint in {checkpoint_dir(network)}: run `fit` with the same options first, or name "
                "a file by --ckpt_path"
            )

    def _setting(self, key: str) -> Any:
        config = self.config_init if hasattr(self, "config_init") else self.config
        return self._get(config, key)


CommandLine = Callable[[Sequence[str], Console], object]
"""Parses arguments and runs the command they name."""


def run_command(arguments: Sequence[str], command_line: CommandLine | None = None) -> int:
    """Run one command; return 0, 1 if it stopped on an error, 2 for wrong settings, 143 after SIGTERM.

    Args:
        arguments: of the command line.
        command_line: parses and runs them; `TemplarCLI` if None.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    silence_libraries()
    console = Console(stderr=True)

    def run() -> int:
        (command_line or TemplarCLI)(arguments, console)
        return 0

    return exit_code_of(run)


def exit_code_of(run: Callable[[], int]) -> int:
    """Run something and say in one line what ended it; return its exit code, 1 after an error, 2 for wrong settings."""
    try:
        return run()
    except ConfigError as error:
        say_error(error)
        return EXIT_SETTINGS
    except (TemplarError, MisconfigurationException, OSError) as error:
        say_error(error)
        return EXIT_STOPPED
    except SIGTERMException:
        log.warning("stopped by SIGTERM; the same command goes on where it stopped")
        return EXIT_SIGTERM


def run_numbers(sections: Mapping[str, Any], *, all_peers: bool) -> HParams:
    """Return the numbers of a run.

    Args:
        sections: value of each of `SECTIONS`.
        all_peers: whether the payloads of all peers are applied, as `--test` asks for.
    """
    hparams = HParams(**sections)
    return replace(hparams, peers=replace(hparams.peers, max_topk_peers=MAX_PEERS)) if all_peers else hparams


def settings_digest(hparams: HParams, init_seed: int) -> bytes:
    """Return the digest of the numbers and of how the weights are drawn, which all nodes must share."""
    return hashlib.sha256(hparams.digest() + f"init_seed={init_seed}".encode()).digest()


def checkpoint_dir(network: Network) -> Path:
    """Return the folder of a node's checkpoints."""
    return network.node_dir / "checkpoints"


def choose_device(device: str | None, trainer: Any, *, has_mps: bool = False) -> dict[str, Any]:
    """Return the trainer's arguments for a device and its default precision.

    Args:
        device: cpu, cuda, cuda:N, or None to keep what the trainer was given.
        trainer: the trainer's settings.
        has_mps: whether the trainer, left to itself, may choose mps; it gets the CPU then.

    Raises:
        ConfigError: the name is another one, or mps was asked for.
    """
    kind, _, index = (device or "").partition(":")
    if "mps" in (kind, trainer["accelerator"] if not device else ""):
        raise ConfigError(
            "device must be cpu, cuda or cuda:N, got 'mps': compression needs float64, which mps does not have, to say "
            "the same bits as all other nodes; use --device cpu"
        )
    if device and (kind not in ("cpu", "cuda") or (index and not index.isdecimal())):
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    chosen: dict[str, Any] = {}
    if device:
        chosen = {"accelerator": kind, "devices": [int(index)] if index else 1}
    elif has_mps and trainer["accelerator"] == "auto":
        chosen = {"accelerator": "cpu"}
    if trainer["precision"] is None:
        on_cpu = chosen.get("accelerator", trainer["accelerator"]) == "cpu" or not torch.cuda.is_available()
        # bf16 autocast is ten times slower than fp32 on processors without matrix units for it.
        chosen["precision"] = "32-true" if on_cpu else "bf16-mixed"
    return chosen


def set_up_log(console: Console, *, debug: bool, trace: bool) -> None:
    """Send the log to standard error, above the progress bar where there is one."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="[%H:%M:%S]")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    root, package = logging.getLogger(), logging.getLogger("templar_pl")
    root.handlers, package.handlers = [handler], []
    root.setLevel(logging.DEBUG if trace else logging.WARNING)
    package.setLevel(logging.DEBUG if debug or trace else logging.INFO)


def silence_libraries() -> None:
    """Drop what libraries say of themselves or of our own doing; everything else still shows."""
    for message in (
        "LightningCLI's args parameter is intended",  # we pass the command line's own arguments
        ".*there is no last checkpoint available",  # a first start is no reason to warn
        ".*isinstance.treespec, LeafSpec.. is deprecated",  # lightning 2.6 with torch 2.13
        ".*does not have many workers",  # the next window is prepared in the background
        ".*smaller than the logging interval",  # metrics are logged once a window
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _peek(arguments: Sequence[str]) -> argparse.Namespace:
    """Find out which numbers are asked for, before the options that hold them can be built."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--hparams")
    parser.add_argument("--local", action="store_true", default=None)
    parser.add_argument("--no_local", dest="local", action="store_false")
    seen, _ = parser.parse_known_args(list(arguments))
    laid_over: dict[str, Any] = {"local": False, "hparams": None}
    for path in seen.config:
        laid_over |= _top_level(Path(path))
    if seen.hparams is not None:
        laid_over["hparams"] = seen.hparams
    if seen.local is not None:
        laid_over["local"] = seen.local
    return argparse.Namespace(local=bool(laid_over["local"]), hparams=laid_over["hparams"])


def _top_level(path: Path) -> dict[str, Any]:
    """Return `local` and `hparams` of a config file; the real parser reports what is wrong with the file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return {k: v for k, v in content.items() if k in ("local", "hparams")} if isinstance(content, dict) else {}
