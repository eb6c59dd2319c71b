"""What all commands share: exit codes, how an error is said, the files of numbers, and the password of a key."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from templar_pl.chain import PASSWORD_VARIABLE, AskPassword, sdk_password, sdk_password_variable

EXIT_STOPPED, EXIT_SETTINGS, EXIT_SIGTERM = 1, 2, 143

_PROMPTS = 3


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


def hotkey_password(environment: Mapping[str, str], prompt: Callable[[str], str] | None) -> AskPassword:
    """Return what knows the password of an encrypted hotkey: from the environment, else from whoever sits there.

    A variable of the environment that is empty counts as not set. A password from there is tried once.

    Args:
        environment: of the process; its variables are read when a password is needed.
        prompt: asks for a password without showing it, such as `getpass.getpass`; None if nobody can answer. It is
            asked up to three times; an end of input is no answer.
    """

    def ask(path: Path, wrong: int) -> str | None:
        given = environment.get(PASSWORD_VARIABLE) or sdk_password(path, environment)
        if given:
            return None if wrong else given
        if prompt is None or wrong >= _PROMPTS:
            return None
        try:
            return prompt(f"{'Wrong password. ' if wrong else ''}Password of the hotkey {path}: ")
        except EOFError:
            return None

    return ask


def password_source(environment: Mapping[str, str], path: Path) -> str:
    """Return where `hotkey_password` takes a password from: the name of a variable, or `a terminal`.

    Args:
        environment: of the process.
        path: of the key file.
    """
    names = (PASSWORD_VARIABLE, sdk_password_variable(path))
    return next((name for name in names if environment.get(name)), "a terminal")
