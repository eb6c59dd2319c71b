"""What a hotkey states in JSON: one form, signed, and nothing else passes."""

from __future__ import annotations

import json
import tracemalloc
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from templar_pl.errors import DocumentError, Fault
from templar_pl.protocol import Document, JsonMap, open_document, sign_document
from tests.protocol.documents import GOLDEN, json_keys, signed_text, slow_document, slow_json, statements
from tests.protocol.samples import HashSigner, verify_hash

SIGNER = HashSigner()
STATEMENT: JsonMap = {
    "big": 2**53 - 1,
    "list": [1, "two", [], {}, {"b": 0, "a": -(2**53) + 1}],
    "text": 'q" b\\ \n\t\x01\x7f é \u2028 \U0001f600',
    "0": "first",
    "Z:z.-_": "",
}
GOOD = slow_document("test", STATEMENT, SIGNER)
TOP = 2**20


def opened(data: bytes, kind: str = "test", max_bytes: int = TOP) -> Document:
    return open_document(kind, data, verify_hash, max_bytes=max_bytes)


def refusal(data: bytes, kind: str = "test", max_bytes: int = TOP) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        opened(data, kind, max_bytes)
    assert len(str(caught.value)) < 500
    return caught.value


@given(st.from_regex("[a-z]{1,32}", fullmatch=True), statements)
def test_a_document_has_the_bytes_of_the_slow_reference(kind: str, statement: JsonMap) -> None:
    assert sign_document(kind, statement, SIGNER) == slow_document(kind, statement, SIGNER)


@given(st.from_regex("[a-z]{1,32}", fullmatch=True), statements)
def test_opening_undoes_signing(kind: str, statement: JsonMap) -> None:
    document = opened(sign_document(kind, statement, SIGNER), kind)

    assert document == Document(SIGNER.public_key, statement)


@given(statements, st.randoms())
def test_the_order_in_which_a_statement_was_made_changes_nothing(statement: JsonMap, random: Random) -> None:
    items = list(statement.items())
    random.shuffle(items)

    assert sign_document("test", dict(items), SIGNER) == sign_document("test", statement, SIGNER)


@given(st.binary(max_size=300))
@example(b"")
@example(b"null")
@example(b"1e999")
@example(b"NaN")
@example(b"\xef\xbb\xbf{}")
@example('{"format":1}'.encode("utf-16"))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert refusal(data).fault is Fault.FORMAT


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
        max_leaves=30,
    ),
    st.booleans(),
)
def test_any_json_as_a_statement_is_refused_or_in_its_only_form(statement: object, spaced: bool) -> None:
    text = json.dumps(statement, ensure_ascii=spaced, separators=None if spaced else (",", ":"), sort_keys=not spaced)
    head = f'{{"format":1,"kind":"test","public_key":"{SIGNER.public_key.hex()}","statement":'
    data = signed_text(head + text + "}", SIGNER)

    try:
        document = opened(data)
    except DocumentError as error:
        assert error.fault is Fault.FORMAT  # noqa: PT017 - not all of them are refused
        return
    assert sign_document("test", document.statement, SIGNER) == data


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_one_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(GOOD)
    changed[bit // 8] ^= 1 << (bit % 8)

    assert refusal(bytes(changed)).fault in (Fault.FORMAT, Fault.SIGNATURE)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3))
def test_a_document_cut_short_or_with_something_in_it_is_refused(place: int, more: bytes) -> None:
    assert refusal(GOOD[:place]).fault is Fault.FORMAT
    assert refusal(GOOD[:place] + more + GOOD[place:]).fault in (Fault.FORMAT, Fault.SIGNATURE)
    assert refusal(GOOD + more).fault is Fault.FORMAT


def test_too_many_bytes_are_refused_before_anything_is_made_of_them() -> None:
    hostile = b"[" * 2**24
    tracemalloc.start()

    error = refusal(hostile, max_bytes=len(GOOD))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.fault is Fault.SIZE
    assert peak < 2**20
    assert opened(GOOD, max_bytes=len(GOOD)).statement == STATEMENT
    assert refusal(GOOD, max_bytes=len(GOOD) - 1).fault is Fault.SIZE


