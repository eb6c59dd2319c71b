"""What a validator keeps on its disk, so that it goes on where it was, whenever it is killed.

    <folder>/state.json           what it knows after the last window it judged
    <folder>/outbox/<window>.json  records that are not published yet

A record is written before the state that names its window, and published after it: a window that was judged has been
judged once, by one record. What the outbox has of windows after the state's was never judged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from templar_pl.errors import ConfigError
from templar_pl.exchange.disk import explained, sync_folder
from templar_pl.scoring import Lineage, ScoringState, StateError, read_state, write_state
from templar_pl.units import Window

FORMAT = 1

_FIELDS = {"fingerprints", "format", "scoring", "start_window", "weights_window"}
_PRINT_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a validator knows after some window."""

    scoring: ScoringState
    lineage: Lineage
    weights_window: Window
    """Last window whose weights the chain took; the one before the first, as long as it took none."""

    @staticmethod
    def at_start(start_window: Window) -> Knowledge:
        """Return what is known before the first window of a run."""
        return Knowledge(ScoringState(), Lineage(start_window, MappingProxyType({})), Window(start_window - 1))


class Journal:
    """Reads and writes the folder of one validator; one process at a time."""

    def __init__(self, folder: Path, start_window: Window) -> None:
        """Store where it is; nothing is read.

        Args:
            folder: of this validator in this run alone; made by the first write.
            start_window: first window of the run.
        """
        self._state, self._outbox = folder / "state.json", folder / "outbox"
        self._start_window = start_window

    def read(self) -> Knowledge:
        """Return what was known at the last write; at the start of the run if there was none.

        Raises:
            ConfigError: the file is damaged, of another version or of another run.
            StoreError: the disk failed.
        """
        with explained("read", self._state):
            if not self._state.exists():
                return Knowledge.at_start(self._start_window)
            text = self._state.read_text(encoding="utf-8", errors="replace")
        try:
            return self._knowledge(text)
        except (StateError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{self._state} is not what a validator of this run and version wrote ({error}): move it away to begin "
                "with no knowledge of the miners, or start the version that wrote it"
            ) from error

    def write(self, knowledge: Knowledge, record: bytes) -> None:
        """Write down what is known after a window, and what is to be published of it.

        Raises:
            StoreError: the disk failed: what was known before still stands.
        """
        self._write_whole(self._place(knowledge.scoring.window), record)
        self._write_whole(self._state, self._text(knowledge).encode())

    def keep(self, knowledge: Knowledge) -> None:
        """Write down something else that is known after the same window. Raises `StoreError` as `write`."""
        self._write_whole(self._state, self._text(knowledge).encode())

    def unpublished(self, judged: Window) -> Iterator[tuple[Window, bytes]]:
        """Return the records of windows that were judged and are not published, in their order; drop all others.

        Args:
            judged: the last window that was.

        Raises:
            StoreError: the disk failed.
        """
        with explained("read", self._outbox):
            for path in sorted(self._outbox.glob("[0-9]" * 9 + ".json")):
                if (window := Window(int(path.stem))) <= judged:
                    yield window, path.read_bytes()
                else:
                    path.unlink()

    def published(self, window: Window) -> None:
        """Forget a record, which is in the bucket. Raises `StoreError`."""
        with explained("delete", self._outbox):
            self._place(window).unlink(missing_ok=True)

    def _place(self, window: Window) -> Path:
        return self._outbox / f"{window:09d}.json"

    def _text(self, knowledge: Knowledge) -> str:
        fields = {
            "fingerprints": {str(window): seen.hex() for window, seen in sorted(knowledge.lineage.prints.items())},
            "format": FORMAT,
            "scoring": json.loads(write_state(knowledge.scoring)),
            "start_window": knowledge.lineage.start_window,
            "weights_window": knowledge.weights_window,
        }
        return json.dumps(fields, sort_keys=True, indent=1) + "\n"

    def _knowledge(self, text: str) -> Knowledge:
        """Undo `_text`. Raises `ValueError`."""
        fields: Any = json.loads(text)
        if not isinstance(fields, dict) or fields.keys() != _FIELDS or fields["format"] != FORMAT:
            raise ValueError(f"it must have the fields {', '.join(sorted(_FIELDS))} and format {FORMAT}")
        if fields["start_window"] != self._start_window:
            raise ValueError(
                f"it is of a run that began with window {fields['start_window']}, not {self._start_window}"
            )
        if type(fields["weights_window"]) is not int:
            raise ValueError("weights_window must be a whole number")
        return Knowledge(
            read_state(json.dumps(fields["scoring"])),
            Lineage(self._start_window, MappingProxyType(_fingerprints(fields["fingerprints"]))),
            Window(fields["weights_window"]),
        )

    @staticmethod
    def _write_whole(path: Path, data: bytes) -> None:
        """Write a file so that it is seen as it was or as it is, also after a loss of power."""
        aside = path.with_name(f".{path.name}.part")
        with explained("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(path.parent)


def _fingerprints(value: object) -> dict[Window, bytes]:
    """Read fingerprints by window. Raises `ValueError`."""
    if not isinstance(value, dict):
        raise ValueError("fingerprints must be a map")
    found = {Window(int(window)): bytes.fromhex(str(seen)) for window, seen in value.items()}
    if any(len(str(seen)) != _PRINT_DIGITS for seen in value.values()):
        raise ValueError(f"a fingerprint must have {_PRINT_DIGITS} digits")
    return dict(sorted(found.items()))
