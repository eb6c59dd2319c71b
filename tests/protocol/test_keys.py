"""Names of objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.protocol import (
    PayloadKey,
    aggregate_keys,
    debug_keys,
    manifest_keys,
    notice_keys,
    parse_payload_key,
    payload_key,
    payload_keys,
    payload_prefix,
    peers_key,
    run_key,
    score_keys,
    trial_key,
)
from templar_pl.protocol.keys import MAX_UID, MAX_WINDOW
from templar_pl.units import Uid, Window

runs = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
windows = st.integers(0, MAX_WINDOW).map(Window)
uids = st.integers(0, MAX_UID).map(Uid)


def test_the_keys_of_a_run_read_as_documented() -> None:
    assert run_key("my-run") == "my-run/run.json"
    assert payload_prefix("my-run") == "my-run/payload/"
    assert trial_key("my-run", "0f") == "my-run/trial/0f.bin"
    assert payload_key("my-run", Window(42), Uid(7)) == "my-run/payload/000000042/7.bin"
    assert debug_keys("my-run", Uid(7)).key(Window(42)) == "my-run/debug/000000042/7.json"
    assert aggregate_keys("my-run").key(Window(42)) == "my-run/aggregate/000000042.bin"
    assert notice_keys("my-run").key(Window(42)) == "my-run/aggregate/000000042.json"
    assert manifest_keys("my-run").key(Window(42)) == "my-run/manifest/000000042.json"
    assert score_keys("my-run").key(Window(42)) == "my-run/scores/000000042.json"
    assert peers_key("my-run") == "my-run/peers.json"


@given(runs, windows, uids)
def test_parsing_undoes_making_a_payload_key(run: str, window: Window, uid: Uid) -> None:
    assert parse_payload_key(payload_key(run, window, uid)) == PayloadKey(run, window, uid)


@given(runs, windows, uids)
def test_the_window_of_a_key_is_told_by_keys_of_its_kind_run_and_node_only(run: str, window: Window, uid: Uid) -> None:
    kinds = [payload_keys(run, uid), debug_keys(run, uid), aggregate_keys(run), notice_keys(run), manifest_keys(run)]
    kinds += [score_keys(run), payload_keys(run, Uid((uid + 1) % MAX_UID)), payload_keys(f"{run[:60]}-b", uid)]

    for place, keys in enumerate(kinds):
        told = [other.window_of(keys.key(window)) for other in kinds]
        assert told == [window if other == place else None for other in range(len(kinds))]


@given(st.text())
def test_any_text_is_told_the_window_of_its_key_or_none(text: str) -> None:
    keys = payload_keys("run", Uid(7))
    for candidate in (text, f"run/payload/{text}/7.bin"):
        window = keys.window_of(candidate)
        assert window is None or keys.key(window) == candidate


@given(runs, windows, windows, uids)
def test_payload_keys_sort_by_window(run: str, earlier: Window, later: Window, uid: Uid) -> None:
    in_time = sorted([earlier, later])

    assert [payload_key(run, window, uid) for window in in_time] == sorted(
        payload_key(run, window, uid) for window in in_time
    )


@given(st.text())
def test_any_text_is_a_payload_key_with_one_meaning_or_refused(text: str) -> None:
    try:
        parsed = parse_payload_key(text)
    except ValueError:
        return
    assert payload_key(parsed.run, parsed.window, parsed.uid) == text


@pytest.mark.parametrize(
    "key",
    [
        "run/payload/000000042/07.bin",
        "run/payload/42/7.bin",
        "run/payload/0000000042/7.bin",
        "run/payload/000000042/7.bin\n",
        "run/payload/000000042/4294967296.bin",
        "run/payload/00000004٢/7.bin",
        "run/payload/000000042/7.bin.tmp",
        "../payload/000000042/7.bin",
        "run/manifest/000000042.json",
        "run/trial/42.bin",
        "",
    ],
)
def test_what_no_payload_is_called_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="a payload key reads RUN/payload/WINDOW/UID"):
        parse_payload_key(key)


@pytest.mark.parametrize("run", ["", "-x", ".x", "A", "a/b", "a b", "a" * 65, "ä", "a\n", "..", "a\\b"])
def test_an_unsafe_run_name_is_refused(run: str) -> None:
    for make in (
        run_key,
        payload_prefix,
        aggregate_keys,
        notice_keys,
        manifest_keys,
        lambda name: trial_key(name, "a"),
        lambda name: payload_key(name, Window(0), Uid(0)),
    ):
        with pytest.raises(ValueError, match=r"a run name has 1\.\.64 characters"):
            make(run)


@pytest.mark.parametrize(("window", "uid"), [(-1, 0), (MAX_WINDOW + 1, 0), (0, -1), (0, MAX_UID + 1)])
def test_numbers_without_a_key_are_refused(window: int, uid: int) -> None:
    with pytest.raises(ValueError, match=r"must be in 0\.\."):
        payload_key("run", Window(window), Uid(uid))
