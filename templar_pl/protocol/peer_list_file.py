"""Whom a validator would have all nodes gather from: a signed list that the aggregator reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from templar_pl.config import MAX_PEERS
from templar_pl.protocol.fields import check_between
from templar_pl.protocol.form import TEXT, WHOLE, Form, Record, list_of, nested
from templar_pl.protocol.keys import MAX_UID, MAX_WINDOW, peers_key
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Uid, Window

MAX_PEER_LIST_BYTES = 2**16
"""Each of 512 + MAX_EARLIER_UIDS uids takes 11 bytes at most, each earlier list 40 besides."""

MAX_EARLIER_LISTS = 64
"""Lists before the one that is published: two in 5 windows, for twice the 100 windows that payloads are kept."""

MAX_EARLIER_UIDS = 4096
"""Of all of them together."""


@dataclass(frozen=True, slots=True)
class HeldList:
    """Whose payloads counted from some window on. Raises `ValueError` for a value out of range."""

    effective_from: Window
    """First window it holds for; it holds until the next list does; 0..MAX_WINDOW."""

    uids: tuple[Uid, ...]
    """At most MAX_PEERS of 0..MAX_UID, in ascending order, each once; none for everybody."""

    def __post_init__(self) -> None:
        check_between(self, effective_from=(0, MAX_WINDOW))
        _check_uids(self.uids)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerListFile:
    """A list of peers as it is published. Raises `ValueError` for a value out of range."""

    run: str
    """Name of the run, the first part of all its keys."""

    window: Window
    """Last window whose scores it rests on; 0..MAX_WINDOW."""

    effective_from: Window
    """First window it holds for; it holds until the next list does; 0..MAX_WINDOW."""

    uids: tuple[Uid, ...]
    """At most MAX_PEERS of 0..MAX_UID, in ascending order, each once."""

    earlier: tuple[HeldList, ...] | None = None
    """The lists before it, oldest first, as far back as they are kept: 1..MAX_EARLIER_LISTS, of at most
    MAX_EARLIER_UIDS uids together; None if there was none, so that everybody counted."""

    def __post_init__(self) -> None:
        peers_key(self.run)  # refuses a name that no key could have
        check_between(self, window=(0, MAX_WINDOW), effective_from=(0, MAX_WINDOW))
        _check_uids(self.uids)
        if self.earlier is not None:
            _check_earlier(self.earlier, self.effective_from)

    @property
    def lists(self) -> tuple[HeldList, ...]:
        """All lists that are known, oldest first and this one last; one of nobody from window 0 on if it is the first.

        What held before the oldest of them is not known.
        """
        first = (HeldList(Window(0), ()),) if self.effective_from > 0 else ()
        return *(first if self.earlier is None else self.earlier), HeldList(self.effective_from, self.uids)

    def after(self, standing: PeerListFile | None, since: Window) -> PeerListFile:
        """Return this list with those before it.

        Args:
            standing: as it was published last; None if nothing was.
            since: lists that did not hold in this window or a later one are left out, and the oldest ones of too many.
        """
        if standing is None:
            return self
        held = [each for each in standing.lists if each.effective_from < self.effective_from]
        while len(held) > 1 and (
            held[1].effective_from <= since
            or len(held) > MAX_EARLIER_LISTS
            or sum(len(each.uids) for each in held) > MAX_EARLIER_UIDS
        ):
            del held[0]
        return replace(self, earlier=tuple(held) or None)


def _check_uids(uids: tuple[Uid, ...]) -> None:
    """Raise `ValueError` for uids that are no list."""
    if len(uids) > MAX_PEERS or list(uids) != sorted(set(uids)):
        raise ValueError(f"uids must ascend, each once, at most {MAX_PEERS}, got {str(uids)[:200]}")
    if uids and not (uids[0] >= 0 and uids[-1] <= MAX_UID):
        raise ValueError(f"uids must be in 0..{MAX_UID}, got {uids[0]}..{uids[-1]}")


def _check_earlier(earlier: tuple[HeldList, ...], effective_from: Window) -> None:
    """Raise `ValueError` for lists that are not those before one."""
    if not 1 <= len(earlier) <= MAX_EARLIER_LISTS:
        raise ValueError(f"there must be 1..{MAX_EARLIER_LISTS} earlier lists, got {len(earlier)}")
    if (number := sum(len(each.uids) for each in earlier)) > MAX_EARLIER_UIDS:
        raise ValueError(f"earlier lists must have at most {MAX_EARLIER_UIDS} uids together, got {number}")
    starts = [*(each.effective_from for each in earlier), effective_from]
    if starts != sorted(set(starts)):
        raise ValueError(f"lists must come in the order in which they hold, got {str(starts)[:200]}")


_UIDS = list_of(WHOLE, "a uid")
_EARLIER = list_of(nested(Record(HeldList, {"effective_from": WHOLE, "uids": _UIDS})), "an earlier list")

_FORM = Form(
    kind="peers",
    what="list of peers",
    max_bytes=MAX_PEER_LIST_BYTES,
    record=Record(
        PeerListFile,
        {"run": TEXT, "window": WHOLE, "effective_from": WHOLE, "uids": _UIDS},
        optional={"earlier": _EARLIER},
    ),
)


def encode_peer_list(peer_list: PeerListFile, signer: Signer) -> bytes:
    """Write and sign a list of peers, in at most MAX_PEER_LIST_BYTES bytes."""
    return _FORM.encode(peer_list, signer)


def decode_peer_list(data: bytes, verify: Verify) -> tuple[bytes, PeerListFile]:
    """Read and check a list of peers; arguments, result and errors as of `Form.decode`."""
    return _FORM.decode(data, verify)
