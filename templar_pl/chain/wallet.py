"""A hotkey from a wallet as `btcli` of the bittensor package (v11) lays it out on disk.

    <path>/<name>/hotkeys/<hotkey>    what signs here: plain, or encrypted by NaCl, Ansible Vault or the oldest scheme

A password is asked of the caller, used at once and kept nowhere. What is wrong with a wallet is a `ConfigError` that
names the command that mends it.
"""

from __future__ import annotations

import base64
import binascii
import errno
import logging
import os
import shlex
from collections.abc import Callable, Mapping
from io import FileIO
from itertools import count, cycle
from pathlib import Path

# A compiled module, without stubs for the type checker.
from bittensor_core import KeyfileError, Keypair, WrongPasswordError  # pyright: ignore[reportAttributeAccessIssue]
from bittensor_core import decrypt_keyfile_data as decrypt  # pyright: ignore[reportAttributeAccessIssue]
from bittensor_core import deserialize_keypair_from_keyfile_data as from_keyfile  # pyright: ignore[reportAttributeAccessIssue]
from bittensor_core import keyfile_data_is_encrypted as is_encrypted  # pyright: ignore[reportAttributeAccessIssue]

from templar_pl.chain.bittensor_config import without_secrets
from templar_pl.chain.hotkeys import HotkeySigner
from templar_pl.errors import ConfigError
from templar_pl.node_config import WalletConfig

log = logging.getLogger(__name__)

PASSWORD_VARIABLE = "TEMPLAR_HOTKEY_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with the password of the hotkey, as it is."""

MAX_KEYFILE_BYTES = 2**16
"""A key file has some 600 bytes, encrypted by Ansible Vault some 2500."""

AskPassword = Callable[[Path, int], str | None]
"""(key file, passwords that were wrong so far) -> the next password to try; None if there is none."""


def load_wallet_hotkey(wallet: WalletConfig, ask_password: AskPassword) -> HotkeySigner:
    """Return the hotkey of a wallet.

    A file that others than its owner may open is named in the log. Deriving the key of the newest encryption takes
    some seconds.

    Args:
        wallet: which one.
        ask_password: is asked if the file is encrypted, again and again until it has none or one is right.

    Raises:
        ConfigError: wallet or hotkey is missing, cannot be read or is no key that signs here, or no password is right.
    """
    path = hotkey_path(wallet)
    data = _read(path, wallet)
    if is_encrypted(data):
        data = _decrypted(data, path, ask_password)
    return _signer(data, path)


def hotkey_path(wallet: WalletConfig) -> Path:
    """Return where the key file of the hotkey is."""
    return _folder(wallet) / "hotkeys" / wallet.hotkey


def is_locked(wallet: WalletConfig) -> bool:
    """Return whether the key file of the hotkey is there and encrypted."""
    try:
        return is_encrypted(_read_capped(hotkey_path(wallet)))
    except OSError:
        return False


def sdk_password_variable(path: Path) -> str:
    """Return the environment variable in which the bittensor package looks for the password of a key file."""
    return "BT_PW_" + str(path).replace(os.sep, "_").replace(".", "_").upper()


def sdk_password(path: Path, environment: Mapping[str, str]) -> str | None:
    """Return the password that the bittensor package finds in the environment; None if there is none.

    It stands there in base64, each byte combined by exclusive or with the variable's name, repeated.

    Raises:
        ConfigError: the variable holds something else.
    """
    variable = sdk_password_variable(path)
    mixed = environment.get(variable, "")
    try:
        raw = base64.b64decode(mixed, validate=True)
        return bytes(a ^ b for a, b in zip(raw, cycle(variable.encode()), strict=False)).decode() or None
    except (binascii.Error, ValueError):
        reason = f"{variable} must be in the form that the bittensor package writes"
    raise ConfigError(f"{reason}; unset it, and put the password as it is into {PASSWORD_VARIABLE}")


def create_command(wallet: WalletConfig) -> str:
    """Return the `btcli` command that makes the wallet with its hotkey."""
    return shlex.join(["btcli", "wallet", "create", *_wallet_options(wallet)])


def new_hotkey_command(wallet: WalletConfig) -> str:
    """Return the `btcli` command that makes the hotkey in its wallet."""
    return shlex.join(["btcli", "wallet", "new-hotkey", *_wallet_options(wallet)])


def register_command(netuid: int, wallet: WalletConfig, network: str) -> str:
    """Return the `btcli` command that registers the hotkey on a subnet.

    Args:
        netuid: number of the subnet.
        wallet: whose hotkey is registered and whose coldkey pays.
        network: finney, test, local, or a ws:// or wss:// address, of which the secrets are left out.
    """
    where = ["--netuid", str(netuid), "--network", without_secrets(network)]
    return shlex.join(["btcli", "subnets", "register", *where, *_wallet_options(wallet)])


