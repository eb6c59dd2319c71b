"""What somebody who joins a run must know first."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import DocumentError, Fault
from templar_pl.exchange.store import check_key
from templar_pl.protocol import MAX_RUN_FILE_BYTES, JsonMap, RunFile, StoredFile, decode_run_file, encode_run_file
from templar_pl.protocol.run_file import MAX_OBJECT_BYTES
from templar_pl.units import Window
from tests.protocol.documents import GOLDEN, run_file, run_files, slow_document, slow_run_file, statements
from tests.protocol.samples import HashSigner, verify_hash

SIGNER = HashSigner()


def refusal(data: bytes) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        decode_run_file(data, verify_hash)
    assert len(str(caught.value)) < 500
    return caught.value


@given(run_files)
def test_a_run_file_has_the_bytes_of_the_slow_reference(wanted: RunFile) -> None:
    assert encode_run_file(wanted, SIGNER) == slow_run_file(wanted)


@given(run_files)
def test_decoding_undoes_encoding_and_tells_who_signed(wanted: RunFile) -> None:
    assert decode_run_file(encode_run_file(wanted, SIGNER), verify_hash) == (SIGNER.public_key, wanted)


@given(run_files)
def test_every_bucket_can_hold_the_checkpoint_that_is_named(wanted: RunFile) -> None:
    if wanted.checkpoint is not None:
        check_key(wanted.checkpoint.key)
        assert wanted.checkpoint.key.startswith(f"{wanted.run}/checkpoint/")


def test_the_longest_run_file_is_within_the_limit() -> None:
    run = "r" * 64
    checkpoint = StoredFile(
        key="/".join([run, "checkpoint", *["k" * 100] * 4]), sha256=bytes(32), size=MAX_OBJECT_BYTES
    )
    longest = run_file(
        run=run,
        netuid=2**16 - 1,
        start_window=Window(10**9 - 1),
        blocks_per_window=10**6,
        version="v" * 64,
        checkpoint=checkpoint,
    )

    assert len(encode_run_file(longest, SIGNER)) < MAX_RUN_FILE_BYTES // 2


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert refusal(data).fault is Fault.FORMAT


@given(statements)
def test_any_other_statement_is_refused(statement: JsonMap) -> None:
    assert refusal(slow_document("run", statement, SIGNER)).fault is Fault.CONTENT


def test_too_many_bytes_are_refused() -> None:
    assert refusal(bytes(MAX_RUN_FILE_BYTES + 1)).fault is Fault.SIZE


def test_a_document_of_another_kind_is_refused() -> None:
    statement = json.loads(slow_run_file(run_file()))["statement"]

    assert refusal(slow_document("manifest", statement, SIGNER)).fault is Fault.FORMAT
    assert decode_run_file(slow_document("run", statement, SIGNER), verify_hash)[1] == run_file()


GOOD_CHECKPOINT = {"key": "my-run/checkpoint/a", "sha256": "00" * 32, "size": 1}
WRONG_FIELDS = {
    "a name with a slash": ({"run": "../my-run"}, "a run name has 1..64 characters"),
    "a name that is a number": ({"run": 7}, "run must be a text, got a int"),
    "an empty name": ({"run": ""}, "a run name has 1..64 characters"),
    "a digest too short": ({"digest": "00" * 31}, "digest must be 64 of 0-9 and a-f"),
    "a digest in capitals": ({"digest": "AA" * 32}, "digest must be 64 of 0-9 and a-f"),
    "a netuid as a text": ({"netuid": "3"}, "netuid must be a whole number, got a str"),
    "a netuid too large": ({"netuid": 2**16}, r"netuid must be in 0\.\.65535, got 65536"),
    "a negative netuid": ({"netuid": -1}, r"netuid must be in 0\.\.65535, got -1"),
    "a start window without a key": ({"start_window": 10**9}, r"start_window must be in 0\.\.999999999"),
    "a negative start window": ({"start_window": -1}, "start_window must be in"),
    "windows of no blocks": ({"blocks_per_window": 0}, r"blocks_per_window must be in 1\.\.1000000, got 0"),
    "windows too long": ({"blocks_per_window": 10**6 + 1}, "blocks_per_window must be in"),
    "an empty version": ({"version": ""}, "version must be 1..64"),
    "a version with a line": ({"version": "1\n"}, "version must be 1..64"),
    "a field more": ({"more": 1}, "missing or not known: more"),
    "a checkpoint that is a text": ({"checkpoint": "x"}, "checkpoint must be a map"),
    "a checkpoint with a field more": ({"checkpoint": {**GOOD_CHECKPOINT, "more": 1}}, "missing or not known: more"),
    "a checkpoint with a field less": ({"checkpoint": {"key": "a"}}, "missing or not known: sha256, size"),
    "a checkpoint of another run": (
        {"checkpoint": {**GOOD_CHECKPOINT, "key": "other/checkpoint/a"}},
        "the checkpoint of my-run must be below its name",
    ),
    "a checkpoint of a run whose name begins alike": (
        {"checkpoint": {**GOOD_CHECKPOINT, "key": "my-run2/checkpoint/a"}},
        "the checkpoint of my-run must be below its name",
    ),
    "a checkpoint in the place of payloads": (
        {"checkpoint": {**GOOD_CHECKPOINT, "key": "my-run/payload/000000001/1.bin"}},
        "the key of a checkpoint must be RUN/checkpoint/",
    ),
    "a checkpoint outside": (
        {"checkpoint": {**GOOD_CHECKPOINT, "key": "my-run/checkpoint/../../x"}},
        "the key of a checkpoint must be RUN/checkpoint/",
    ),
    "an empty checkpoint": ({"checkpoint": {**GOOD_CHECKPOINT, "size": 0}}, r"size must be in 1\.\."),
    "a checkpoint hash too short": ({"checkpoint": {**GOOD_CHECKPOINT, "sha256": ""}}, "sha256 must be 64 of 0-9"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_under_a_good_signature_is_refused_with_its_reason(name: str) -> None:
    changes, reason = WRONG_FIELDS[name]
    statement = json.loads(slow_run_file(run_file()))["statement"]
    data = slow_document("run", statement | changes, SIGNER)

    with pytest.raises(DocumentError, match=reason) as caught:
        decode_run_file(data, verify_hash)

    assert caught.value.fault is Fault.CONTENT


@pytest.mark.parametrize("name", ["run", "digest", "netuid", "start_window", "blocks_per_window", "version"])
def test_a_missing_field_is_named(name: str) -> None:
    statement = json.loads(slow_run_file(run_file()))["statement"]
    del statement[name]

    with pytest.raises(DocumentError, match=f"missing or not known: {name}$"):
        decode_run_file(slow_document("run", statement, SIGNER), verify_hash)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": b"short"}, "digest must have 32 bytes, got 5"),
        ({"run": "A"}, "a run name has"),
        ({"netuid": -1}, "netuid must be in"),
        ({"version": "a b"}, r"version must be 1\.\.64"),
    ],
)
def test_a_run_file_that_does_not_fit_its_fields_is_not_made(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_file(**changes)


def test_a_checkpoint_that_does_not_fit_its_fields_is_not_made() -> None:
    with pytest.raises(ValueError, match="sha256 must have 32 bytes, got 3"):
        StoredFile(key="a/checkpoint/b", sha256=b"abc", size=1)


def test_a_run_file_of_format_1_reads_for_ever() -> None:
    golden = (GOLDEN / "run_v1.json").read_bytes()

    assert decode_run_file(golden, verify_hash) == (SIGNER.public_key, run_file())
    assert encode_run_file(run_file(), SIGNER) == golden
