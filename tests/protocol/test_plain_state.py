"""What optimizers and schedules keep besides tensors."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.protocol import JsonValue, open_document, sign_document
from templar_pl.protocol.plain_state import from_json, to_json
from tests.protocol.documents import json_values
from tests.protocol.samples import HashSigner, verify_hash

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
keys = st.text(st.characters(codec="utf-8"), max_size=5) | st.integers(-99, 99)
plain = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_reading_undoes_writing_also_through_a_document(value: object) -> None:
    written = to_json(value, "value")

    data = sign_document("kind", {"value": written}, HashSigner())
    through = open_document("kind", data, verify_hash, max_bytes=10**6).statement["value"]

    read = from_json(value, through, "value")
    assert read == value
    assert repr(read) == repr(value) or isinstance(value, dict | list | tuple)  # -0.0, and 1 against True


@given(plain, json_values)
def test_whatever_is_read_has_the_make_of_the_live_value_or_is_refused(live: object, saved: JsonValue) -> None:
    try:
        read = from_json(live, saved, "value")
    except ValueError as error:
        assert len(str(error)) < 10_000  # noqa: PT017 - both ends are right
    else:
        from_json(read, to_json(read, "value"), "value")


@given(st.dictionaries(keys, st.none()))
def test_the_order_of_a_map_does_not_matter(value: dict[object, None]) -> None:
    assert to_json(value, "v") == to_json(dict(reversed(value.items())), "v")


def test_types_are_those_of_the_live_value() -> None:
    live = {"milestones": Counter({30: 1}), "betas": (0.9, 0.99), "lr": torch.tensor(0.5), "step": 3}
    saved = to_json(live | {"milestones": Counter({30: 2}), "lr": 0.25, "step": 4}, "v")

    read = from_json(live, saved, "v")

    assert isinstance(read, dict)
    assert isinstance(read["milestones"], Counter)
    assert isinstance(read["betas"], tuple)
    assert isinstance(read["lr"], torch.Tensor)
    assert read == {"milestones": Counter({30: 2}), "betas": (0.9, 0.99), "lr": torch.tensor(0.25), "step": 4}
    assert live["step"] == 3


def test_the_forms_are_as_documented() -> None:
    written = to_json({"a": 1, "b": 0.5, 3: True, "c": None, "d": "t", "e": (False, [])}, "v")

    assert json.dumps(written) == (
        '{":map": [3, "b:1", "s:a", 1, "s:b", "f:0x1.0000000000000p-1", "s:c", "n:", "s:d", "s:t", "s:e", ["b:0", []]]}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53, object(), {1, 2}, torch.zeros(2), b"x"])
def test_what_has_no_form_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"groups\.lr\[0\] cannot be stored"):
        to_json({"lr": [value]}, "groups")


WRONG: dict[str, tuple[object, JsonValue, str]] = {
    "a text for a number": (1.0, "s:x", "must be a finite number"),
    "not a number": (1.0, "f:nan", "must be a finite number"),
    "infinite": (1.0, "f:inf", "must be a finite number"),
    "a number beyond all": (1.0, "f:0x1p+5000", "must be a finite number"),
    "another spelling": (1.0, "f:0x1p-1", "must be a finite number"),
    "decimal": (1.0, "f:0.5", "must be a finite number"),
    "a truth value for a number": (1, "b:1", "must be a finite number"),
    "a number for a truth value": (True, 1, "must be a truth value"),
    "another truth value": (True, "b:2", "must be a truth value"),
    "something for nothing": (None, 1, "must be None as in this node's settings"),
    "another text": ("cos", "s:linear", "must be 'cos' as in this node's settings"),
    "a longer list": ([1], [1, 2], "must be a list of 1"),
    "a number for a list": ([1], 1, "must be a list of 1"),
    "a list for a map": ({"a": 1}, ["s:a", 1], "must be a map of a"),
    "a map without its field": ({"a": 1}, {"a": 1}, "must be a map of a"),
    "a key less": ({"a": 1, "b": 2}, {":map": ["s:a", 1]}, "must be a map of a, b"),
    "another key": ({"a": 1}, {":map": ["s:b", 1]}, "must be a map of a"),
    "a value less": ({"a": 1}, {":map": ["s:a"]}, "must be a map of a"),
    "a number as a text key": ({"1": 1}, {":map": [1, 1]}, "must be a map of 1"),
    "fraction of a tensor": (torch.tensor(1.0), "s:x", "must be a finite number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_make_is_refused_with_its_place(name: str) -> None:
    live, saved, reason = WRONG[name]

    with pytest.raises(ValueError, match=reason) as caught:
        from_json({"here": live}, {":map": ["s:here", saved]}, "schedule")

    assert str(caught.value).startswith("schedule.here")
