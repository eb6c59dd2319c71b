"""Whom a validator would have all nodes gather from: a signed list that the aggregator reads."""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.config import MAX_PEERS
from templar_pl.protocol.document import JsonMap, open_document, sign_document
from templar_pl.protocol.fields import check_between, check_names, text_of, whole_of
from templar_pl.protocol.keys import MAX_UID, MAX_WINDOW, peers_key
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Uid, Window

MAX_PEER_LIST_BYTES = 2**14
"""Each of 512 uids takes 11 bytes at most."""

_KIND = "peers"


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


def encode_peer_list(peer_list: PeerListFile, signer: Signer) -> bytes:
    """Write and sign a list of peers, in at most MAX_PEER_LIST_BYTES bytes."""
    statement: JsonMap = {
        "run": peer_list.run,
        "window": peer_list.window,
        "effective_from": peer_list.effective_from,
        "uids": list(peer_list.uids),
    }
    return sign_document(_KIND, statement, signer)


def decode_peer_list(data: bytes, verify: Verify) -> tuple[bytes, PeerListFile]:
    """Read and check a list of peers.

    Args:
        data: bytes of any content and length.
        verify: checks a signature.

    Returns:
        The public key of whoever signed it, which may be anybody, and what it says.

    Raises:
        DocumentError: the bytes are no list of peers, or the signature is not good. The fault is SIZE, FORMAT,
            SIGNATURE or CONTENT.
    """
    document = open_document(_KIND, data, verify, max_bytes=MAX_PEER_LIST_BYTES)
    return document.read(_read_peer_list, "list of peers")


def _read_peer_list(statement: JsonMap) -> PeerListFile:
    """Return what a statement says. Raises `ValueError` if it is no list of peers."""
    check_names(statement, {"run", "window", "effective_from", "uids"})
    uids = statement["uids"]
    if not isinstance(uids, list):
        raise ValueError(f"uids must be a list, got a {type(uids).__name__}")
    read: list[Uid] = []
    for uid in uids:
        if not isinstance(uid, int):
            raise ValueError(f"a uid must be a whole number, got a {type(uid).__name__}")
        read.append(Uid(uid))
    return PeerListFile(
        run=text_of(statement, "run"),
        window=Window(whole_of(statement, "window")),
        effective_from=Window(whole_of(statement, "effective_from")),
        uids=tuple(read),
    )