@pytest.mark.parametrize("part", ["[]", '{"a":1}', "300"])
def test_the_memory_of_opening_is_bounded_by_the_size(part: str) -> None:
    parts = ",".join([part] * 20_000)
    data = slow_document("test", {"a": "x"}, SIGNER).replace(b'"x"', f"[{parts}]".encode())
    tracemalloc.start()

    error = refusal(data)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.fault is Fault.SIGNATURE
    assert peak < 50 * len(data)


def as_text(statement: object = STATEMENT, **fields: object) -> str:
    """Return a document without its signature, with other fields where they are given."""
    values = {"format": 1, "kind": "test", "public_key": SIGNER.public_key.hex(), "statement": statement}
    return slow_json(values | fields)


def with_statement(text: str) -> str:
    return as_text(0).removesuffix("0}") + text + "}"


WRONG = {
    "no map": ("[1]", "it must be a map with the number of its format"),
    "version 0": (as_text(format=0), "format must be 1"),
    "version of the future": (as_text(format=2), "format must be 1"),
    "version as a text": (as_text(format="1"), "it must be a map with the number"),
    "version true": (as_text().replace('"format":1', '"format":true'), "it must be a map with the number"),
    "version with a fraction": (as_text().replace('"format":1', '"format":1.0'), "it must be a map with the number"),
    "another kind": (as_text(kind="other"), "it is of another kind, 'other'"),
    "a kind that is no text": (as_text(kind=7), "it is of another kind, '7'"),
    "a field more": (as_text(more=1), "it must have the fields format, kind, public_key, signature, statement"),
    "a field less": (as_text().replace(',"kind":"test"', ""), "it must have the fields format"),
    "a statement that is a list": (as_text([]), "it must have the fields format"),
    "a key in capitals": (as_text(public_key=SIGNER.public_key.hex().upper()), "public_key must be 64 of 0-9 and a-f"),
    "a key too short": (as_text(public_key="4b" * 31), "public_key must be 64 of 0-9 and a-f"),
    "a key that is a number": (as_text(public_key=7), "public_key must be 64 of 0-9 and a-f"),
    "spaces": (as_text().replace('":', '": '), "not in its only form"),
    "a line at the end": (as_text() + "\n", "not in its only form"),
    "keys in another order": (with_statement('{"b":1,"a":1}'), "not in its only form"),
    "a key twice": (with_statement('{"a":1,"a":1}'), "not in its only form"),
    "a key twice, the kind": (as_text().replace('"kind"', '"kind":"other","kind"'), "not in its only form"),
    "a needless escape": (with_statement('{"a":"\\u0061"}'), "not in its only form"),
    "an escape in capitals": (with_statement('{"a":"\\u001F"}'), "not in its only form"),
    "an escaped slash": (with_statement('{"a":"\\/"}'), "not in its only form"),
    "half a character": (with_statement('{"a":"\\ud800"}'), "surrogates not allowed"),
    "half a character in bytes": (with_statement('{"a":"\ud800"}'), "can't decode byte"),
    "a control character as it is": (with_statement('{"a":"\x01"}'), "Invalid control character"),
    "minus zero": (with_statement('{"a":-0}'), "not in its only form"),
    "a fraction": (with_statement('{"a":1.5}'), "only maps, lists, texts and whole numbers are allowed, got a float"),
    "an exponent": (with_statement('{"a":1e3}'), "got a float"),
    "no number": (with_statement('{"a":NaN}'), "got a float"),
    "infinity": (with_statement('{"a":Infinity}'), "got a float"),
    "true": (with_statement('{"a":true}'), "got a bool"),
    "nothing": (with_statement('{"a":null}'), "got a NoneType"),
    "2^53": (
        with_statement(f'{{"a":{2**53}}}'),
        "a number must be in -9007199254740991..9007199254740991, got one of 54",
    ),
    "-2^53": (with_statement(f'{{"a":{-(2**53)}}}'), "got one of 54 bits"),
    "a number of 4000 digits": (with_statement(f'{{"a":{"9" * 4000}}}'), "got one of 13288 bits"),
    "a number of 100000 digits": (with_statement(f'{{"a":{"9" * 100_000}}}'), "Exceeds the limit"),
    "an empty key": (with_statement('{"":1}'), "a key must be 1..200 letters"),
    "a long key": (with_statement(f'{{"{"a" * 201}":1}}'), "a key must be 1..200 letters"),
    "a key that is not ASCII": (with_statement('{"é":1}'), "a key must be 1..200 letters"),
    "a key inside a list": (with_statement('{"a":[{"b c":1}]}'), "a key must be 1..200 letters, .* got 'b c'"),
    "17 levels": (with_statement('{"a":' + "[" * 16 + "]" * 16 + "}"), "nested deeper than 16"),
    "17 levels of maps": (with_statement('{"a":' * 17 + "1" + "}" * 17), "nested deeper than 16"),
    "100000 levels": (with_statement('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested deeper than 16"),
    "100000 levels of maps": (with_statement('{"a":' * 100_000 + "1" + "}" * 100_000), "nested deeper than 16"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_under_a_good_signature_is_refused_with_its_reason(name: str) -> None:
    text, reason = WRONG[name]
    data = signed_text(text, SIGNER)

    error = refusal(data)

    assert error.fault is Fault.FORMAT
    assert error.reason.startswith("no test document: ")
    with pytest.raises(DocumentError, match=reason):
        opened(data)


def test_16_levels_and_the_longest_keys_and_numbers_pass() -> None:
    deep: JsonMap = {"a" * 200: -(2**53) + 1, "b": 2**53 - 1}
    for _ in range(15):
        deep = {"a": deep}

    assert opened(sign_document("test", deep, SIGNER)).statement == deep


def test_a_signature_for_one_kind_is_none_for_another() -> None:
    assert refusal(GOOD, kind="other").fault is Fault.FORMAT
    assert refusal(GOOD.replace(b'"kind":"test"', b'"kind":"other"'), kind="other").fault is Fault.SIGNATURE


def test_a_signature_of_another_hotkey_or_over_something_else_is_refused() -> None:
    fields = json.loads(GOOD)
    other = json.loads(slow_document("test", STATEMENT, HashSigner(b"k" * 32)))
    text = slow_json({name: value for name, value in fields.items() if name != "signature"})

    for wrong in (
        other["signature"],
        SIGNER.sign(text.encode()).hex(),
        SIGNER.sign(b"templar_pl/payload/1\0" + text.encode()).hex(),
        "00" * 64,
    ):
        assert refusal(slow_json(fields | {"signature": wrong}).encode()).fault is Fault.SIGNATURE
    assert refusal(slow_json(fields | {"public_key": other["public_key"]}).encode()).fault is Fault.SIGNATURE
    assert refusal(slow_json(fields | {"signature": fields["signature"].upper()}).encode()).fault is Fault.FORMAT
    assert refusal(slow_json(fields | {"signature": "00" * 63}).encode()).fault is Fault.FORMAT


def test_a_document_of_format_1_reads_for_ever() -> None:
    golden = (GOLDEN / "document_v1.json").read_bytes()

    assert opened(golden) == Document(SIGNER.public_key, STATEMENT)
    assert sign_document("test", STATEMENT, SIGNER) == golden


@pytest.mark.parametrize("kind", ["", "Run", "run1", "a b", "x" * 33, "run\n"])
def test_a_malformed_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"the kind of a document must be 1\.\.32 of a-z"):
        sign_document(kind, {}, SIGNER)


@pytest.mark.parametrize(
    "value", [None, True, 1.5, float("nan"), b"x", (1,), {1: 2}, {"a b": 1}, 2**53, -(2**53), "\ud800", {"a": [None]}]
)
def test_a_statement_of_something_else_is_not_signed(value: object) -> None:
    with pytest.raises(ValueError, match=r"only maps|a number must be|a key must be|surrogates not allowed"):
        sign_document("test", {"a": value}, SIGNER)  # pyright: ignore[reportArgumentType]  # that is the point


@given(json_keys)
def test_a_fraction_travels_as_the_text_that_float_hex_gives(key: str) -> None:
    statement: JsonMap = {key: (1 / 3).hex()}

    text = opened(sign_document("test", statement, SIGNER)).statement[key]

    assert isinstance(text, str)
    assert float.fromhex(text) == 1 / 3
