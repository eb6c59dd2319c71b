"""What all commands share: exit codes, how an error is said, and the files of numbers."""

from __future__ import annotations

import sys
from pathlib import Path

EXIT_STOPPED, EXIT_SETTINGS, EXIT_SIGTERM = 1, 2, 143


def say_error(error: BaseException) -> None:
    """Write an error to standard error, in one line."""
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")


def hparams_files(chosen: str | None, *, local: bool) -> list[Path]:
    """Return the files of numbers to read, later ones laid over earlier ones.

    Args:
        chosen: path of a file instead of the project's hparams.json.
        local: whether the numbers of the toy model come on top.
    """
    inside = Path(__file__).parent
    # An installed package carries the files inside; a checkout has them at its root.
    folder = inside if (inside / "hparams.json").exists() else inside.parent
    files = [Path(chosen) if chosen else folder / "hparams.json"]
    return [*files, folder / "hparams.local.json"] if local else files
