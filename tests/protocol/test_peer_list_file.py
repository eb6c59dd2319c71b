"""A validator's list of peers, signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.config import MAX_PEERS
from templar_pl.errors import DocumentError, Fault
from templar_pl.protocol import (
    MAX_PEER_LIST_BYTES,
    HeldList,
    JsonMap,
    PeerListFile,
    decode_peer_list,
    encode_peer_list,
)
from templar_pl.protocol.peer_list_file import MAX_EARLIER_LISTS, MAX_EARLIER_UIDS
from templar_pl.units import Uid, Window
from tests.protocol.documents import GOLDEN, slow_document, statements
from tests.protocol.judgements import ascending_uids, peer_list, peer_list_statement, peer_lists
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


def test_the_longest_list_with_the_longest_before_it_is_within_the_limit() -> None:
    uids = tuple(Uid(uid) for uid in range(2**32 - MAX_PEERS, 2**32))
    starts = [Window(10**9 - 1 - MAX_EARLIER_LISTS + number) for number in range(MAX_EARLIER_LISTS)]
    earlier = tuple(HeldList(start, uids[: MAX_EARLIER_UIDS // MAX_EARLIER_LISTS]) for start in starts)
    longest = peer_list(
        run="r" * 64, window=Window(10**9 - 1), effective_from=Window(10**9 - 1), uids=uids, earlier=earlier
    )

    assert len(encode_peer_list(longest, SIGNER)) < MAX_PEER_LIST_BYTES


@given(st.lists(st.tuples(ascending_uids, st.integers(1, 4)), min_size=1, max_size=90), st.integers(0, 40))
def test_a_chain_of_lists_tells_whose_payloads_counted_in_all_windows_that_are_asked_for(
    changes: list[tuple[tuple[Uid, ...], int]], keep: int
) -> None:
    standing, held, start = None, dict.fromkeys(range(400), ()), 0
    for uids, pause in changes:
        start += pause
        listed = peer_list(window=Window(max(0, start - 4)), effective_from=Window(start), uids=uids)
        standing = listed.after(standing, Window(start - keep))
        held |= dict.fromkeys(range(start, 400), uids)
        assert decode_peer_list(encode_peer_list(standing, SIGNER), verify_hash)[1] == standing

        for window in range(max(0, start - keep), start + 2):
            begun = [each for each in standing.lists if each.effective_from <= window]
            assert begun[-1].uids == held[window]


def test_of_too_many_lists_the_oldest_are_left_out() -> None:
    uids = tuple(map(Uid, range(MAX_PEERS)))
    for each, most in ((uids[:1], MAX_EARLIER_LISTS), (uids, MAX_EARLIER_UIDS // MAX_PEERS)):
        standing = None
        for start in range(1, 90):
            listed = peer_list(effective_from=Window(start), uids=each)
            standing = listed.after(standing, Window(0))

        assert standing is not None
        assert standing.earlier is not None
        assert [held.effective_from for held in standing.earlier] == list(range(89 - most, 89))


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
    "earlier lists as a text": ({"earlier": "1"}, "earlier must be a list, got a str"),
    "no earlier list": ({"earlier": []}, r"there must be 1\.\.64 earlier lists, got 0"),
    "an earlier list that is none": ({"earlier": [1]}, "an earlier list must be a map, got a int"),
    "an earlier list of nothing": ({"earlier": [{}]}, "missing or not known: effective_from, uids"),
    "an earlier list in another order": ({"earlier": [{"effective_from": 1, "uids": [2, 1]}]}, "uids must ascend"),
    "an earlier list that is later": (
        {"earlier": [{"effective_from": 42, "uids": [1]}]},
        r"lists must come in the order in which they hold, got \[42, 42\]",
    ),
    "too many earlier lists": (
        {"effective_from": 65, "earlier": [{"effective_from": start, "uids": []} for start in range(65)]},
        r"there must be 1\.\.64 earlier lists, got 65",
    ),
    "too many earlier uids": (
        {"earlier": [{"effective_from": start, "uids": list(range(512))} for start in range(9)]},
        "earlier lists must have at most 4096 uids together, got 4608",
    ),
    "a field more": ({"more": 1}, "missing or not known: more"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_under_a_good_signature_is_refused_with_its_reason(name: str) -> None:
    changes, reason = WRONG_FIELDS[name]

    with pytest.raises(DocumentError, match=reason) as caught:
        decode_peer_list(slow_document("peers", peer_list_statement(peer_list()) | changes, SIGNER), verify_hash)

    assert caught.value.fault is Fault.CONTENT
