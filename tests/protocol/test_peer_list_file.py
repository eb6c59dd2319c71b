"""A validator's list of peers, signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.config import MAX_PEERS
from templar_pl.errors import DocumentError, Fault
from templar_pl.protocol import MAX_PEER_LIST_BYTES, JsonMap, PeerListFile, decode_peer_list, encode_peer_list
from templar_pl.units import Uid, Window
from tests.protocol.documents import GOLDEN, slow_document, statements
from tests.protocol.judgements import peer_list, peer_list_statement, peer_lists
from tests.protocol.samples import HashSigner, verify_hash

SIGNER = HashSigner()


@given(peer_lists)
def test_a_list_has_the_bytes_of_the_slow_reference_and_can_be_read_again(wanted: PeerListFile) -> None:
    data = encode_peer_list(wanted, SIGNER)

    assert data == slow_document("peers", peer_list_statement(wanted), SIGNER)
    assert decode_peer_list(data, verify_hash) == (SIGNER.public_key, wanted)


def test_the_golden_list_is_read_and_written_as_ever() -> None:
    golden = (GOLDEN / "peer_list_v1.json").read_bytes()

    assert encode_peer_list(peer_list(), SIGNER) == golden
    assert decode_peer_list(golden, verify_hash)[1] == peer_list()


def test_the_longest_list_is_within_the_limit() -> None:
    uids = tuple(Uid(uid) for uid in range(2**32 - MAX_PEERS, 2**32))
    longest = peer_list(run="r" * 64, window=Window(10**9 - 1), effective_from=Window(10**9 - 1), uids=uids)

    assert len(encode_peer_list(longest, SIGNER)) < MAX_PEER_LIST_BYTES * 3 // 4


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        decode_peer_list(data, verify_hash)


@given(statements)
def test_any_other_statement_is_refused(statement: JsonMap) -> None:
    with pytest.raises(DocumentError) as caught:
        decode_peer_list(slow_document("peers", statement, SIGNER), verify_hash)

    assert caught.value.fault is Fault.CONTENT


WRONG_FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "a name of a run no key can have": ({"run": "../x"}, "a run name has"),
    "a window without a key": ({"window": -1}, r"window must be in 0\.\.999999999"),
    "a beginning without a key": ({"effective_from": 10**9}, r"effective_from must be in 0\.\.999999999"),
    "uids as a map": ({"uids": {}}, "uids must be a list, got a dict"),
    "a uid as a text": ({"uids": ["1"]}, "a uid must be a whole number, got a str"),
    "uids in another order": ({"uids": [2, 1]}, "uids must ascend"),
    "a uid twice": ({"uids": [1, 1]}, "uids must ascend, each once"),
    "a negative uid": ({"uids": [-1, 1]}, r"uids must be in 0\.\."),
    "a uid too large": ({"uids": [2**32]}, r"uids must be in 0\.\.4294967295"),
    "too many": ({"uids": list(range(513))}, "at most 512"),
    "a field more": ({"more": 1}, "missing or not known: more"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_under_a_good_signature_is_refused_with_its_reason(name: str) -> None:
    changes, reason = WRONG_FIELDS[name]

    with pytest.raises(DocumentError, match=reason) as caught:
        decode_peer_list(slow_document("peers", peer_list_statement(peer_list()) | changes, SIGNER), verify_hash)

    assert caught.value.fault is Fault.CONTENT
