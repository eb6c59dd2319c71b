"""hparams.json, the numbers all nodes of a run agree on, as one frozen value.

The file is flat; `config.py` groups its fields by the room that uses them. Where the name in the file differs from
the field's, `FILE_NAMES` says so.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from templar_pl.config import (
    CompressionConfig,
    LlamaConfig,
    PagesConfig,
    PeersConfig,
    ScheduleConfig,
    ScoringConfig,
    WindowConfig,
)
from templar_pl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HParams:
    """Every number that all nodes of a run must share. Its digest names the run."""

    llama: LlamaConfig = field(default_factory=LlamaConfig)
    """Shape of the model."""

    pages: PagesConfig = field(default_factory=PagesConfig)
    """Text of a window."""

    compression: CompressionConfig = field(default_factory=CompressionConfig)
    """Momentum to payload to update."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate."""

    window: WindowConfig = field(default_factory=WindowConfig)
    """Length of a window and its exchange."""

    peers: PeersConfig = field(default_factory=PeersConfig)
    """Whose payloads are gathered."""

    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """How validators judge."""

    def __post_init__(self) -> None:
        if self.pages.sequence_length > self.llama.max_position_embeddings:
            raise ConfigError(
                f"sequence_length must be in 2..max_position_embeddings ({self.llama.max_position_embeddings}), "
                f"got {self.pages.sequence_length}"
            )

    def digest(self) -> bytes:
        """Return the SHA-256 (32 bytes) of all numbers, the same for the same numbers on every machine."""
        numbers = {name: float(v) if isinstance(v, int) else v for name, v in to_flat(self).items()}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).digest()


FILE_NAMES = {"topk": "topk_compression", "chunk_size": "target_chunk"}
"""Field -> its name in hparams.json, where the two differ."""

SECTIONS: dict[str, type] = {
    "llama": LlamaConfig,
    "pages": PagesConfig,
    "compression": CompressionConfig,
    "schedule": ScheduleConfig,
    "window": WindowConfig,
    "peers": PeersConfig,
    "scoring": ScoringConfig,
}
"""Field of `HParams` -> its class; also the option groups of the command line."""


def file_names() -> dict[str, tuple[str, str]]:
    """Return name in hparams.json -> (section, field)."""
    return {FILE_NAMES.get(f.name, f.name): (section, f.name) for section, cls in SECTIONS.items() for f in fields(cls)}


def to_flat(hparams: HParams) -> dict[str, Any]:
    """Return the numbers under their names in hparams.json."""
    return {name: getattr(getattr(hparams, section), leaf) for name, (section, leaf) in file_names().items()}


def to_sections(flat: dict[str, Any], *, source: str) -> dict[str, dict[str, Any]]:
    """Sort the numbers of a file into sections: {section: {field: value}}.

    Raises:
        ConfigError: a name is unknown; the message suggests the nearest known one.
    """
    known = file_names()
    sections: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean `{near[0]}`?" if near else f"; known names: {', '.join(sorted(known))}"
            raise ConfigError(f"{source}: unknown name `{name}`{hint}")
        section, leaf = known[name]
        sections.setdefault(section, {})[leaf] = value
    return sections


def from_sections(sections: dict[str, dict[str, Any]]) -> HParams:
    """Build the frozen value. Raises `ConfigError` for a number out of range."""
    return HParams(**{name: SECTIONS[name](**values) for name, values in sections.items()})


def read_flat(path: Path) -> dict[str, Any]:
    """Read a flat JSON object of numbers. Raises `ConfigError` if the file is absent or no such object."""
    try:
        flat = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(flat, dict):
        raise ConfigError(f"{path} must hold one JSON object of names and numbers, got {type(flat).__name__}")
    return flat


def load_hparams(*paths: Path) -> HParams:
    """Read hparams files, later ones laid over earlier ones.

    Raises:
        ConfigError: a file cannot be read, a name is unknown, or a number is out of range.
    """
    flat: dict[str, Any] = {}
    for path in paths:
        numbers = read_flat(path)
        to_sections(numbers, source=str(path))
        flat |= numbers
    return from_sections(to_sections(flat, source=str(paths[-1]) if paths else "defaults"))
