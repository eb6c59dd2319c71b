"""What a checkpoint of the network consists of, and which one is the newest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.errors import DocumentError, Fault
from templar_pl.exchange.store import check_key
from templar_pl.protocol import JsonMap, StoredFile
from templar_pl.protocol.checkpoint import (
    MAX_CHECKPOINT_BYTES,
    MAX_LATEST_BYTES,
    MAX_TOKENS,
    Checkpoint,
    Latest,
    decode_checkpoint,
    decode_latest,
    encode_checkpoint,
    encode_latest,
)
from templar_pl.units import Window
from tests.protocol.documents import GOLDEN, digests, slow_document, statements
from tests.protocol.samples import HashSigner, verify_hash

SIGNER = HashSigner()
runs = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


def checkpoint(**changes: object) -> Checkpoint:
    values = {
        "run": "my-run",
        "digest": b"d" * 32,
        "window": Window(1234),
        "applied": 234,
        "fingerprint": b"f" * 32,
        "layout": b"l" * 32,
        "version": "0.1.0",
        "model": StoredFile(key="my-run/checkpoint/000001234/model.safetensors", sha256=b"m" * 32, size=2**32),
        "optimizer": StoredFile(key="my-run/checkpoint/000001234/optimizer.safetensors", sha256=b"o" * 32, size=77),
        "state": {"groups": [{":map": ["s:lr", "f:0x1.0000000000000p-4"]}]},
        "tokens": 10**12,
    }
    return Checkpoint(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    run, window = draw(runs), Window(draw(st.integers(0, 10**9 - 1)))

    def stored(name: str) -> StoredFile:
        size = draw(st.integers(1, 2**53 - 1))
        return StoredFile(key=f"{run}/checkpoint/{window:09d}/{name}.safetensors", sha256=draw(digests), size=size)

    state = draw(st.none() | statements)
    return checkpoint(
        run=run,
        window=window,
        applied=draw(st.integers(0, window)),
        digest=draw(digests),
        fingerprint=draw(digests),
        layout=draw(digests),
        model=stored("model"),
        optimizer=stored("optimizer") if state is not None and draw(st.booleans()) else None,
        state=state,
        tokens=draw(st.none() | st.integers(0, MAX_TOKENS)),
    )


latests = st.builds(Latest, run=runs, window=st.integers(0, 10**9 - 1).map(Window), sha256=digests)


@given(checkpoints())
def test_decoding_undoes_encoding_and_tells_who_signed(wanted: Checkpoint) -> None:
    assert decode_checkpoint(encode_checkpoint(wanted, SIGNER), verify_hash) == (SIGNER.public_key, wanted)


@given(checkpoints())
def test_every_bucket_can_hold_the_files(wanted: Checkpoint) -> None:
    for name, file in wanted.files.items():
        check_key(file.key)
        assert file.key == f"{wanted.run}/checkpoint/{wanted.window:09d}/{name}"


@given(latests)
def test_the_name_of_the_newest_comes_back(wanted: Latest) -> None:
    data = encode_latest(wanted, SIGNER)

    assert len(data) < MAX_LATEST_BYTES
    assert decode_latest(data, verify_hash) == (SIGNER.public_key, wanted)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for decode in (decode_checkpoint, decode_latest):
        with pytest.raises(DocumentError) as caught:
            decode(data, verify_hash)
        assert caught.value.fault is Fault.FORMAT


@given(statements)
def test_any_other_statement_is_refused(statement: JsonMap) -> None:
    for kind, decode in (("checkpoint", decode_checkpoint), ("latest", decode_latest)):
        with pytest.raises(DocumentError) as caught:
            decode(slow_document(kind, statement, SIGNER), verify_hash)
        assert caught.value.fault in (Fault.CONTENT, Fault.SIZE)
        assert len(str(caught.value)) < 600


@given(st.sampled_from(sorted(json.loads(encode_checkpoint(checkpoint(), SIGNER))["statement"])), st.data())
def test_any_field_may_have_any_value_and_the_error_has_a_type(name: str, data: st.DataObject) -> None:
    statement = json.loads(encode_checkpoint(checkpoint(), SIGNER))["statement"]
    statement |= data.draw(statements.map(lambda drawn: {name: next(iter(drawn.values()), drawn)}))

    try:
        decode_checkpoint(slow_document("checkpoint", statement, SIGNER), verify_hash)
    except DocumentError as error:
        assert error.fault is Fault.CONTENT  # noqa: PT017 - some values are good


def test_too_many_bytes_are_refused_unread_and_not_written() -> None:
    with pytest.raises(DocumentError, match="at most") as caught:
        decode_checkpoint(bytes(MAX_CHECKPOINT_BYTES + 1), verify_hash)
    assert caught.value.fault is Fault.SIZE
    with pytest.raises(DocumentError, match="at most 1024"):
        decode_latest(bytes(MAX_LATEST_BYTES + 1), verify_hash)
    with pytest.raises(ValueError, match="at most 262144 bytes"):
        encode_checkpoint(checkpoint(state={"a": "x" * MAX_CHECKPOINT_BYTES}), SIGNER)


def test_one_kind_is_not_taken_for_the_other() -> None:
    latest = encode_latest(Latest("my-run", Window(1), bytes(32)), SIGNER)

    with pytest.raises(DocumentError, match="another kind"):
        decode_checkpoint(latest, verify_hash)
    with pytest.raises(DocumentError, match="another kind"):
        decode_latest(encode_checkpoint(checkpoint(), SIGNER), verify_hash)


FILE = {"sha256": "00" * 32, "size": 1}
WRONG_FIELDS = {
    "more windows applied than there were": ({"applied": 1235}, r"applied must be in 0\.\.1234, got 1235"),
    "a negative count": ({"applied": -1}, "applied must be in"),
    "a window without a key": ({"window": 10**9}, r"window must be in 0\.\.999999999"),
    "negative tokens": ({"tokens": -1}, "tokens must be in"),
    "a fingerprint too short": ({"fingerprint": "00"}, "fingerprint must be 64 of 0-9"),
    "a layout in capitals": ({"layout": "AA" * 32}, "layout must be 64 of 0-9"),
    "a version with a line": ({"version": "1\n"}, "version must be 1..64"),
    "a field more": ({"more": 1}, "missing or not known: more"),
    "no file": ({"files": {}}, "missing or not known: model.safetensors"),
    "files that are a list": ({"files": []}, "files must be a map"),
    "a file that is a text": ({"files": {"model.safetensors": "x"}}, "model.safetensors must be a map"),
    "a strange file": ({"files": {"model.safetensors": FILE, "evil.pkl": FILE}}, "missing or not known: evil.pkl"),
    "an empty file": ({"files": {"model.safetensors": {**FILE, "size": 0}}}, "size must be in 1"),
    "a file with a key": ({"files": {"model.safetensors": {**FILE, "key": "../x"}}}, "missing or not known: key"),
    "a state that is a list": ({"state": []}, "state must be a map"),
    "a run with a slash": ({"run": "../x"}, "a run name has"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_under_a_good_signature_is_refused_with_its_reason(name: str) -> None:
    changes, reason = WRONG_FIELDS[name]
    statement = json.loads(encode_checkpoint(checkpoint(), SIGNER))["statement"]

    with pytest.raises(DocumentError, match=reason) as caught:
        decode_checkpoint(slow_document("checkpoint", statement | changes, SIGNER), verify_hash)

    assert caught.value.fault is Fault.CONTENT


def test_tensors_of_an_optimizer_without_its_state_are_refused() -> None:
    statement = json.loads(encode_checkpoint(checkpoint(), SIGNER))["statement"]
    del statement["state"]

    with pytest.raises(DocumentError, match="tensors of an optimizer need its state"):
        decode_checkpoint(slow_document("checkpoint", statement, SIGNER), verify_hash)


def test_a_file_of_another_window_is_not_named() -> None:
    other = StoredFile(key="my-run/checkpoint/000001233/model.safetensors", sha256=bytes(32), size=1)

    with pytest.raises(ValueError, match=r"the key of model\.safetensors must be my-run/checkpoint/000001234/model"):
        checkpoint(model=other)


def test_documents_of_format_1_read_for_ever() -> None:
    latest = Latest("my-run", Window(1234), b"s" * 32)

    assert decode_checkpoint((GOLDEN / "checkpoint_v1.json").read_bytes(), verify_hash)[1] == checkpoint()
    assert encode_checkpoint(checkpoint(), SIGNER) == (GOLDEN / "checkpoint_v1.json").read_bytes()
    assert decode_latest((GOLDEN / "latest_v1.json").read_bytes(), verify_hash)[1] == latest
    assert encode_latest(latest, SIGNER) == (GOLDEN / "latest_v1.json").read_bytes()
