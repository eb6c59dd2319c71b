"""`doctor` on the command line: it takes the options of `fit`, reads them by the same parser, and builds no trainer."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

import torch
from jsonargparse import ActionYesNo, Namespace, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from templar_pl.chain import BittensorConfig, LocalChainConfig
from templar_pl.cli import checkpoint_dir, choose_device, run_numbers, settings_digest, silence_libraries
from templar_pl.cli_network import NetworkOptions, own_keys
from templar_pl.cli_roles import UntrainedCLI
from templar_pl.data import PageSetConfig
from templar_pl.errors import ConfigError
from templar_pl.exchange import R2Options
from templar_pl.hparams import SECTIONS, HParams
from templar_pl.node_config import FollowConfig, StoreConfig, WalletConfig
from templar_pl.roles.doctor import Settings, run_doctor
from templar_pl.roles.doctor_rows import Part
from templar_pl.training import LlamaModule, Network, RecoveryConfig, TemplarDataModule
from templar_pl.training.module import GenerationConfig

_NODE_GROUPS: dict[str, type] = {
    "chain": LocalChainConfig,
    "bittensor": BittensorConfig,
    "store": StoreConfig,
    "r2": R2Options,
    "wallet": WalletConfig,
    "follow": FollowConfig,
    "recovery": RecoveryConfig,
}


class DoctorCLI(UntrainedCLI):
    """Reads what `fit` would be given, and keeps it as it was given."""

    def __init__(self, arguments: Sequence[str], console: Console) -> None:
        """Parse `arguments`. Raises as `UntrainedCLI`."""
        super().__init__(
            arguments, console, prog="python -m templar_pl doctor", description=__doc__, exit_on_error=False
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `fit`, and how to show the report."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--json", action=ActionYesNo, default=False, help="Print the report as JSON.")


def doctor_command(arguments: Sequence[str], command_line: type[DoctorCLI] = DoctorCLI) -> int:
    """Examine what `fit` would start with; return 0, or 1 if something would stop it.

    Args:
        arguments: of the command line.
        command_line: parses them, and says which network they ask for.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    silence_libraries()
    try:
        cli = command_line(arguments, Console(stderr=True))
    except (ArgumentError, ConfigError) as error:
        return run_doctor(_unreadable(ConfigError(str(error))), json="--json" in arguments)
    return run_doctor(read_settings(cli.config, cli.node_network), json=cli.config.json)


def read_settings(config: Namespace, join: Callable[[NetworkOptions, HParams], Network]) -> Settings:
    """Make what `fit` would make of a parsed command line, part by part.

    Args:
        config: the command line.
        join: returns the network that options ask for.
    """
    numbers = {name: _group(config, name, cls) for name, cls in SECTIONS.items()}
    node = {name: _group(config, name, cls) for name, cls in _NODE_GROUPS.items()}
    hparams = Part(lambda: run_numbers({name: part.get() for name, part in numbers.items()}, all_peers=config.test))
    network = Part(lambda: join(_network_options(config.netuid, node), hparams.get()))
    model = Part(lambda: _model(config.model, numbers))
    data = Part(lambda: _data(config.data, numbers))
    trainer = Part(lambda: {**vars(config.trainer), **choose_device(config.device, config.trainer)})
    return Settings(
        groups={**numbers, **node, "hparams": hparams, "model": model, "data": data, "device": trainer},
        hparams=hparams,
        digest=Part(lambda: settings_digest(hparams.get(), config.model.init_seed)),
        store=node["store"],
        credentials=own_keys,
        network=network,
        checkpoints=Part(lambda: checkpoint_dir(network.get())),
        ckpt_path=Part(lambda: config.ckpt_path),
        model=model,
        data=data,
        trainer=trainer,
    )


def _network_options(netuid: int, node: Mapping[str, Part[Any]]) -> NetworkOptions:
    groups = {field.name for field in fields(NetworkOptions)} - {"netuid"}
    return NetworkOptions(netuid=netuid, **{name: node[name].get() for name in groups})


def _group(config: Namespace, name: str, cls: type) -> Part[Any]:
    return Part(lambda: cls(**vars(config[name])))


def _model(given: Namespace, numbers: Mapping[str, Part[Any]]) -> LlamaModule:
    options = {**vars(given), "generation": GenerationConfig(**vars(given.generation))}
    with torch.device("meta"):
        return LlamaModule(numbers["llama"].get(), numbers["schedule"].get(), **options)


def _data(given: Namespace, numbers: Mapping[str, Part[Any]]) -> TemplarDataModule:
    options = {**vars(given), "page_set": PageSetConfig(**vars(given.page_set))}
    return TemplarDataModule(numbers["pages"].get(), **options)


def _unreadable(error: ConfigError) -> Settings:
    """Return settings of which nothing is known but what is wrong with the command line or a file it names."""

    def refuse() -> NoReturn:
        raise error

    wrong: Part[Any] = Part(refuse)
    unmet: Part[Any] = Part(wrong.get)
    unknown = {field.name: wrong for field in fields(Settings) if field.name not in ("groups", "credentials")}
    groups = {"command line": wrong, **dict.fromkeys((*SECTIONS, *_NODE_GROUPS), unmet)}
    return Settings(groups=groups, credentials=own_keys, **unknown)
