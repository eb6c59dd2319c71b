"""Hotkeys in wallets as the bittensor package and its `btcli` make them."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import logging
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import bittensor
import pytest
from bittensor_core import CRYPTO_ED25519, get_password_from_environment  # pyright: ignore[reportAttributeAccessIssue]
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given
from hypothesis import strategies as st

from templar_pl.chain import HotkeySigner, verify
from templar_pl.chain.wallet import (
    MAX_KEYFILE_BYTES,
    PASSWORD_VARIABLE,
    coldkey_address,
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

PASSWORD = "corréct horse"  # noqa: S105 - of keys made here
BTCLI = Path(sys.executable).with_name("btcli")
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


def nobody(path: Path, wrong: int) -> str | None:
    return None


def never(path: Path, wrong: int) -> str | None:
    raise AssertionError("a password was asked for")


def answers(*passwords: str) -> Callable[[Path, int], str | None]:
    """Give one password after the other."""
    return lambda _, wrong: passwords[wrong] if wrong < len(passwords) else None


def make_wallet(folder: Path, **options: object) -> tuple[WalletConfig, str]:
    """Make a wallet with the bittensor package; return it with the address of its hotkey."""
    wallet = WalletConfig(name="alice", hotkey="miner", path=str(folder))
    made = bittensor.Wallet("alice", "miner", path=str(folder))
    made.create_new_hotkey(suppress=True, **options)  # pyright: ignore[reportArgumentType]  # a table of mixed types
    return wallet, made.hotkeypub.ss58_address


def ansible(plain: bytes, password: str) -> bytes:
    """Encrypt as Ansible Vault 1.1 does, which wallets of the second generation have."""
    salt = hashlib.sha256(plain).digest()
    key = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 10_000, 80)
    padding = 16 - len(plain) % 16
    hidden = (
        Cipher(algorithms.AES(key[:32]), modes.CTR(key[64:])).encryptor().update(plain + bytes([padding]) * padding)
    )
    mac = hmac.new(key[32:64], hidden, "sha256").hexdigest()
    text = "\n".join([salt.hex(), mac, hidden.hex()]).encode().hex()
    lines = [text[start : start + 80] for start in range(0, len(text), 80)]
    return "\n".join(["$ANSIBLE_VAULT;1.1;AES256", *lines, ""]).encode()


def legacy(plain: bytes, password: str) -> bytes:
    """Encrypt as the first wallets did."""
    salt = b"Iguesscyborgslikemyselfhaveatendencytobeparanoidaboutourorigins"
    return Fernet(base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 10**7))).encrypt(
        plain
    )


@pytest.fixture
def locked(tmp_path: Path) -> tuple[WalletConfig, str]:
    """A wallet whose hotkey is encrypted in a way that costs no time."""
    wallet, address = make_wallet(tmp_path)
    path = hotkey_path(wallet)
    path.write_bytes(ansible(path.read_bytes(), PASSWORD))
    return wallet, address


def refusal(wallet: WalletConfig, ask: Callable[[Path, int], str | None] = never) -> str:
    with pytest.raises(ConfigError) as caught:
        load_wallet_hotkey(wallet, ask)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    return str(caught.value)


def test_a_plain_hotkey_of_the_bittensor_package_signs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wallet, address = make_wallet(tmp_path)

    signer = load_wallet_hotkey(wallet, never)

    assert isinstance(signer, HotkeySigner)
    assert signer.hotkey == address
    assert verify(signer.public_key, b"x", signer.sign(b"x"))
    assert not caplog.records


def test_a_hotkey_that_the_bittensor_package_encrypted_signs(tmp_path: Path) -> None:
    wallet, address = make_wallet(tmp_path, hotkey_password=PASSWORD)
    assert hotkey_path(wallet).read_bytes().startswith(b"$NACL")

    signer = load_wallet_hotkey(wallet, answers(PASSWORD))

    assert signer.hotkey == address
    assert verify(signer.public_key, b"x", signer.sign(b"x"))


@pytest.mark.parametrize("encrypt", [ansible, legacy])
def test_a_hotkey_encrypted_by_an_older_wallet_signs(tmp_path: Path, encrypt: Callable[[bytes, str], bytes]) -> None:
    wallet, address = make_wallet(tmp_path)
    path = hotkey_path(wallet)
    path.write_bytes(encrypt(path.read_bytes(), PASSWORD))

    assert load_wallet_hotkey(wallet, answers(PASSWORD)).hotkey == address


def test_a_wrong_password_is_asked_for_again(locked: tuple[WalletConfig, str]) -> None:
    assert load_wallet_hotkey(locked[0], answers("no", "", "\udcff", PASSWORD)).hotkey == locked[1]


def test_wrong_passwords_are_refused_without_being_quoted(locked: tuple[WalletConfig, str]) -> None:
    said = refusal(locked[0], answers("hunter2", "hunter3"))

    assert said.startswith(f"the password of the hotkey {hotkey_path(locked[0])} is wrong")
    assert PASSWORD_VARIABLE in said
    assert sdk_password_variable(hotkey_path(locked[0])) in said
    assert "hunter" not in said


def test_an_encrypted_hotkey_without_a_password_names_the_variables(locked: tuple[WalletConfig, str]) -> None:
    said = refusal(locked[0], nobody)

    assert said.startswith(
        f"the hotkey {hotkey_path(locked[0])} is encrypted: set its password in {PASSWORD_VARIABLE} "
    )
    assert sdk_password_variable(hotkey_path(locked[0])) in said


def test_an_encrypted_hotkey_that_is_cut_short_is_named(tmp_path: Path) -> None:
    wallet, _ = make_wallet(tmp_path)
    hotkey_path(wallet).write_bytes(b"$NACLxx")

    assert "is not a whole encrypted key file" in refusal(wallet, answers("a"))


def test_neither_key_nor_password_shows_or_can_be_copied_out(
    locked: tuple[WalletConfig, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    signer = load_wallet_hotkey(locked[0], answers("hunter2", PASSWORD))

    for shown in (repr(signer), str(vars(signer)), repr(locked[0]), caplog.text):
        assert PASSWORD not in shown
        assert "hunter2" not in shown
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(signer)


def test_a_missing_wallet_is_answered_by_those_there_are_and_by_the_command_that_makes_it(tmp_path: Path) -> None:
    make_wallet(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").touch()
    wallet = WalletConfig(name="bob", hotkey="miner", path=str(tmp_path))

    said = refusal(wallet)

    assert said == (
        f"there is no wallet 'bob' in {tmp_path} (there are: alice); set --wallet.name and --wallet.path, or make it: "
        f"btcli wallet create --wallet bob --wallet-hotkey miner --wallet-path {tmp_path}"
    )


def test_a_missing_folder_of_wallets_is_answered_too(tmp_path: Path) -> None:
    said = refusal(WalletConfig(path=str(tmp_path / "nowhere")))

    assert f"in {tmp_path / 'nowhere'} (there is none at all); " in said


def test_a_missing_hotkey_is_answered_by_those_there_are_and_by_the_command_that_makes_it(tmp_path: Path) -> None:
    make_wallet(tmp_path)
    (tmp_path / "alice" / "hotkeys" / "miner.lock").touch()
    wallet = WalletConfig(name="alice", hotkey="other", path=str(tmp_path))

    assert refusal(wallet) == (
        f"there is no hotkey 'other' in the wallet {tmp_path / 'alice'} (there are: miner); set --wallet.hotkey, or "
        f"make it: btcli wallet new-hotkey --wallet alice --wallet-hotkey other --wallet-path {tmp_path}"
    )


def test_only_ten_names_are_said(tmp_path: Path) -> None:
    for number in range(13):
        (tmp_path / "alice" / "hotkeys").mkdir(parents=True, exist_ok=True)
        (tmp_path / "alice" / "hotkeys" / f"h{number:02d}").touch()

    assert "h09 and 3 more)" in refusal(WalletConfig(name="alice", path=str(tmp_path)))


def test_a_hotkey_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "default" / "hotkeys" / "miner"
    path.mkdir(parents=True)

    assert refusal(WalletConfig(path=str(tmp_path))) == (
        f"cannot read the hotkey file {path}: Is a directory; it must be a file that this user may read"
    )


def test_a_file_that_is_too_large_for_a_key_is_not_read(tmp_path: Path) -> None:
    wallet, _ = make_wallet(tmp_path)
    hotkey_path(wallet).write_bytes(b"$NACL" + bytes(MAX_KEYFILE_BYTES))

    assert "File too large" in refusal(wallet)


def test_a_pipe_in_place_of_a_key_is_not_waited_for(tmp_path: Path) -> None:
    wallet, _ = make_wallet(tmp_path)
    hotkey_path(wallet).unlink()
    os.mkfifo(hotkey_path(wallet), 0o600)

    assert "is not a key file of a wallet" in refusal(wallet)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"secretSeed": "0x5ec2e7"}', b'{"secretPhrase": "5ec2e7"}'])
def test_a_file_that_is_no_key_is_named_but_not_quoted(tmp_path: Path, content: bytes) -> None:
    wallet, _ = make_wallet(tmp_path)
    hotkey_path(wallet).write_bytes(content)

    said = refusal(wallet)

    assert f"{hotkey_path(wallet)} is not a key file of a wallet" in said
    assert "5ec2e7" not in said


@given(kept=st.integers(0, 100), tail=st.binary(max_size=100))
def test_bytes_of_any_content_are_a_key_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, kept: int, tail: bytes
) -> None:
    wallet = WalletConfig(path=str(tmp_path_factory.mktemp("wallets")))
    path = hotkey_path(wallet)
    path.parent.mkdir(parents=True)
    path.write_bytes(json.dumps({"cryptoType": 1, "secretSeed": "0x" + "11" * 32}).encode()[:kept] + tail)

    with suppress(ConfigError):
        assert load_wallet_hotkey(wallet, answers("a")).hotkey


def test_the_public_half_of_a_key_is_refused(tmp_path: Path) -> None:
    wallet, _ = make_wallet(tmp_path)
    path = hotkey_path(wallet)
    path.write_bytes(path.with_name("minerpub.txt").read_bytes())

    assert f"{path} holds only the public half of a key" in refusal(wallet)


def test_a_hotkey_of_another_kind_is_refused(tmp_path: Path) -> None:
    wallet, _ = make_wallet(tmp_path, crypto_type=CRYPTO_ED25519)

    said = refusal(wallet)

    assert said.startswith(f"{hotkey_path(wallet)}: hotkey 5")
    assert "must be of kind sr25519, got kind 0; make one" in said


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_may_open_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_open: bool
) -> None:
    wallet, address = make_wallet(tmp_path)
    hotkey_path(wallet).chmod(mode)

    assert load_wallet_hotkey(wallet, never).hotkey == address

    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    path = hotkey_path(wallet)
    assert said == ([f"{path} may be opened by others than its owner; run: chmod 600 {path}"] if is_open else [])


def test_the_address_of_the_coldkey_is_told_without_the_coldkey(tmp_path: Path) -> None:
    wallet, _ = make_wallet(tmp_path)
    assert coldkey_address(wallet) is None
    made = bittensor.Wallet("alice", path=str(tmp_path)).create_new_coldkey(use_password=False, suppress=True)
    (tmp_path / "alice" / "coldkey").write_bytes(b"not for anybody")

    assert coldkey_address(wallet) == made.coldkeypub.ss58_address


def test_a_coldkey_whose_address_cannot_be_read_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wallet, _ = make_wallet(tmp_path)
    (tmp_path / "alice" / "coldkeypub.txt").write_text("5Grw")

    assert coldkey_address(wallet) is None
    assert "its address is not known" in caplog.text


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
