"""Commands that take the options of `fit` and build no trainer."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from threading import Event, current_thread, main_thread
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from templar_pl.cli import TemplarCLI, choose_device, exit_code_of, settings_digest, silence_libraries
from templar_pl.cli_network import NetworkOptions
from templar_pl.errors import ConfigError
from templar_pl.roles.node import Node
from templar_pl.training import try_trainer

log = logging.getLogger(__name__)

EXIT_INTERRUPTED = 130


class UntrainedCLI(TemplarCLI):
    """Reads the options of `fit` and builds nothing: neither weights nor a trainer, which would make folders."""

    def __init__(self, arguments: Sequence[str], console: Console, **parser: Any) -> None:
        """Parse `arguments`.

        Args:
            arguments: of the command line.
            console: for log and progress.
            parser: arguments of the parser.

        Raises:
            ConfigError: the file of numbers cannot be used.
            ArgumentError: an option is unknown or its value of another type, and the parser is told not to exit.
        """
        super().__init__(arguments, console, run=False, parser_kwargs=parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `fit`."""
        super().add_arguments_to_parser(parser)
        parser.add_method_arguments(Trainer, "fit", skip=set(self.subcommands()["fit"]))

    def instantiate_classes(self) -> None:
        """Build nothing."""


class RoleCLI(UntrainedCLI):
    """Reads the options of `fit` and those of a role. A subclass names the command and adds its options."""

    command = ""
    """Name of the command."""

    own_options: tuple[str, ...] = ()
    """Names of the options that `add_own_options` adds."""

    def __init__(self, arguments: Sequence[str], console: Console) -> None:
        """Parse `arguments`; exits with 2 if that cannot be done. Raises `ConfigError` as `UntrainedCLI`."""
        prog = f"python -m templar_pl {self.command}"
        super().__init__(arguments, console, prog=prog, description=type(self).__doc__)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `fit` and of the role."""
        super().add_arguments_to_parser(parser)
        self.add_own_options(parser)

    def add_own_options(self, parser: LightningArgumentParser) -> None:
        """Add the options of `own_options`."""

    def node(self, check_interrupt: Callable[[], None]) -> Node:
        """Build the node that the options describe; nothing is connected.

        Args:
            check_interrupt: ends a wait by an exception if the process was asked to end.

        Raises:
            ConfigError: the options do not fit each other, the device is not there, or no run takes the precision.
        """
        self.config_init = self.parser.instantiate_classes(self.config)
        hparams = self._hparams()
        network = self.node_network(
            NetworkOptions(**{field.name: self._setting(field.name) for field in fields(NetworkOptions)}), hparams
        )
        given = vars(self._setting("trainer"))
        _refuse_plugins(given["plugins"])
        device, precision = try_trainer({**given, **choose_device(self._setting("device"), given)})
        return Node(
            network=network,
            module=self._setting("model"),
            data=self._setting("data"),
            hparams=hparams,
            settings_digest=settings_digest(hparams, self._get(self.config, "model")["init_seed"]),
            recovery=self._setting("recovery"),
            device=device,
            precision=precision,
            options={name: self._setting(name) for name in self.own_options},
            check_interrupt=check_interrupt,
        )


Role = Callable[[Node], int]
"""What a command does with its node; returns the exit code."""


def run_role(arguments: Sequence[str], command_line: type[RoleCLI], role: Role) -> int:
    """Run a role until it is over or the process is asked to end.

    Args:
        arguments: of the command line.
        command_line: parses them.
        role: what to run.

    Returns:
        What the role returns; 1 if it stopped on an error, 2 for wrong settings, 130 after Ctrl-C, 143 after SIGTERM.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    silence_libraries()

    def run() -> int:
        with _interrupts() as check_interrupt:
            return role(command_line(arguments, Console(stderr=True)).node(check_interrupt))

    try:
        return exit_code_of(run)
    except KeyboardInterrupt:
        log.warning("stopped by Ctrl-C; the same command goes on where it stopped")
        return EXIT_INTERRUPTED


@contextmanager
def _interrupts() -> Iterator[Callable[[], None]]:
    """Turn SIGTERM into an exception at the next moment that suits; Ctrl-C stays what it is."""
    asked = Event()

    def check() -> None:
        if asked.is_set():
            raise SIGTERMException

    if current_thread() is not main_thread():  # signals are the main thread's
        yield check
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_plugins(plugins: Any) -> None:
    """Refuse a way to compute that only a trainer knows. Raises `ConfigError`."""
    given = plugins if isinstance(plugins, list) else [plugins]
    if found := [type(plugin).__name__ for plugin in given if isinstance(plugin, Precision)]:
        raise ConfigError(
            f"trainer.plugins must have no plugin of precision here, got {', '.join(found)}: this command has no "
            "trainer; use --trainer.precision"
        )
