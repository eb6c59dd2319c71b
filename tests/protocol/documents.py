"""Signed documents to test with, and a slow reference for every byte of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

from templar_pl.protocol import JsonMap, RunFile, Signer, StoredFile
from templar_pl.units import Window
from tests.protocol.samples import RUN, HashSigner

GOLDEN = Path(__file__).parent / "golden"
TAG = b"templar_pl/document/1\0"

json_keys = st.from_regex(r"[A-Za-z0-9_.:-]{1,20}", fullmatch=True)
whole_numbers = st.integers(-(2**53) + 1, 2**53 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    whole_numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(json_keys, inner, max_size=4),
    max_leaves=20,
)
statements = st.dictionaries(json_keys, json_values, max_size=5)

segments = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32)


def stored_files(run: str) -> st.SearchStrategy[StoredFile]:
    keys = st.lists(segments, min_size=1, max_size=4).map(lambda parts: "/".join([run, "checkpoint", *parts]))
    return st.builds(StoredFile, key=keys, sha256=digests, size=st.integers(1, 2**53 - 1))


run_files = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True).flatmap(
    lambda run: st.builds(
        RunFile,
        run=st.just(run),
        digest=digests,
        netuid=st.integers(0, 2**16 - 1),
        start_window=st.integers(0, 10**9 - 1).map(Window),
        blocks_per_window=st.integers(1, 10**6),
        version=st.from_regex(r"[0-9A-Za-z.+!_-]{1,64}", fullmatch=True),
        checkpoint=st.none() | stored_files(run),
    )
)


def run_file(**changes: object) -> RunFile:
    values = {
        "run": "my-run",
        "digest": RUN,
        "netuid": 3,
        "start_window": Window(1234),
        "blocks_per_window": 7,
        "version": "0.1.0",
        "checkpoint": StoredFile(key="my-run/checkpoint/000001234/model.safetensors", sha256=b"c" * 32, size=2**32),
    }
    return RunFile(**(values | changes))  # pyright: ignore[reportArgumentType]  # a table of mixed types


def slow_json(value: object) -> str:
    """Write a value letter by letter."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{slow_json(key)}:{slow_json(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(slow_json, value)) + "]"
    if isinstance(value, int):
        return "%d" % value  # noqa: UP031 - another way than the code's
    assert isinstance(value, str)
    short = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + re.sub('[\0-\x1f"\\\\]', lambda m: short.get(m[0], f"\\u{ord(m[0]):04x}"), value) + '"'


def slow_document(kind: str, statement: Mapping[str, object], signer: Signer, **changes: object) -> bytes:
    """A whole document, with other fields where they are given; the signature is good for them."""
    fields = {"format": 1, "kind": kind, "public_key": signer.public_key.hex(), "statement": statement, **changes}
    return signed_text(slow_json(fields), signer)


def signed_text(text: str, signer: Signer) -> bytes:
    """Put a signature into any text, in front of its statement: a hostile peer can sign what it likes."""
    signature = signer.sign(TAG + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()).hex()
    before, statement, after = text.partition(',"statement":')
    if not statement:
        return text.encode()
    return f'{before},"signature":"{signature}"{statement}{after}'.encode("utf-8", "surrogatepass")


def slow_run_file(wanted: RunFile, signer: Signer | None = None) -> bytes:
    statement: JsonMap = {
        "blocks_per_window": wanted.blocks_per_window,
        "digest": wanted.digest.hex(),
        "netuid": wanted.netuid,
        "run": wanted.run,
        "start_window": wanted.start_window,
        "version": wanted.version,
    }
    if wanted.checkpoint:
        checkpoint = wanted.checkpoint
        statement["checkpoint"] = {"key": checkpoint.key, "sha256": checkpoint.sha256.hex(), "size": checkpoint.size}
    return slow_document("run", statement, signer or HashSigner())