def cost_command(netuid: int, network: str) -> str:
    """Return the `btcli` command that tells what a registration costs now.

    Args:
        netuid: number of the subnet.
        network: as in `register_command`.
    """
    return shlex.join(["btcli", "subnets", "burn-cost", str(netuid), "--network", without_secrets(network)])


def _wallet_options(wallet: WalletConfig) -> list[str]:
    options = ["--wallet", wallet.name, "--wallet-hotkey", wallet.hotkey]
    folder = Path(wallet.path).expanduser()
    return options if folder == Path(WalletConfig.path).expanduser() else [*options, "--wallet-path", str(folder)]


def _folder(wallet: WalletConfig) -> Path:
    return Path(wallet.path).expanduser() / wallet.name


def _read(path: Path, wallet: WalletConfig) -> bytes:
    """Return what the key file holds. Raises `ConfigError` if it is missing or cannot be read."""
    try:
        data = _read_capped(path)
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(_missing(wallet)) from None
    except OSError as error:
        raise ConfigError(
            f"cannot read the hotkey file {path}: {error.strerror}; it must be a file that this user may read"
        ) from error
    if mode & 0o077:
        log.warning("%s may be opened by others than its owner; run: chmod 600 %s", path, shlex.quote(str(path)))
    return data


def _read_capped(path: Path) -> bytes:
    """Return a file's bytes. Raises `OSError` if there are more than a key file may have."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # whoever left a pipe there must not make the program wait
    with FileIO(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        data = file.read(MAX_KEYFILE_BYTES + 1) or b""
    if len(data) > MAX_KEYFILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def _missing(wallet: WalletConfig) -> str:
    """Say what of a wallet is missing, what is there instead, and how to make it."""
    folder = _folder(wallet)
    if not folder.is_dir():
        there = _listed(folder.parent, lambda entry: entry.is_dir())
        return (
            f"there is no wallet {wallet.name!r} in {folder.parent} ({there}); set --wallet.name and --wallet.path, or "
            f"make it: {create_command(wallet)}"
        )
    there = _listed(folder / "hotkeys", lambda entry: entry.is_file() and not entry.name.endswith(("pub.txt", ".lock")))
    return (
        f"there is no hotkey {wallet.hotkey!r} in the wallet {folder} ({there}); set --wallet.hotkey, or make it: "
        f"{new_hotkey_command(wallet)}"
    )


def _listed(folder: Path, is_one: Callable[[Path], bool]) -> str:
    """Name up to ten of the wallets or hotkeys in a folder."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if is_one(entry) and not entry.name.startswith("."))
    except OSError:
        names = []
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there are: {', '.join(names[:10])}{more}" if names else "there is none at all"


def _decrypted(data: bytes, path: Path, ask_password: AskPassword) -> bytes:
    """Return what an encrypted key file holds. Raises `ConfigError` if no password is right."""
    for wrong in count():
        password = ask_password(path, wrong)
        if password is None:
            raise ConfigError(_locked(path, wrong))
        try:
            return bytes(decrypt(data, password))
        except (WrongPasswordError, UnicodeEncodeError):  # bytes that are no UTF-8 were in the environment
            continue
        except (KeyfileError, ValueError):
            break
    raise ConfigError(f"{path} is not a whole encrypted key file; bring it back from a copy or by its mnemonic")


def _locked(path: Path, wrong: int) -> str:
    variables = f"{PASSWORD_VARIABLE} (or {sdk_password_variable(path)}, as the bittensor package writes it)"
    if wrong:
        return f"the password of the hotkey {path} is wrong; it is taken from {variables}, else asked for in a terminal"
    return f"the hotkey {path} is encrypted: set its password in {variables}, or start in a terminal to be asked for it"


def _signer(data: bytes, path: Path) -> HotkeySigner:
    """Return the key in a key file that is not encrypted. Raises `ConfigError` if it is none that signs here."""
    keypair = _keypair(data)
    if keypair is None:
        raise ConfigError(
            f"{path} is not a key file of a wallet; bring it back by its mnemonic (btcli wallet regen-hotkey), or "
            "choose another by --wallet.hotkey"
        )
    try:
        keypair.sign(b"")
    except ValueError:
        is_public_only = True
    else:
        is_public_only = False
    if is_public_only:
        raise ConfigError(f"{path} holds only the public half of a key, which cannot sign; copy the whole hotkey here")
    try:
        return HotkeySigner(keypair)
    except ConfigError as error:
        reason = f"{path}: {error}"
    raise ConfigError(f"{reason}; make one without --crypto-type and choose it by --wallet.hotkey")


def _keypair(data: bytes) -> Keypair | None:
    """Return the key in a key file, None if it is none. What the library says of it may quote a secret."""
    try:
        return from_keyfile(data)
    except (KeyfileError, ValueError):
        return None
