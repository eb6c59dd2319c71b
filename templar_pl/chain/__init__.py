"""The clock, the register of peers and the record of what they agreed on."""

from templar_pl.chain.chain import BlockTimes, Chain, LeasedAgreement, Purse, Register, WindowClock
from templar_pl.chain.hotkeys import HotkeySigner, load_hotkey, load_or_create_hotkey, verify
from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.chain.look import look_at_local_chain

__all__ = [
    "BlockTimes",
    "Chain",
    "HotkeySigner",
    "LeasedAgreement",
    "LocalChain",
    "LocalChainConfig",
    "Purse",
    "Register",
    "WindowClock",
    "load_hotkey",
    "load_or_create_hotkey",
    "look_at_local_chain",
    "verify",
]
