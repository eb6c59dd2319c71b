"""Hotkeys in wallets as the bittensor package and its `btcli` make them."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from bittensor_core import CRYPTO_ED25519  # pyright: ignore[reportAttributeAccessIssue]
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain import HotkeySigner, verify
from templar_pl.chain.wallet import (
    MAX_KEYFILE_BYTES,
    PASSWORD_VARIABLE,
    hotkey_path,
    load_wallet_hotkey,
    sdk_password_variable,
)
from templar_pl.errors import ConfigError
from templar_pl.node_config import WalletConfig
from tests.chain.wallets import (
    PASSWORD,
    ansible,
    answers,
    legacy,
    make_wallet,
    never,
    nobody,
    refusal,
)


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
