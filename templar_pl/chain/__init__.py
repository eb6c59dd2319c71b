"""The clock, the register of peers and the record of what they agreed on."""

from templar_pl.chain.bittensor_config import BittensorConfig, without_secrets
from templar_pl.chain.chain import BlockTimes, Chain, LeasedAgreement, Purse, Register, WindowClock, find_peer
from templar_pl.chain.hotkeys import HotkeySigner, hotkey_of, load_hotkey, load_or_create_hotkey, new_hotkey, verify
from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.chain.look import LocalRecords, look_at_local_chain, read_local_chain
from templar_pl.chain.wallet import (
    PASSWORD_VARIABLE,
    AskPassword,
    cost_command,
    hotkey_path,
    is_locked,
    load_wallet_hotkey,
    register_command,
    sdk_password,
    sdk_password_variable,
)

__all__ = [
    "PASSWORD_VARIABLE",
    "AskPassword",
    "BittensorConfig",
    "BlockTimes",
    "Chain",
    "HotkeySigner",
    "LeasedAgreement",
    "LocalChain",
    "LocalChainConfig",
    "LocalRecords",
    "Purse",
    "Register",
    "WindowClock",
    "cost_command",
    "find_peer",
    "hotkey_of",
    "hotkey_path",
    "is_locked",
    "load_hotkey",
    "load_or_create_hotkey",
    "load_wallet_hotkey",
    "look_at_local_chain",
    "new_hotkey",
    "read_local_chain",
    "register_command",
    "sdk_password",
    "sdk_password_variable",
    "verify",
    "without_secrets",
]
