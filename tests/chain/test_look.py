"""Looking at the file of a chain: what it tells, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.chain.look import look_at_local_chain, read_local_chain
from templar_pl.errors import ConfigError
from templar_pl.units import Block, Window
from tests.chain.nodes import RUN, local_chain

CONFIG = LocalChainConfig()


def everything(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[LocalChain]:
    with contextlib.closing(local_chain(tmp_path, "a", CONFIG)) as chain:
        chain.open()
        chain.register()
        yield chain


def test_a_chain_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    assert look_at_local_chain(tmp_path / "runs" / "chain.sqlite", CONFIG, run=RUN) is None

    assert list(tmp_path.iterdir()) == []


def test_an_open_chain_tells_who_is_registered(tmp_path: Path, chain: LocalChain) -> None:
    assert look_at_local_chain(tmp_path / "chain.sqlite", CONFIG, run=RUN) == chain.peers()


def test_a_closed_chain_tells_the_same_and_not_a_byte_of_its_folder_changes(tmp_path: Path, chain: LocalChain) -> None:
    peers = chain.peers()
    chain.close()
    before = everything(tmp_path)

    assert look_at_local_chain(tmp_path / "chain.sqlite", CONFIG, run=RUN) == peers

    assert everything(tmp_path) == before


def test_a_chain_with_other_settings_is_refused_in_the_words_of_opening_it(tmp_path: Path, chain: LocalChain) -> None:
    other = dataclasses.replace(CONFIG, lease_s=21)
    with pytest.raises(ConfigError) as opened:
        local_chain(tmp_path, "b", other).open()

    with pytest.raises(ConfigError) as looked_at:
        look_at_local_chain(tmp_path / "chain.sqlite", other, run=RUN)

    assert str(looked_at.value) == str(opened.value)


def test_another_run_is_refused(tmp_path: Path, chain: LocalChain) -> None:
    with pytest.raises(ConfigError, match=f"was made with run = {RUN}, but run = {'f' * 64} is asked for"):
        look_at_local_chain(tmp_path / "chain.sqlite", CONFIG, run="f" * 64)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE t (a)")

    with pytest.raises(ConfigError, match="database of another program"):
        look_at_local_chain(tmp_path / "other.sqlite", CONFIG, run=RUN)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite").write_text("not a database " * 1000)

    with pytest.raises(ConfigError, match="it is not a chain file"):
        look_at_local_chain(tmp_path / "chain.sqlite", CONFIG, run=RUN)


def test_an_empty_file_is_no_chain_yet(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite").touch()

    assert look_at_local_chain(tmp_path / "chain.sqlite", CONFIG, run=RUN) is None


@pytest.mark.parametrize("pace", ["lockstep", "wall"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
def test_who_does_not_know_how_a_chain_keeps_time_reads_it_all_the_same(
    tmp_path: Path, pace: Literal["lockstep", "wall"], is_closed: bool
) -> None:
    with contextlib.closing(local_chain(tmp_path, "a", LocalChainConfig(pace=pace, lease_s=3))) as chain:
        chain.open()
        chain.register()
        chain.commit("somewhere")
        peers, born_at = chain.peers(), chain.timestamp(Block(0))
        chain_ends_at = chain.upload_interval(Window(1))[0] if pace == "wall" else None
        if is_closed:
            chain.close()
        before = everything(tmp_path)

        read = read_local_chain(tmp_path / "chain.sqlite", run=RUN)

        assert (read.peers, read.born_at) == (peers, born_at)
        assert read.candidates(Window(0)) == {}
        assert read.candidates(Window(1)) == peers
        assert read.ends_at(Window(1)) == chain_ends_at
        if chain_ends_at is None:
            assert read.open_window(born_at + 1e6) == Window(0)
        else:
            assert [read.open_window(chain_ends_at + late_s) for late_s in (-0.01, 0.01)] == [Window(1), Window(2)]
            assert read.open_window(born_at - 100) == Window(0)
        assert not is_closed or everything(tmp_path) == before


def test_who_registers_while_a_chain_is_read_is_in_all_of_it_or_in_nothing(tmp_path: Path, chain: LocalChain) -> None:
    done = threading.Event()

    def register() -> None:
        for number in range(60):
            with contextlib.closing(local_chain(tmp_path, f"n{number}", CONFIG)) as other:
                other.open()
                other.register()
        done.set()

    thread = threading.Thread(target=register)
    thread.start()
    try:
        while not done.is_set():
            read = read_local_chain(tmp_path / "chain.sqlite", run=RUN)
            assert read.candidates(Window(10**6)) == read.peers
    finally:
        thread.join(60)


def test_a_chain_of_another_run_or_none_is_not_read(tmp_path: Path, chain: LocalChain) -> None:
    with pytest.raises(ConfigError, match="was made with run"):
        read_local_chain(tmp_path / "chain.sqlite", run="f" * 64)
    with pytest.raises(ConfigError, match="there is no chain at"):
        read_local_chain(tmp_path / "another.sqlite", run=RUN)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(ConfigError, match="there is no chain at"):
        read_local_chain(tmp_path / "empty.sqlite", run=RUN)
