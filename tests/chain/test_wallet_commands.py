"""Where the password of a hotkey comes from, and the btcli commands that are proposed."""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bittensor
import pytest
from bittensor_core import get_password_from_environment  # pyright: ignore[reportAttributeAccessIssue]
from hypothesis import example, given
from hypothesis import strategies as st

from templar_pl.chain.wallet import (
    PASSWORD_VARIABLE,
    create_command,
    hotkey_path,
    load_wallet_hotkey,
    new_hotkey_command,
    register_command,
    sdk_password,
    sdk_password_variable,
)
from templar_pl.command_line import hotkey_password
from templar_pl.errors import ConfigError
from templar_pl.node_config import WalletConfig
from tests.chain.wallets import (
    BTCLI,
    NAMES,
    PASSWORD,
    never,
    refusal,
)


@example("w", "h", "longer than the name of its variable: " * 9)
@given(NAMES, NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_password_that_the_bittensor_package_would_find_is_found(name: str, hotkey: str, password: str) -> None:
    path = hotkey_path(WalletConfig(name=name, hotkey=hotkey, path="/home/x/.bittensor/wallets"))
    variable = sdk_password_variable(path)
    keyfile = bittensor.Wallet(name, hotkey, path="/home/x/.bittensor/wallets").hotkey_file
    assert variable == keyfile.env_var_name()

    with pytest.MonkeyPatch.context() as patch:
        # What the package writes reaches the environment of this process, but not Python's picture of it.
        keyfile.save_password_to_env(password)
        shown = subprocess.run(["/usr/bin/env", "-0"], capture_output=True, check=True).stdout.split(b"\0")
        environment = dict(line.decode().split("=", 1) for line in shown if line.startswith(b"BT_PW_"))
        patch.setenv(variable, environment[variable])
        assert get_password_from_environment(variable) == password
        assert sdk_password(path, environment) == password


@pytest.mark.parametrize("value", ["plain", "!!!!", "/w==", "é"])
def test_a_variable_in_another_form_is_named_and_not_quoted(value: str) -> None:
    path = Path("/w/h")

    with pytest.raises(ConfigError, match=f"BT_PW__W_H must be in the form .* into {PASSWORD_VARIABLE}") as caught:
        sdk_password(path, {"BT_PW__W_H": value})

    assert value not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_password_comes_from_the_environment_first_and_is_tried_once() -> None:
    path = Path("/w/h")
    mixed = base64.b64encode(bytes(a ^ b for a, b in zip(b"theirs", b"BT_PW_", strict=True))).decode()
    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return "typed"

    ours = hotkey_password({PASSWORD_VARIABLE: "ours", "BT_PW__W_H": mixed}, prompt)
    theirs = hotkey_password({PASSWORD_VARIABLE: "", "BT_PW__W_H": mixed}, prompt)

    assert [ours(path, 0), ours(path, 1)] == ["ours", None]
    assert [theirs(path, 0), theirs(path, 1)] == ["theirs", None]
    assert asked == []


def test_a_password_that_is_not_set_is_asked_for_three_times() -> None:
    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return f"typed {len(asked)}"

    ask = hotkey_password({}, prompt)

    assert [ask(Path("/w/h"), wrong) for wrong in range(5)] == ["typed 1", "typed 2", "typed 3", None, None]
    assert asked == ["Password of the hotkey /w/h: ", *["Wrong password. Password of the hotkey /w/h: "] * 2]


def test_nobody_who_answers_is_no_password() -> None:
    def ended(text: str) -> str:
        raise EOFError

    assert hotkey_password({}, ended)(Path("/w/h"), 0) is None
    assert hotkey_password({}, None)(Path("/w/h"), 0) is None


def test_the_password_is_typed_in_a_real_terminal_and_not_shown(locked: tuple[WalletConfig, str]) -> None:
    script = (
        "import getpass, os, sys\n"
        "from templar_pl.chain import load_wallet_hotkey\n"
        "from templar_pl.command_line import hotkey_password\n"
        "from templar_pl.node_config import WalletConfig\n"
        "wallet = WalletConfig(name='alice', hotkey='miner', path=sys.argv[1])\n"
        "prompt = getpass.getpass if sys.stdin.isatty() else None\n"
        "print(load_wallet_hotkey(wallet, hotkey_password(os.environ, prompt)).hotkey)\n"
    )
    command = [sys.executable, "-c", script, locked[0].path]

    said, code = in_terminal(command, ["wrong one", PASSWORD])

    assert code == 0, said
    assert locked[1] in said
    assert said.count("Password of the hotkey") == 2
    assert "wrong one" not in said
    assert PASSWORD not in said


def in_terminal(command: list[str], lines: list[str]) -> tuple[str, int]:
    """Run a command in a terminal of its own, type a line at each prompt; return what was shown and the exit code."""
    ours, theirs = os.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown, typed = b"", 0
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how a terminal says that nobody is there any more
                part = b""
            if not part:
                break
            shown += part
            if typed < len(lines) and shown.count(b": ") > typed:
                os.write(ours, lines[typed].encode() + b"\n")
                typed += 1
        code = process.wait(60)
    os.close(ours)
    return shown.decode(), code


def run_btcli(command: str, home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words[0] == "btcli"
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [BTCLI, *words[1:], *more],
        capture_output=True, check=False, env=environment, stdin=subprocess.DEVNULL, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    "make", [create_command, new_hotkey_command, lambda wallet: register_command(3, wallet, "test")]
)
def test_btcli_has_each_option_of_the_commands_that_are_proposed(
    tmp_path: Path, make: Callable[[WalletConfig], str]
) -> None:
    command = make(WalletConfig(name="al.ice", hotkey="_x", path=str(tmp_path / "a folder")))
    options = [word for word in shlex.split(command) if word.startswith("--")]

    helped = run_btcli(command, tmp_path, "--help")

    assert helped.returncode == 0, helped.stderr
    assert {"--wallet", "--wallet-hotkey", "--wallet-path"} <= set(options)
    for option in options:
        assert re.search(rf"(?m)^\W*{option}\s", helped.stdout), option
    assert run_btcli(command, tmp_path, "--no-such-option", "--help").returncode == 2


def test_the_command_that_is_proposed_makes_the_hotkey_that_was_missing(tmp_path: Path) -> None:
    wallet = WalletConfig(name="alice", hotkey="new.one", path=str(tmp_path / "a folder"))
    (tmp_path / "a folder" / "alice").mkdir(parents=True)
    command = refusal(wallet).rpartition("make it: ")[2]

    made = run_btcli(command, tmp_path)

    assert made.returncode == 0, made.stderr
    assert load_wallet_hotkey(wallet, never).hotkey in made.stdout


def test_a_command_names_the_folder_only_where_btcli_would_look_elsewhere() -> None:
    assert register_command(3, WalletConfig(name="alice", hotkey="miner"), "finney") == (
        "btcli subnets register --netuid 3 --network finney --wallet alice --wallet-hotkey miner"
    )
    assert register_command(268, WalletConfig(path="~/my wallets"), "wss://a b").endswith(
        f"--network 'wss://a b' --wallet default --wallet-hotkey miner --wallet-path '{Path.home()}/my wallets'"
    )


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "x" * 65, "a b", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"wallet\.name: the name of a wallet must be"):
        WalletConfig(name=name)
    with pytest.raises(ConfigError, match=r"wallet\.hotkey: the name of a hotkey must be"):
        WalletConfig(hotkey=name)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"wallet\.path must be the folder of all wallets"):
        WalletConfig(path=path)
