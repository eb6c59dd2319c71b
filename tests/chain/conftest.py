"""Fixtures of the tests of chains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from templar_pl.chain.wallet import (
    hotkey_path,
)
from templar_pl.node_config import WalletConfig
from tests.chain.subnets import Subnet
from tests.chain.wallets import PASSWORD, ansible, make_wallet


@pytest.fixture
def locked(tmp_path: Path) -> tuple[WalletConfig, str]:
    """A wallet whose hotkey is encrypted in a way that costs no time."""
    wallet, address = make_wallet(tmp_path)
    path = hotkey_path(wallet)
    path.write_bytes(ansible(path.read_bytes(), PASSWORD))
    return wallet, address


@pytest.fixture
def subnet(tmp_path: Path) -> Iterator[Subnet]:
    """A subnet of which a hundred blocks were made, with nobody on it."""
    subnet = Subnet(tmp_path, head=100)
    yield subnet
    subnet.fake.link.mend()
    subnet.close()
