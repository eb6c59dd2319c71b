"""Keys, signatures, and the files of local keys."""

from __future__ import annotations

import copy
import json
import pickle
import stat
from pathlib import Path

import pytest
from bittensor_core import CRYPTO_ED25519, Keypair  # pyright: ignore[reportAttributeAccessIssue]  # no stubs
from hypothesis import example, given
from hypothesis import strategies as st

from templar_pl.chain.hotkeys import HotkeySigner, load_hotkey, load_or_create_hotkey, verify
from templar_pl.errors import ConfigError
from templar_pl.protocol.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer, Verify

ALICE = HotkeySigner(Keypair.from_uri("//Alice"))
BOB = HotkeySigner(Keypair.from_uri("//Bob"))


@given(st.binary(max_size=2000))
def test_what_one_signs_all_can_check(message: bytes) -> None:
    signer: Signer = ALICE
    check: Verify = verify

    signature = signer.sign(message)

    assert len(signature) == SIGNATURE_BYTES
    assert len(signer.public_key) == PUBLIC_KEY_BYTES
    assert check(signer.public_key, message, signature)
    assert not check(BOB.public_key, message, signature)
    assert not check(signer.public_key, message + b"x", signature)


def test_a_signature_with_any_one_bit_flipped_is_bad() -> None:
    good = int.from_bytes(ALICE.sign(b"message"))

    for bit in range(SIGNATURE_BYTES * 8):
        assert not verify(ALICE.public_key, b"message", (good ^ 1 << bit).to_bytes(SIGNATURE_BYTES))


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
@example(bytes(32), b"", bytes(64))
@example(b"\xff" * 32, b"", b"\xff" * 64)
@example(ALICE.public_key, b"", b"")
def test_bytes_of_any_content_are_a_bad_signature_and_no_error(public: bytes, message: bytes, signature: bytes) -> None:
    assert verify(public, message, signature) is False
    assert verify(ALICE.public_key, message, signature) is False
    assert verify(public, message, ALICE.sign(message)) is (public == ALICE.public_key)


def test_two_signings_of_one_message_differ() -> None:
    assert ALICE.sign(b"message") != ALICE.sign(b"message")


def test_the_hotkey_is_the_known_address_of_the_key() -> None:
    # From the documentation of Substrate's well-known development accounts.
    assert ALICE.hotkey == "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be of kind sr25519"):
        HotkeySigner(Keypair.from_seed(bytes(32), CRYPTO_ED25519))


def test_a_key_is_made_on_first_use_and_found_again(tmp_path: Path) -> None:
    first = load_or_create_hotkey(tmp_path / "keys", "miner")

    assert load_or_create_hotkey(tmp_path / "keys", "miner").hotkey == first.hotkey
    assert load_or_create_hotkey(tmp_path / "keys", "other").hotkey != first.hotkey
    assert verify(first.public_key, b"x", load_or_create_hotkey(tmp_path / "keys", "miner").sign(b"x"))


def test_a_key_can_be_loaded_without_being_made(tmp_path: Path) -> None:
    assert load_hotkey(tmp_path / "keys", "miner") is None
    assert list(tmp_path.iterdir()) == []

    made = load_or_create_hotkey(tmp_path / "keys", "miner")

    loaded = load_hotkey(tmp_path / "keys", "miner")
    assert loaded is not None
    assert loaded.hotkey == made.hotkey


def test_the_file_of_a_key_is_readable_by_its_owner_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    load_or_create_hotkey(tmp_path, "miner")

    assert [path.name for path in tmp_path.iterdir()] == ["miner"]
    assert stat.S_IMODE((tmp_path / "miner").stat().st_mode) == 0o600


def test_the_secret_shows_in_no_representation_and_cannot_be_copied_out(tmp_path: Path) -> None:
    signer = load_or_create_hotkey(tmp_path, "miner")
    secrets = [v for k, v in json.loads((tmp_path / "miner").read_text()).items() if k in ("secretSeed", "privateKey")]
    assert len(secrets) == 2

    for shown in (repr(signer), str(signer), str(vars(signer))):
        assert not any(secret.removeprefix("0x") in shown for secret in secrets)
    with pytest.raises(TypeError):
        pickle.dumps(signer)
    with pytest.raises(TypeError):
        copy.deepcopy(signer)


def test_a_damaged_key_file_is_named_but_not_quoted(tmp_path: Path) -> None:
    load_or_create_hotkey(tmp_path, "miner")
    path = tmp_path / "miner"
    path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(ConfigError, match="not an unencrypted hotkey file") as caught:
        load_or_create_hotkey(tmp_path, "miner")

    assert str(path) in str(caught.value)
    assert "secretSeed" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "fields",
    [
        {"secretSeed": "0x00"},
        {"privateKey": "0x11"},
        {"secretPhrase": "a b"},
        {"cryptoType": 7, "secretSeed": "11" * 32},
    ],
)
def test_a_key_file_with_a_value_out_of_range_is_named_but_not_quoted(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    (tmp_path / "miner").write_text(json.dumps(fields))

    with pytest.raises(ConfigError, match="not an unencrypted hotkey file"):
        load_or_create_hotkey(tmp_path, "miner")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "a b", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="the name of a hotkey must be"):
        load_or_create_hotkey(tmp_path, name)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=f"cannot read or write the hotkey file {tmp_path}"):
        load_or_create_hotkey(tmp_path / "file" / "keys", "miner")
