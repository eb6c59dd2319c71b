"""`adversary` on the command line: a miner that does not do what it should, to see what becomes of it."""

# No import of rich in here: where it comes before lightning, typing hands out a Union of float and int for one of int
# and float that was made earlier, and `--trainer.limit_train_batches 1` is read as 1.0, all batches.

from __future__ import annotations

from collections.abc import Sequence

from templar_pl.cli import TemplarCLI, run_command
from templar_pl.command_line import EXIT_SETTINGS, say_error
from templar_pl.errors import ConfigError
from templar_pl.roles.adversaries import STRATEGIES


def adversary_command(arguments: Sequence[str]) -> int:
    """Run an adversary; return what `fit` would.

    Args:
        arguments: the name of the adversary, then the options of `fit`.
    """
    if not arguments or arguments[0] not in STRATEGIES:
        got = arguments[0] if arguments else "nothing"
        say_error(ConfigError(f"adversary must be followed by one of {', '.join(STRATEGIES)}, got {got}"))
        return EXIT_SETTINGS
    command_line = type("AdversaryCLI", (TemplarCLI,), {"strategy_class": STRATEGIES[arguments[0]]})
    return run_command(["fit", *arguments[1:]], command_line)
