"""`audit` on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jsonargparse import ActionYesNo
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from templar_pl.cli_roles import RoleCLI, run_role
from templar_pl.roles.audit import run_audit


class AuditCLI(RoleCLI):
    """Replay windows of a run from what is stored, and say of each whether it all agrees.

    Nothing is written, and no key is needed. `--run NAME` is short for `--store.run NAME`.
    """

    command = "audit"
    own_options = ("first", "last", "json")

    def __init__(self, arguments: Sequence[str], console: Console) -> None:
        """Parse `arguments`; see `RoleCLI`."""
        super().__init__([re.sub("^--run(?==|$)", "--store.run", argument) for argument in arguments], console)

    def add_own_options(self, parser: LightningArgumentParser) -> None:
        """Add which windows, and how to show what was found."""
        window = {"type": int | None, "default": None}
        parser.add_argument("--first", help="First window; the oldest that can be replayed if not given.", **window)
        parser.add_argument("--last", help="Last window; the newest with a manifest if not given.", **window)
        parser.add_argument("--json", action=ActionYesNo, default=False, help="Print what was found as JSON.")


def audit_command(arguments: Sequence[str], command_line: type[AuditCLI] = AuditCLI) -> int:
    """Audit; return 0, 1 if a window does not agree or the store failed, 2 for wrong settings.

    Args:
        arguments: of the command line.
        command_line: parses them, and says which network they ask for.
    """
    return run_role(arguments, command_line, run_audit)
