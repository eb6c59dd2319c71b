"""sr25519 hotkeys: signing, checking, and keys made on first use for local runs.

Signatures of sr25519 are randomised: two signings of one message differ, and so do the bytes of two payloads that say
the same. The cryptography is `bittensor_core`, the compiled half of the bittensor package: importing it takes 2 ms and
writes nothing, where `import bittensor` takes 0.6 s.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

# A compiled module, without stubs for the type checker.
from bittensor_core import CRYPTO_SR25519, KeyfileError, Keypair  # pyright: ignore[reportAttributeAccessIssue]
from bittensor_core import deserialize_keypair_from_keyfile_data as from_keyfile  # pyright: ignore[reportAttributeAccessIssue]
from bittensor_core import serialized_keypair_to_keyfile_data as to_keyfile  # pyright: ignore[reportAttributeAccessIssue]

from templar_pl.errors import ConfigError
from templar_pl.node_config import is_key_name, key_name_rule
from templar_pl.protocol.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from templar_pl.units import Hotkey

_SEED_BYTES = 32


class HotkeySigner:
    """A hotkey with its secret half. The secret is in no representation of it, and it cannot be pickled."""

    def __init__(self, keypair: Keypair) -> None:
        """Wrap a key pair of the bittensor package.

        Raises:
            ConfigError: the key is not of the sr25519 kind.
        """
        if keypair.crypto_type != CRYPTO_SR25519:
            raise ConfigError(f"hotkey {keypair.ss58_address} must be of kind sr25519, got kind {keypair.crypto_type}")
        self._keypair = keypair

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that others check with."""
        return self._keypair.public_key

    @property
    def hotkey(self) -> Hotkey:
        """The SS58 address of the key."""
        return Hotkey(self._keypair.ss58_address)

    def sign(self, message: bytes) -> bytes:
        """Sign, in 64 bytes that differ from call to call."""
        return self._keypair.sign(message)

    def __repr__(self) -> str:
        return f"HotkeySigner({self.hotkey})"


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether a signature is good; bytes of any length and content are allowed everywhere.

    A signature over `<Bytes>message</Bytes>`, which is how browser wallets sign, counts as one over `message`.
    """
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    return Keypair(public_key=public_key).verify(message, signature)


def hotkey_of(address: str) -> Hotkey | None:
    """Return the hotkey of an SS58 address, as chains of Bittensor write it; None if it is no such address."""
    try:
        return Hotkey(Keypair(public_key=Keypair(ss58_address=address).public_key).ss58_address)
    except ValueError:
        return None


def new_hotkey() -> HotkeySigner:
    """Return a new hotkey that is in no file: whoever uses it looks at a chain and signs nothing that lasts."""
    return HotkeySigner(Keypair.from_seed(secrets.token_bytes(_SEED_BYTES)))


def load_or_create_hotkey(folder: Path, name: str) -> HotkeySigner:
    """Return the hotkey kept in `folder / name`, making it on first use; two processes at once end with the same key.

    The file is an unencrypted keyfile as the bittensor wallet has it, readable by its owner alone. It is meant for
    local runs: a key that holds anything of value belongs in a wallet.

    Args:
        folder: is made if it is not there.
        name: 1..64 letters, digits, and `_.-`, the first of them no `.` or `-`.

    Raises:
        ConfigError: the name is out of range, or the file cannot be read, written or understood.
    """
    signer = load_hotkey(folder, name)
    if signer is None:
        path = folder / name
        try:
            _create(path)
        except OSError as error:
            raise ConfigError(f"cannot read or write the hotkey file {path}: {error.strerror}") from error
        signer = load_hotkey(folder, name)
        if signer is None:
            raise ConfigError(f"the hotkey file {path} was made and is gone again; let it stay there")
    return signer


def load_hotkey(folder: Path, name: str) -> HotkeySigner | None:
    """Return the hotkey kept in `folder / name`, None if there is no such file; nothing is made.

    Args and errors are those of `load_or_create_hotkey`.
    """
    if not is_key_name(name):
        raise ConfigError(key_name_rule("hotkey", name))
    path = folder / name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read or write the hotkey file {path}: {error.strerror}") from error
    try:
        keypair = from_keyfile(data)
    except (KeyfileError, ValueError):  # ValueError: a field of the right name with a value out of range
        # from None: the cause may quote the file, which holds a secret.
        raise ConfigError(f"{path} is not an unencrypted hotkey file; move it away to have a new key made") from None
    return HotkeySigner(keypair)


def _create(path: Path) -> None:
    """Write a new key, all of it or nothing, unless another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = to_keyfile(Keypair.from_seed(secrets.token_bytes(_SEED_BYTES)))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)  # unlike a rename, a link never replaces the key of a process that was first
        except FileExistsError:
            return
    finally:
        draft.unlink()
