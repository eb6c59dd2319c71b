"""Addresses and keys: one form on the chain, clear errors for the environment, no secret in sight."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import ConfigError
from templar_pl.exchange.credentials import (
    AccessKey,
    BucketAddress,
    R2Credentials,
    Secret,
    credentials_from,
    parse_address,
)

HEX = "0123456789abcdef"
ENVIRON = {
    "TEMPLAR_R2_ACCOUNT_ID": "a" * 32,
    "TEMPLAR_R2_WRITE_KEY_ID": "b" * 32,
    "TEMPLAR_R2_WRITE_SECRET": "c" * 64,
    "TEMPLAR_R2_READ_KEY_ID": "d" * 32,
    "TEMPLAR_R2_READ_SECRET": "e" * 64,
}


@given(st.text(HEX, min_size=128, max_size=128))
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    address = parse_address(text)

    assert address.to_text() == text
    assert address.account + address.key.key_id + address.key.secret.reveal() == text
    assert (len(address.account), len(address.key.key_id)) == (32, 32)


@given(st.one_of(st.text(), st.text(HEX, min_size=120, max_size=136), st.binary().map(lambda raw: raw.hex())))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    is_address = len(text) == 128 and set(text) <= set(HEX)

    if is_address:
        assert parse_address(text).to_text() == text
    else:
        with pytest.raises(ValueError, match="address must"):
            parse_address(text)


@pytest.mark.parametrize("place", [0, 31, 32, 63, 64, 127])
@pytest.mark.parametrize("odd", ["g", "A", " ", "\n", "é", "٣", "\0", "/"])
def test_one_character_of_another_kind_is_refused_and_nothing_of_it_repeated(place: int, odd: str) -> None:
    secret = "0123456789abcdef" * 8
    text = secret[:place] + odd + secret[place + 1 :]

    with pytest.raises(ValueError, match="must be") as caught:
        parse_address(text)

    assert "0123456789ab" not in str(caught.value)


def test_all_is_read_from_the_environment() -> None:
    own = credentials_from(ENVIRON | {"PATH": "/bin"})

    assert own == R2Credentials(
        BucketAddress("a" * 32, AccessKey("d" * 32, Secret("e" * 64))), AccessKey("b" * 32, Secret("c" * 64))
    )
    assert own.address.to_text() == "a" * 32 + "d" * 32 + "e" * 64


def test_another_store_and_bucket_may_be_named() -> None:
    own = credentials_from(
        ENVIRON
        | {
            "TEMPLAR_R2_ENDPOINT_URL": "http://127.0.0.1:8333/",
            "TEMPLAR_R2_BUCKET": "templar-1",
            "TEMPLAR_R2_WRITE_KEY_ID": "minio",
            "TEMPLAR_R2_WRITE_SECRET": "correct-horse/battery+",
        }
    )

    assert (own.endpoint_url, own.bucket) == ("http://127.0.0.1:8333", "templar-1")
    assert own.write_key == AccessKey("minio", Secret("correct-horse/battery+"))


@pytest.mark.parametrize("name", ENVIRON)
@pytest.mark.parametrize("change", [lambda environ, name: environ.pop(name), lambda e, name: e.update({name: ""})])
def test_a_missing_variable_is_named(name: str, change: Callable[[dict[str, str], str], object]) -> None:
    environ = dict(ENVIRON)
    change(environ, name)

    with pytest.raises(ConfigError, match=name):
        credentials_from(environ)


def test_all_missing_variables_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        credentials_from({})

    assert all(name in str(caught.value) for name in ENVIRON)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "topsecret" * 3) for name in ENVIRON),
        *((name, f"{value}\n") for name, value in ENVIRON.items()),
        *((name, value.upper()) for name, value in ENVIRON.items()),
        ("TEMPLAR_R2_BUCKET", "topsecret_"),
        ("TEMPLAR_R2_BUCKET", "-topsecret"),
        ("TEMPLAR_R2_ENDPOINT_URL", "topsecret"),
        ("TEMPLAR_R2_ENDPOINT_URL", "ftp://topsecret"),
        ("TEMPLAR_R2_ENDPOINT_URL", "https://me:topsecret@host"),
        ("TEMPLAR_R2_ENDPOINT_URL", "https://host:topsecret"),
        ("TEMPLAR_R2_ENDPOINT_URL", "https://host/?key=topsecret"),
        ("TEMPLAR_R2_ENDPOINT_URL", "https://[topsecret"),
        ("TEMPLAR_R2_ENDPOINT_URL", "https://"),
    ],
)
def test_a_malformed_variable_is_named_but_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        credentials_from(ENVIRON | {name: value})

    assert "topsecret" not in str(caught.value)
    assert value.strip() not in str(caught.value) or value == "https://"


@pytest.mark.parametrize(("published", "kept"), [("READ_KEY_ID", "WRITE_KEY_ID"), ("READ_SECRET", "WRITE_SECRET")])
def test_the_key_that_writes_is_never_taken_for_publishing(published: str, kept: str) -> None:
    with pytest.raises(ConfigError, match="published"):
        credentials_from(ENVIRON | {f"TEMPLAR_R2_{published}": ENVIRON[f"TEMPLAR_R2_{kept}"]})


def test_secrets_cannot_be_printed_pickled_or_copied() -> None:
    own = credentials_from(ENVIRON)

    for value in (own, own.address, own.write_key, own.write_key.secret):
        assert "c" * 64 not in f"{value!r}{value}{value!s}"
        assert "e" * 64 not in f"{value!r}{value}{value!s}"
        for keep in (pickle.dumps, copy.copy, copy.deepcopy):
            if keep is copy.copy and value is not own.write_key.secret:
                continue  # a shallow copy holds the same secret and nothing more
            with pytest.raises(TypeError, match="never pickled"):
                keep(value)
    with pytest.raises(TypeError, match="never pickled"):
        dataclasses.asdict(own)


def test_equal_secrets_are_equal_and_others_are_not() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
