"""Scoring state <-> JSON, so that a validator that was killed goes on where it was.

Whole numbers and texts only: a fraction is the text of `float.hex`, so what is read is equal to the bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from templar_pl.scoring.miner import MinerState
from templar_pl.scoring.peer_list import PeerList
from templar_pl.scoring.ratings import Rating
from templar_pl.scoring.records import JsonMap, JsonValue
from templar_pl.scoring.state import BEFORE_THE_FIRST, ScoringState
from templar_pl.units import Hotkey, Uid, Window

FORMAT = 2
MAX_NUMBER = 2**53 - 1  # readers in other languages round larger ones

Value = TypeVar("Value")


class StateError(ValueError):
    """A text is not a scoring state of this version: go on from an older one, or start anew."""


def write_state(state: ScoringState) -> str:
    """Return the state as JSON, the same text for the same state."""
    miners: JsonMap = {str(uid): _miner_to_json(state.miners[uid]) for uid in sorted(state.miners)}
    peers: list[JsonValue] = [*state.peer_list.uids]
    fields: JsonMap = {
        "format": FORMAT,
        "miners": miners,
        "peer_list": {"effective_from": state.peer_list.effective_from, "uids": peers},
        "window": state.window,
    }
    return json.dumps(fields, sort_keys=True, indent=1) + "\n"


def read_state(text: str) -> ScoringState:
    """Read what `write_state` wrote.

    Raises:
        StateError: it is damaged or of another version; the message says where and what was expected.
    """
    try:
        # Python's own reader takes NaN and numbers of any length; neither is part of the format.
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StateError(f"the scoring state is not JSON: {error}") from error
    fields = _map("the state", fields, None)
    if type(fields.get("format")) is not int or fields["format"] != FORMAT:  # True is equal to 1
        raise StateError(f"format of the scoring state must be {FORMAT}, got {str(fields.get('format'))[:40]!r}")
    _map("the state", fields, {"format", "miners", "peer_list", "window"})
    miners = _map("miners", fields["miners"], None)
    uids = sorted(_uid(name) for name in miners)
    return ScoringState(
        window=Window(_whole("window", fields["window"], BEFORE_THE_FIRST)),
        miners=MappingProxyType({uid: _miner(f"miner {uid}", miners[str(uid)]) for uid in uids}),
        peer_list=_peer_list(fields["peer_list"]),
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _miner_to_json(miner: MinerState) -> JsonMap:
    return {
        "observations": miner.observations,
        "off_list_since": miner.off_list_since,
        "hotkey": miner.hotkey,
        "indicator": miner.indicator.hex(),
        "mu": miner.rating.mu.hex(),
        "penalties": miner.penalties,
        "sigma": miner.rating.sigma.hex(),
        "silent": miner.silent,
        "sync": miner.sync.hex(),
        "waiting_since": miner.waiting_since,
    }


_MINER_FIELDS = {
    "hotkey", "indicator", "mu", "observations", "off_list_since", "penalties", "sigma", "silent", "sync",
    "waiting_since",
}  # fmt: skip


def _miner(where: str, value: object) -> MinerState:
    fields = _map(where, value, _MINER_FIELDS)

    def get(reader: Callable[..., Value], name: str, *limits: float) -> Value:
        return reader(f"{name} of {where}", fields[name], *limits)

    sigma = get(_fraction, "sigma", 0.0, math.inf)
    if sigma == 0:
        raise StateError(f"sigma of {where} must be above 0, got 0")
    return MinerState(
        hotkey=Hotkey(get(_text, "hotkey")),
        waiting_since=Window(get(_whole, "waiting_since", 0)),
        off_list_since=Window(get(_whole, "off_list_since", 0)),
        silent=get(_whole, "silent", 0),
        rating=Rating(get(_fraction, "mu", -math.inf, math.inf), sigma),
        indicator=get(_fraction, "indicator", -1.0, 1.0),
        sync=get(_fraction, "sync", 0.0, 1.0),
        penalties=get(_whole, "penalties", 0),
        observations=get(_whole, "observations", 0),
    )


def _peer_list(value: object) -> PeerList:
    fields = _map("peer_list", value, {"effective_from", "uids"})
    uids = fields["uids"]
    if not isinstance(uids, list):
        raise StateError(f"uids of peer_list must be a list, got a {type(uids).__name__}")
    read = tuple(Uid(_whole("a uid of peer_list", uid, 0)) for uid in uids)
    if list(read) != sorted(set(read)):
        raise StateError("uids of peer_list must ascend, each once")
    return PeerList(Window(_whole("effective_from of peer_list", fields["effective_from"], 0)), read)


def _map(where: str, value: object, names: set[str] | None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise StateError(f"{where} must be a map, got a {type(value).__name__}")
    if names is not None and value.keys() != names:
        raise StateError(
            f"{where} must have the fields {', '.join(sorted(names))}, got {', '.join(sorted(value))[:200]}"
        )
    return value


def _uid(name: str) -> Uid:
    if not name.isascii() or not name.isdigit() or str(int(name[:20])) != name or int(name) > MAX_NUMBER:
        raise StateError(f"a key of miners must be a uid, got {name[:40]!r}")
    return Uid(int(name))


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise StateError(f"{where} must be text, got a {type(value).__name__}")
    return value


def _whole(where: str, value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_NUMBER:
        raise StateError(f"{where} must be a whole number in {low}..{MAX_NUMBER}, got {str(value)[:40]}")
    return value


def _fraction(where: str, value: object, low: float, high: float) -> float:
    text = _text(where, value)
    try:
        number = float.fromhex(text)
    except (ValueError, OverflowError):
        number = None
    if number is None or number.hex() != text:
        raise StateError(f"{where} must be the text of float.hex, got {text[:40]!r}")
    if not math.isfinite(number) or not low <= number <= high:
        raise StateError(f"{where} must be finite and in {low}..{high}, got {number}")
    return number
