"""A fake subnet with wallets, for `doctor`: who is registered, what is committed, and the network as a node has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from bittensor import Wallet

from templar_pl.chain import BittensorConfig, LocalChainConfig
from templar_pl.cli_doctor import DoctorCLI
from templar_pl.cli_network import NetworkOptions, node_network
from templar_pl.exchange import R2Options
from templar_pl.hparams import HParams, load_hparams
from templar_pl.node_config import FollowConfig, StoreConfig, WalletConfig
from templar_pl.roles.doctor_rows import Row
from templar_pl.roles.doctor_subnet import check_subnet
from templar_pl.training import Network
from templar_pl.training.outlook import SubnetOutlook
from tests.roles.doctor_runs import ROOT
from tests.servers.subtensor import FakeSubtensor
from tests.servers.subtensor_register import Register
from tests.servers.subtensor_substrate import FakeSubstrate

NETUID = 3
DIGEST = bytes(range(32))
HPARAMS = load_hparams(ROOT / "hparams.json")
REGISTER_BLOCKS = 50  # spelled out: a change must be seen here


class SubnetWorld:
    """A chain that stands still at a block made now, and a folder with wallets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = FakeSubtensor((NETUID,), head=99)
        self.age(0.0)
        self.register = Register(self.fake, NETUID)

    def age(self, seconds: float) -> None:
        """Make a block that is as old as that, by this machine's clock."""
        self.fake.mine_at(round((time.time() - seconds) * 1000))

    def new_wallet(self, name: str, password: str | None = None) -> str:
        """Make a wallet with a hotkey, and return its address."""
        wallet = Wallet(name, name, path=str(self.folder / "wallets"))
        wallet.create_new_hotkey(use_password=password is not None, hotkey_password=password, suppress=True)
        return wallet.hotkeypub.ss58_address

    def registered(self, name: str, **how: Any) -> int:
        """Make a wallet whose hotkey is registered, and return its uid."""
        return self.register.register_hotkey(self.new_wallet(name), **how)

    def commitments(self) -> dict[str, Any]:
        return dict(self.fake.head.state.subnets[NETUID].commitments)

    def network(self, name: str, *, kind: Literal["local", "r2"] = "local", **bittensor: Any) -> Network:
        """Return the network as a node has it; `bittensor` are settings of that group, and `netuid`."""
        options = NetworkOptions(
            netuid=bittensor.pop("netuid", NETUID),
            store=StoreConfig(kind=kind, root=str(self.folder / "runs"), run="templar"),
            wallet=WalletConfig(name=name, hotkey=name, path=str(self.folder / "wallets")),
            chain=LocalChainConfig(),
            bittensor=BittensorConfig(**{"network": "finney", "open_timeout_s": 5.0, **bittensor}),
            r2=R2Options(retry_for_s=0.2),
            follow=FollowConfig(),
        )
        return node_network(options, HPARAMS, open_substrate=self.open_substrate())

    def seen(self, name: str, **network: Any) -> dict[str, Row]:
        """Return the rows of `doctor` for a node, by name."""
        outlook = self.network(name, **network).look(DIGEST, HPARAMS.window)
        assert isinstance(outlook, SubnetOutlook)
        return {row.check: row for row in check_subnet(outlook, HPARAMS.window)}

    def open_substrate(self) -> Callable[[], Any]:
        return lambda: FakeSubstrate(self.fake)

    def command_line(self) -> type[DoctorCLI]:
        """Return the command line of `doctor`, whose connections lead here; all else is as ever."""
        open_substrate = self.open_substrate()

        class FakeChainDoctor(DoctorCLI):
            def node_network(self, options: NetworkOptions, hparams: HParams) -> Network:
                return node_network(options, hparams, open_substrate=open_substrate)

        return FakeChainDoctor
