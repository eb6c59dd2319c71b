"""That the aggregate of a window is published."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import DocumentError, Fault
from templar_pl.protocol import MAX_NOTICE_BYTES, AggregateNotice, JsonMap, decode_notice, encode_notice
from templar_pl.protocol.document import MAX_INTEGER
from templar_pl.units import Window
from tests.protocol.aggregates import notice, notice_statement, notices
from tests.protocol.documents import GOLDEN, slow_document, statements
from tests.protocol.samples import HashSigner, verify_hash

SIGNER = HashSigner()


def fault_of(data: bytes) -> Fault:
    with pytest.raises(DocumentError) as caught:
        decode_notice(data, verify_hash)
    return caught.value.fault


@given(notices)
def test_a_notice_has_the_bytes_of_the_slow_reference_and_comes_back(wanted: AggregateNotice) -> None:
    data = encode_notice(wanted, SIGNER)

    assert data == slow_document("aggregate", notice_statement(wanted), SIGNER)
    assert decode_notice(data, verify_hash) == (SIGNER.public_key, wanted)


def test_the_longest_notice_is_within_the_limit() -> None:
    assert len(encode_notice(notice(size=MAX_INTEGER, window=Window(10**9 - 1)), SIGNER)) < MAX_NOTICE_BYTES * 3 // 4


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert fault_of(data) is Fault.FORMAT


@given(statements)
def test_any_other_statement_is_refused(statement: JsonMap) -> None:
    data = slow_document("aggregate", statement, SIGNER)

    assert fault_of(data) is (Fault.CONTENT if len(data) <= MAX_NOTICE_BYTES else Fault.SIZE)


def test_too_many_bytes_are_refused() -> None:
    assert fault_of(bytes(MAX_NOTICE_BYTES + 1)) is Fault.SIZE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": 0}, r"size must be in 1\.\."),
        ({"window": -1}, r"window must be in 0\.\."),
        ({"sha256": "00"}, "sha256 must be 64 of 0-9 and a-f"),
        ({"manifest": 1}, "manifest must be a text"),
        ({"run": "GG" * 32}, "run must be 64 of 0-9 and a-f"),
        ({"more": 1}, "missing or not known: more"),
    ],
)
def test_a_wrong_field_under_a_good_signature_is_refused(changes: dict[str, object], reason: str) -> None:
    data = slow_document("aggregate", notice_statement(notice()) | changes, SIGNER)

    with pytest.raises(DocumentError, match=reason) as caught:
        decode_notice(data, verify_hash)

    assert caught.value.fault is Fault.CONTENT


@pytest.mark.parametrize("changes", [{"run": b"x"}, {"manifest": b""}, {"sha256": b"x" * 33}])
def test_a_notice_that_does_not_fit_its_fields_is_not_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must have 32 bytes"):
        notice(**changes)


def test_a_notice_of_format_1_reads_for_ever() -> None:
    golden = (GOLDEN / "notice_v1.json").read_bytes()

    assert decode_notice(golden, verify_hash) == (SIGNER.public_key, notice())
    assert encode_notice(notice(), SIGNER) == golden
