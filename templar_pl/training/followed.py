"""Whom a node follows, by the hotkeys that its options name."""

from __future__ import annotations

from pathlib import Path

from templar_pl.chain import hotkey_of, load_hotkey
from templar_pl.errors import ConfigError
from templar_pl.node_config import FollowConfig
from templar_pl.units import Hotkey


def followed(follow: FollowConfig, keys: Path | None) -> tuple[Hotkey | None, Hotkey | None]:
    """Return the hotkeys of the aggregator and of the validator, each None if nobody is named.

    Args:
        follow: names them.
        keys: folder of the hotkeys that this machine keeps, which may be named by their files; None if it keeps none.

    Raises:
        ConfigError: a name is neither an address nor that of a key; says how to mend it.
    """
    aggregator, validator = follow.aggregator, follow.validator
    return _hotkey("aggregator", aggregator, keys), _hotkey("validator", validator, keys)


def _hotkey(role: str, name: str | None, keys: Path | None) -> Hotkey | None:
    if name is None:
        return None
    if (hotkey := hotkey_of(name)) is not None:
        return hotkey
    if keys is None:
        raise ConfigError(f"follow.{role} must be the address of a hotkey of the subnet, got {name!r}")
    if (signer := load_hotkey(keys, name)) is None:
        raise ConfigError(
            f"follow.{role} is {name!r}, which is neither the address of a hotkey nor the name of a key in {keys}: "
            "start that node first, which makes its key, or name another"
        )
    return signer.hotkey
