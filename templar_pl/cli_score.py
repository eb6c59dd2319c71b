"""`score` on the command line: it takes the options of `fit`, and says what is published and when to stop."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.cli import LightningArgumentParser

from templar_pl.cli_roles import RoleCLI, run_role
from templar_pl.errors import ConfigError
from templar_pl.roles.node import Node
from templar_pl.roles.score import ScoreConfig, run_score


class ScoreCLI(RoleCLI):
    """Score what miners sent: records of each window, a list of peers, weights. It trains nothing."""

    command = "score"
    own_options = ("score", "windows")

    def add_own_options(self, parser: LightningArgumentParser) -> None:
        """Add what is published besides, and when to stop."""
        parser.add_class_arguments(ScoreConfig, "score")
        parser.add_argument(
            "--windows", type=int | None, default=None, help="Stop when so many windows are judged in this life."
        )


def score_command(arguments: Sequence[str], command_line: type[ScoreCLI] = ScoreCLI) -> int:
    """Run a validator; see `run_role`.

    Args:
        arguments: of the command line.
        command_line: parses them, and says which network they ask for.
    """
    return run_role(arguments, command_line, _score)


def _score(node: Node) -> int:
    windows = node.options["windows"]
    if windows is not None and windows < 1:
        raise ConfigError(f"windows must be at least 1, got {windows}")
    return run_score(node)
