"""Settings of a chain of Bittensor, and what of an address may be told."""

from __future__ import annotations

import asyncio
from typing import Any

import bittensor as bt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain.bittensor_config import BittensorConfig, without_secrets
from templar_pl.chain.subtensor import MAX_WORDS, AnswerError, Subtensor, words
from templar_pl.chain.wallet import cost_command, register_command
from templar_pl.errors import ChainError, ConfigError
from templar_pl.node_config import WalletConfig
from tests.chain.subnets import subtensor_of
from tests.servers.subtensor import FakeSubtensor

SECRET = "hunter2"  # noqa: S105 - of nobody

ADDRESSES = {
    f"wss://user:{SECRET}@host.example:443/path": "wss://host.example:443",
    f"wss://host.example/v1/{SECRET}": "wss://host.example",
    f"wss://host.example/?key={SECRET}": "wss://host.example",
    f"wss://host.example#{SECRET}": "wss://host.example",
    f"ws://{SECRET}@[::1]:9944": "ws://[::1]:9944",
    f"wss://user:{SECRET}/@host.example": "wss://...",
    f"wss://{SECRET}#@host.example": "wss://...",
    f"wss://{SECRET}?@host.example": "wss://...",
    f"wss://host.example:{SECRET}": "wss://...",
    f"wss://[{SECRET}": "wss://...",
    f"https://user:{SECRET}@host.example/": "https://host.example",
    "ws://127.0.0.1:9944": "ws://127.0.0.1:9944",
    "finney": "finney",
}


@pytest.mark.parametrize(("address", "shown"), ADDRESSES.items())
def test_of_an_address_only_scheme_host_and_port_are_told(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


@pytest.mark.parametrize("around", ["{}", "cannot connect to {}: refused", "'{}' is wrong.", "({}), and {}"])
@pytest.mark.parametrize("address", [each for each in ADDRESSES if SECRET in each])
def test_secrets_of_addresses_in_a_text_are_not_told(address: str, around: str) -> None:
    assert SECRET not in without_secrets(around.format(address, address))


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20), st.text(max_size=10))
def test_user_names_and_passwords_are_never_told(user: str, after: str) -> None:
    secret = "s3cr3t" + user.replace("://", "")

    assert "s3cr3t" not in without_secrets(f"wss://{secret}@host.example/{after}")


@given(st.text())
def test_texts_without_addresses_stay_as_they_are(text: str) -> None:
    if "://" not in text:
        assert without_secrets(text) == text


def test_a_wrong_network_is_refused_without_its_secrets() -> None:
    with pytest.raises(ConfigError, match="finney, test, local or an address") as error:
        BittensorConfig(network=f"https://user:{SECRET}@host.example")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("network", [None, "finney", "test", "local", "ws://127.0.0.1:9944", "wss://host/path?key=1"])
def test_networks_are_names_or_addresses(network: str | None) -> None:
    assert BittensorConfig(network=network).network == network


@pytest.mark.parametrize(
    "settings",
    [
        {"network": "mainnet"},
        {"network": "ws://"},
        {"network": "ws://a b"},
        {"start_window": -1},
        {"start_window": 2**40 + 1},
        {"start_window": True},
        {"leader": 65_536},
        {"version_key": 2**63},
        {"open_timeout_s": 0.0},
        {"request_timeout_s": 601.0},
        {"submit_timeout_s": 0.5},
        {"blocks_per_window": 0},
        {"delta_s": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        BittensorConfig(**settings)


def test_the_command_to_register_is_told_without_secrets() -> None:
    command = register_command(3, WalletConfig(), f"wss://user:{SECRET}@host.example/path")

    assert "--netuid 3 --network wss://host.example --wallet" in command


def test_the_command_that_tells_the_cost_is_told_without_secrets() -> None:
    command = cost_command(3, f"wss://user:{SECRET}@host.example/path?key={SECRET}")

    assert command == "btcli subnets burn-cost 3 --network wss://host.example"


def test_a_connection_names_its_network_without_secrets() -> None:
    assert Subtensor(f"ws://{SECRET}@host:1", 3, Any).network == "ws://host:1"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "error",
    [
        bt.ChainError(f"no way to wss://user:{SECRET}@host/path"),
        ValueError("storage function X not found"),
        KeyError("number"),
        AttributeError("'NoneType' object has no attribute 'send'"),
        RuntimeError("Event loop is closed"),
        AssertionError(),
        ConnectionResetError("reset"),
        TimeoutError("handshake"),
        EOFError(),
        ZeroDivisionError(),
    ],
)
def test_whatever_the_package_raises_is_an_error_of_the_chain(error: Exception) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(ChainError, match="cannot read the head: ") as told:
        asyncio.run(subtensor_of(FakeSubtensor(head=1)).ask(fail(), "cannot read the head", 1.0))
    assert SECRET not in str(told.value)
    assert "no answer within" not in str(told.value)  # it is not we who gave up
    assert told.value.__context__ is None


def test_the_name_of_a_refusal_is_kept() -> None:
    async def fail() -> None:
        raise bt.ChainError("too much", "SpaceLimitExceeded")

    with pytest.raises(AnswerError) as told:
        asyncio.run(subtensor_of(FakeSubtensor(head=1)).ask(fail(), "what", 1.0))
    assert told.value.name == "SpaceLimitExceeded"


def test_errors_of_ours_are_not_taken_for_those_of_the_chain() -> None:
    async def fail() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match=r"\Awrong\Z"):
        asyncio.run(subtensor_of(FakeSubtensor(head=1)).ask(fail(), "what", 1.0))


def test_words_of_a_server_fit_on_a_line() -> None:
    told = words(ValueError("first\nsecond\x1b[2J\u202e " + "x" * 10_000))

    assert told.startswith("first second [2J x")
    assert told.isprintable()
    assert len(told) == MAX_WORDS
