"""`aggregate` on the command line: it takes the options of `fit`, and says what it keeps and when it stops."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.cli import LightningArgumentParser

from templar_pl.cli_roles import RoleCLI, run_role
from templar_pl.errors import ConfigError
from templar_pl.roles.aggregate import AggregateConfig, run_aggregate
from templar_pl.roles.node import Node


class AggregateCLI(RoleCLI):
    """Say what each window of a run consisted of: manifests, aggregates and checkpoints. It trains nothing."""

    command = "aggregate"
    own_options = ("aggregate", "windows", "netuid")

    def add_own_options(self, parser: LightningArgumentParser) -> None:
        """Add what is kept, and when to stop."""
        parser.add_class_arguments(AggregateConfig, "aggregate")
        parser.add_argument(
            "--windows", type=int | None, default=None, help="Stop when so many windows of the run are applied."
        )


def aggregate_command(arguments: Sequence[str], command_line: type[AggregateCLI] = AggregateCLI) -> int:
    """Run an aggregator; see `run_role`.

    Args:
        arguments: of the command line.
        command_line: parses them, and says which network they ask for.
    """
    return run_role(arguments, command_line, _aggregate)


def _aggregate(node: Node) -> int:
    windows = node.options["windows"]
    if windows is not None and windows < 1:
        raise ConfigError(f"windows must be at least 1, got {windows}")
    return run_aggregate(node)
