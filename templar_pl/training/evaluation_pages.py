"""The batches that payloads are evaluated on: of pages that were assigned to a miner, and of random ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from templar_pl.data import WindowedDataset
from templar_pl.errors import ConfigError
from templar_pl.scoring import Draw
from templar_pl.units import Uid, Window


@dataclass(frozen=True, slots=True)
class EvaluationBatches:
    """Of one window."""

    own: Mapping[Uid, Sequence[Any]]
    """Some batches of the pages that were assigned to each miner, at least one."""

    random: Sequence[Any]
    """Some batches of pages that nobody knew of, at least one; the same for all miners."""

    random_pages: bytes
    """32 bytes: digest of the random pages."""

    seed: int
    """Of whatever is random in a step."""


def draw_batches(
    loader: Iterable[Any], draw: Draw, window: Window, uids: Collection[Uid], share: float
) -> EvaluationBatches:
    """Read the pages of miners and random ones, and choose batches of them.

    Args:
        loader: of training, whose dataset is a `WindowedDataset`.
        draw: decides what is chosen.
        window: in which the miners trained.
        uids: of the miners.
        share: of the batches of a window's pages that is chosen, above 0 and at most 1.

    Raises:
        ConfigError: the loader knows no windows, or has no batches.
    """
    dataset = windowed_dataset(loader)

    def chosen(uid: Uid, of_window: Window, what: str) -> tuple[bytes, list[Any]]:
        digest = dataset.begin_window(uid, of_window)
        batches = list(loader)
        if not batches:
            raise ConfigError(f"the training loader has no batches for uid {uid} in window {of_window}")
        return digest, [batches[number] for number in draw.choose(what, len(batches), share)]

    own = {uid: chosen(uid, window, f"own/{uid}")[1] for uid in sorted(uids)}
    random_pages, random_batches = chosen(*draw.pages(), "random")
    return EvaluationBatches(own, random_batches, random_pages, draw.seed("steps"))


def windowed_dataset(loader: object) -> WindowedDataset:
    """Return the dataset that knows whose pages are whose in a window. Raises `ConfigError` if there is none."""
    dataset = getattr(loader, "dataset", None)
    if not isinstance(dataset, WindowedDataset):
        raise ConfigError(
            "scoring needs to know which data was assigned to whom: the dataset of the training loader must have "
            f"begin_window(uid, window) (templar_pl.data.WindowedDataset), got {type(dataset).__name__}"
        )
    return dataset
