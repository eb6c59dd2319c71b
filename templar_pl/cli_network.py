"""The network that a command line asks for. Reads secrets from the environment, at the moment they are used."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from templar_pl.chain import (
    BittensorConfig,
    LocalChainConfig,
    cost_command,
    hotkey_path,
    is_locked,
    load_wallet_hotkey,
    register_command,
)
from templar_pl.command_line import hotkey_password, password_source
from templar_pl.exchange import R2Buckets, R2Credentials, R2Options, credentials_from, run_store_from
from templar_pl.hparams import HParams
from templar_pl.node_config import FollowConfig, StoreConfig, WalletConfig
from templar_pl.training import LocalNetwork, Network, NodeFolder


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What the command line says about the network; each field but `netuid` is a group of options."""

    netuid: int
    store: StoreConfig
    wallet: WalletConfig
    chain: LocalChainConfig
    bittensor: BittensorConfig
    r2: R2Options
    follow: FollowConfig


def own_keys() -> R2Credentials:
    """Read the keys of the own bucket from the environment. Raises `ConfigError` if one is missing or malformed."""
    return credentials_from(os.environ)


def node_network(
    options: NetworkOptions, hparams: HParams, *, open_substrate: Callable[[], Any] | None = None
) -> Network:
    """Return the network of a run: its folder and name follow from its numbers.

    Args:
        options: of the command line.
        hparams: numbers of the run.
        open_substrate: makes connections to a chain of Bittensor; to the network that the options name if None.

    Raises:
        ConfigError: the options do not fit each other.
    """
    root = str(Path(options.store.root) / f"net{options.netuid}")
    run = f"{options.store.run}-{hparams.digest().hex()[:8]}"
    # The keys are read at the moment of use, so that no setting and no checkpoint ever holds them.
    r2 = R2Buckets(own_keys, options.r2, lambda: run_store_from(os.environ)) if options.store.kind == "r2" else None
    wallet, bittensor = options.wallet, options.bittensor
    if bittensor.network is None:
        return LocalNetwork(root=root, run=run, hotkey=wallet.hotkey, chain=options.chain, r2=r2, follow=options.follow)
    from templar_pl.training.bittensor_network import BittensorNetwork, OwnHotkey, OwnNode  # noqa: PLC0415 - slow

    prompt = getpass.getpass if sys.stdin.isatty() else None
    return BittensorNetwork(
        options.netuid,
        bittensor,
        OwnHotkey(
            lambda: load_wallet_hotkey(wallet, hotkey_password(os.environ, prompt)),
            file=hotkey_path(wallet),
            password_source=lambda: password_source(os.environ, hotkey_path(wallet)) if is_locked(wallet) else "",
            register_command=register_command(options.netuid, wallet, bittensor.network),
            cost_command=cost_command(options.netuid, bittensor.network),
        ),
        # Hotkeys of two wallets may have one name; no name has a plus.
        node=OwnNode(NodeFolder(Path(root) / run, f"{wallet.name}+{wallet.hotkey}"), r2, options.follow),
        open_substrate=open_substrate,
    )
