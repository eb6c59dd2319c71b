"""Wallets for tests: made by the bittensor package, or encrypted as older ones were."""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
from collections.abc import Callable
from pathlib import Path

import bittensor
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import strategies as st

from templar_pl.chain.wallet import (
    load_wallet_hotkey,
)
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


def refusal(wallet: WalletConfig, ask: Callable[[Path, int], str | None] = never) -> str:
    with pytest.raises(ConfigError) as caught:
        load_wallet_hotkey(wallet, ask)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    return str(caught.value)
