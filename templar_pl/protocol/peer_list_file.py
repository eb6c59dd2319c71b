"""Whom a validator would have all nodes gather from: a signed list that the aggregator reads."""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.config import MAX_PEERS
from templar_pl.protocol.fields import check_between
from templar_pl.protocol.form import TEXT, WHOLE, Form, Record, list_of
from templar_pl.protocol.keys import MAX_UID, MAX_WINDOW, peers_key
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Uid, Window

MAX_PEER_LIST_BYTES = 2**14
"""Each of 512 uids takes 11 bytes at most."""


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

    def __post_init__(self) -> None:
        peers_key(self.run)  # refuses a name that no key could have
        check_between(self, window=(0, MAX_WINDOW), effective_from=(0, MAX_WINDOW))
        if len(self.uids) > MAX_PEERS or list(self.uids) != sorted(set(self.uids)):
            raise ValueError(f"uids must ascend, each once, at most {MAX_PEERS}, got {str(self.uids)[:200]}")
        if self.uids and not (self.uids[0] >= 0 and self.uids[-1] <= MAX_UID):
            raise ValueError(f"uids must be in 0..{MAX_UID}, got {self.uids[0]}..{self.uids[-1]}")


_FORM = Form(
    kind="peers",
    what="list of peers",
    max_bytes=MAX_PEER_LIST_BYTES,
    record=Record(
        PeerListFile, {"run": TEXT, "window": WHOLE, "effective_from": WHOLE, "uids": list_of(WHOLE, "a uid")}
    ),
)


def encode_peer_list(peer_list: PeerListFile, signer: Signer) -> bytes:
    """Write and sign a list of peers, in at most MAX_PEER_LIST_BYTES bytes."""
    return _FORM.encode(peer_list, signer)


def decode_peer_list(data: bytes, verify: Verify) -> tuple[bytes, PeerListFile]:
    """Read and check a list of peers; arguments, result and errors as of `Form.decode`."""
    return _FORM.decode(data, verify)
