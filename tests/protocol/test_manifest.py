"""What a window was, signed by the aggregator."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.config import MAX_PEERS
from templar_pl.errors import DocumentError, Fault, PayloadError, StoreError
from templar_pl.protocol import (
    MAX_MANIFEST_BYTES,
    Exclusion,
    JsonMap,
    Manifest,
    Settlement,
    decode_manifest,
    encode_manifest,
)
from templar_pl.units import Uid, Window
from tests.protocol.aggregates import manifest, manifest_statement, manifests, slow_manifest
from tests.protocol.documents import GOLDEN, slow_document, statements
from tests.protocol.samples import HashSigner, verify_hash

SIGNER = HashSigner()


def refusal(data: bytes) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        decode_manifest(data, verify_hash)
    assert len(str(caught.value)) < 500
    return caught.value


@given(manifests())
def test_a_manifest_has_the_bytes_of_the_slow_reference(wanted: Manifest) -> None:
    assert encode_manifest(wanted, SIGNER) == slow_manifest(wanted)


@given(manifests())
def test_decoding_undoes_encoding_and_tells_who_signed(wanted: Manifest) -> None:
    public_key, decoded = decode_manifest(encode_manifest(wanted, SIGNER), verify_hash)

    assert (public_key, decoded) == (SIGNER.public_key, wanted)
    assert decoded.learning_rate.hex() == wanted.learning_rate.hex()


@given(manifests())
def test_the_settlement_lists_the_payloads_in_uid_order(wanted: Manifest) -> None:
    settlement = wanted.settlement()

    assert settlement == Settlement(wanted.window, dict(wanted.payloads), wanted.opened_at, wanted.closed_at)
    assert list(settlement.payloads) == sorted(wanted.payloads)


def test_a_decoded_manifest_lists_uids_in_the_order_of_numbers_not_of_texts() -> None:
    wanted = manifest(payloads={Uid(100): b"a" * 32, Uid(20): b"b" * 32, Uid(3): b"c" * 32}, left_out={})

    assert list(decode_manifest(encode_manifest(wanted, SIGNER), verify_hash)[1].payloads) == [3, 20, 100]


@pytest.mark.parametrize("letter", ["x", '"', "\\"])
def test_the_longest_manifest_is_within_the_limit(letter: str) -> None:
    uids = range(2**32 - MAX_PEERS, 2**32)
    longest = manifest(
        payloads={}, left_out={Uid(uid): Exclusion(Fault.SIGNATURE, letter * 120) for uid in uids},
        window=Window(10**9 - 1), opened_at=math.nextafter(2.0**40, 0), closed_at=math.nextafter(2.0**40, 0),
        steps=2**53 - 1, learning_rate=5e-324,
    )  # fmt: skip

    data = encode_manifest(longest, SIGNER)

    assert len(data) < MAX_MANIFEST_BYTES * 3 // 4
    assert decode_manifest(data, verify_hash)[1] == longest


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert refusal(data).fault is Fault.FORMAT


@given(statements)
def test_any_other_statement_is_refused(statement: JsonMap) -> None:
    assert refusal(slow_document("manifest", statement, SIGNER)).fault is Fault.CONTENT


def test_too_many_bytes_are_refused() -> None:
    assert refusal(bytes(MAX_MANIFEST_BYTES + 1)).fault is Fault.SIZE


def test_a_document_of_another_kind_is_refused() -> None:
    assert refusal(slow_document("run", manifest_statement(manifest()), SIGNER)).fault is Fault.FORMAT


SHA = {"sha256": "00" * 32}
WRONG_FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "a run digest too short": ({"run": "00" * 31}, "run must be 64 of 0-9 and a-f"),
    "a window as a text": ({"window": "1"}, "window must be a whole number, got a str"),
    "a window without a key": ({"window": 10**9}, r"window must be in 0\.\.999999999"),
    "a negative window": ({"window": -1}, r"window must be in 0\.\.999999999, got -1"),
    "no steps": ({"steps": 0}, r"steps must be in 1\.\."),
    "a fingerprint in capitals": ({"after": "AA" * 32}, "after must be 64 of 0-9 and a-f"),
    "a fingerprint that is a number": ({"before": 1}, "before must be a text, got a int"),
    "peers as a list": ({"peers": []}, "peers must be a map of at most 512"),
    "too many peers": ({"peers": {str(uid): SHA for uid in range(513)}}, "peers must be a map of at most 512"),
    "a peer that is a text": ({"peers": {"1": "x"}}, "what is said of uid 1 must be a map"),
    "a uid with a leading zero": ({"peers": {"01": SHA}}, "a uid must be a whole number without leading zeros"),
    "a negative uid": ({"peers": {"-1": SHA}}, "a uid must be a whole number"),
    "a uid too large": ({"peers": {str(2**32): SHA}}, r"uid must be in 0\.\.4294967295, got 4294967296"),
    "a peer with hash and fault": ({"peers": {"1": {**SHA, "fault": "late"}}}, "missing or not known: fault"),
    "a peer with neither": ({"peers": {"1": {}}}, "missing or not known: fault, words"),
    "a fault that is not known": ({"peers": {"1": {"fault": "ugly", "words": ""}}}, "'ugly' is not a valid Fault"),
    "words too long": ({"peers": {"1": {"fault": "late", "words": "x" * 121}}}, "words must be at most 120 printable"),
    "words with a line": ({"peers": {"1": {"fault": "late", "words": "a\nb"}}}, "words must be at most 120 printable"),
    "words beyond ASCII": ({"peers": {"1": {"fault": "late", "words": "é"}}}, "words must be at most 120 printable"),
    "a payload hash too short": ({"peers": {"1": {"sha256": "00"}}}, "sha256 must be 64 of 0-9 and a-f"),
    "a time in another spelling": ({"opened_at": "0x1p0"}, "opened_at must be a number as float.hex writes it"),
    "a time in decimal digits": ({"opened_at": "1.0"}, "opened_at must be a number as float.hex writes it"),
    "a time that is no number": ({"opened_at": "nan"}, "opened_at must be a number as float.hex writes it"),
    "a time that never comes": ({"closed_at": "inf"}, "closed_at must be a number as float.hex writes it"),
    "a time beyond all numbers": ({"closed_at": "0x1.0p+99999"}, "closed_at must be a number as float.hex writes it"),
    "a negative time": ({"opened_at": (-1.0).hex()}, r"opened_at must be in 0\.\."),
    "a negative zero": ({"opened_at": (-0.0).hex()}, "opened_at must be no negative zero"),
    "a time too late": ({"closed_at": (2.0**41).hex()}, "closed_at must be in"),
    "an end before the beginning": ({"closed_at": (1.0).hex()}, "closed_at must be in 1700000000.0"),
    "a negative learning rate": ({"learning_rate": (-1.0).hex()}, r"learning_rate must be in 0\.\."),
    "a learning rate of negative zero": ({"learning_rate": (-0.0).hex()}, "learning_rate must be no negative zero"),
    "a learning rate as a number": ({"learning_rate": 1}, "learning_rate must be a text"),
    "a field more": ({"more": 1}, "missing or not known: more"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_under_a_good_signature_is_refused_with_its_reason(name: str) -> None:
    changes, reason = WRONG_FIELDS[name]
    data = slow_document("manifest", manifest_statement(manifest()) | changes, SIGNER)

    with pytest.raises(DocumentError, match=reason) as caught:
        decode_manifest(data, verify_hash)

    assert caught.value.fault is Fault.CONTENT


@pytest.mark.parametrize("name", manifest_statement(manifest()))
def test_a_missing_field_is_named(name: str) -> None:
    statement = manifest_statement(manifest())
    del statement[name]

    with pytest.raises(DocumentError, match=f"missing or not known: {name}$"):
        decode_manifest(slow_document("manifest", statement, SIGNER), verify_hash)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left_out": {Uid(7): Exclusion(Fault.LATE, "")}}, r"takes part or is left out, not both: \[7\]"),
        ({"payloads": {Uid(uid): b"x" * 32 for uid in range(1000, 1512)}}, "at most 512 uids are selected, got 513"),
        ({"payloads": {Uid(1): b"x"}}, "sha256 of the payload of uid 1 must have 32 bytes, got 1"),
        ({"learning_rate": math.inf}, "learning_rate must be in"),
        ({"learning_rate": math.nan}, "learning_rate must be in"),
    ],
)
def test_a_manifest_that_does_not_fit_its_fields_is_not_made(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifest(**changes)


@given(st.text(max_size=300))
def test_any_error_of_a_peer_becomes_an_exclusion(reason: str) -> None:
    why = Exclusion.because(PayloadError(reason, fault=Fault.HASH, peer=Uid(1), window=Window(2)))

    assert why.fault is Fault.HASH
    assert len(why.words) == min(len(reason), 120)


def test_a_bucket_that_did_not_answer_is_a_payload_that_is_missing() -> None:
    assert Exclusion.because(StoreError("no answer\x1b[2J")) == Exclusion(Fault.MISSING, "no answer?[2J")


def test_a_manifest_of_format_1_reads_for_ever() -> None:
    golden = (GOLDEN / "manifest_v1.json").read_bytes()

    assert decode_manifest(golden, verify_hash) == (SIGNER.public_key, manifest())
    assert encode_manifest(manifest(), SIGNER) == golden
