"""The sequences of one window after the other, each window a pure function of (uid, window, pages, tokenizer)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from templar_pl.config import PagesConfig
from templar_pl.data.background import BackgroundCall
from templar_pl.data.packing import PackedSequences, pack_documents
from templar_pl.data.page_set import PageSet
from templar_pl.data.tokenizers import Tokenizer
from templar_pl.protocol.pages import next_pages, pages_digest
from templar_pl.units import Uid, Window

PREPARE_TIMEOUT_S = 600.0  # reading and tokenizing a window takes seconds; longer than this is a broken disk
CLOSE_TIMEOUT_S = 30.0  # one page is read and tokenized to its end

Key = tuple[int, int]
"""(uid, window)."""


@runtime_checkable
class WindowedDataset(Protocol):
    """A dataset that yields other data in every window. Whoever knows the window says so before each iteration."""

    def begin_window(self, uid: Uid, window: Window) -> bytes:
        """Choose what the next iterations yield; return 32 bytes that stand for it."""
        ...


class WindowShelf:
    """The packed sequences of the window in use and, made in a thread meanwhile, of the next one. Never more."""

    def __init__(
        self, prepare: Callable[[Key, threading.Event], PackedSequences], *, prepares_next: bool = True
    ) -> None:
        """Keep the function; nothing runs before `take`.

        Args:
            prepare: returns the sequences of a window; may stop early with any error once its event is set.
            prepares_next: whether the window after the one in use is made meanwhile.
        """
        self._prepare, self._prepares_next = prepare, prepares_next
        self._key: Key | None = None
        self._current: PackedSequences | None = None
        self._next_key: Key | None = None
        self._next: BackgroundCall[PackedSequences] | None = None

    def take(self, key: Key) -> PackedSequences:
        """Return the sequences of a window, and begin with those of the one after it if that is to be prepared.

        Raises:
            TimeoutError: they were not ready after PREPARE_TIMEOUT_S.
            Exception: whatever preparing them raised.
        """
        if key != self._key or self._current is None:
            self._key, self._current = None, None
            self._current = self._finish(key)
            self._key = key
            if self._prepares_next:
                self._begin((key[0], key[1] + 1))
        return self._current

    def holds(self, key: Key) -> bool:
        """Tell whether this is the window in use."""
        return key == self._key

    def close(self) -> None:
        """Drop everything and wait for the thread. Raises `TimeoutError` if it does not end."""
        self._key, self._current, self._next_key = None, None, None
        running, self._next = self._next, None
        if running is not None:
            running.cancel(CLOSE_TIMEOUT_S)

    def _finish(self, key: Key) -> PackedSequences:
        """Return what the thread made, if it made this window."""
        if self._next is None or self._next_key != key:
            self.close()
            return self._prepare(key, threading.Event())
        running, self._next, self._next_key = self._next, None, None
        return running.result(PREPARE_TIMEOUT_S)

    def _begin(self, key: Key) -> None:
        self._next_key = key
        self._next = BackgroundCall(lambda cancelled: self._prepare(key, cancelled), name=f"pages of window {key[1]}")
        self._next.start()


class PagesDataset(IterableDataset[dict[str, Tensor]]):
    """The sequences of a window's pages: {input_ids (L,), labels (L,), num_bytes ()}, see `packing`.

    Before the first `begin_window` it stands at window 0 of uid 0, so that it is an ordinary dataset to those who know
    no windows. Several workers of a loader give the same batches in the same order as none: each makes every
    n-th batch. Each tokenizes the whole window, because documents run on from sequence to sequence: more than
    one worker is seldom of use.
    """

    def __init__(
        self, pages: PageSet, tokenizer: Tokenizer, config: PagesConfig, *, prepares_next: bool = True
    ) -> None:
        """Store the arguments.

        Args:
            pages: at least config.pages_per_window training pages.
            tokenizer: the one that config names.
            config: how many pages, how long sequences and batches are. The loader must use the same batch size.
            prepares_next: whether the next window of the same uid is prepared while one is in use.
        """
        super().__init__()
        self._pages, self._tokenizer, self._config = pages, tokenizer, config
        self._prepares_next = prepares_next
        # Workers of a loader live through many windows and see nothing of this process but shared memory.
        self._assigned = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._shelf = WindowShelf(self._pack, prepares_next=prepares_next)

    def begin_window(self, uid: Uid, window: Window) -> bytes:
        """Let the next iterations yield the pages that belong to (uid, window); return their 32-byte digest."""
        self._assigned[0], self._assigned[1] = uid, window
        return pages_digest(self._page_numbers((uid, window)), self._pages.digest)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the sequences of the window that began last."""
        uid, window = self._assigned.tolist()
        return self._sequences((uid, window))

    def close(self) -> None:
        """Stop preparing and wait for the thread; a later iteration starts anew."""
        self._shelf.close()

    def _sequences(self, key: Key) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        total, size = len(self._shelf.take(key)), self._config.batch_size
        for first in range(number * size, total, workers * size):
            for index in range(first, min(first + size, total)):
                # Asking the shelf each time keeps no third window alive when an iteration is given up half-way.
                if not self._shelf.holds(key):
                    raise RuntimeError(
                        f"the iteration of (uid, window) {key} went on after it was closed or a newer one had begun"
                    )
                yield self._shelf.take(key)[index]

    def _page_numbers(self, key: Key) -> list[int]:
        uid, window = key
        count = self._config.pages_per_window
        return next_pages(window * count, count, uid, self._pages.num_training_pages)

    def _pack(self, key: Key, cancelled: threading.Event) -> PackedSequences:
        return pack_pages(self._pages, self._page_numbers(key), self._tokenizer, self._config, cancelled=cancelled)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_shelf"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shelf = WindowShelf(self._pack, prepares_next=self._prepares_next)


def pack_pages(
    pages: PageSet,
    numbers: Sequence[int],
    tokenizer: Tokenizer,
    config: PagesConfig,
    *,
    cancelled: threading.Event | None = None,
) -> PackedSequences:
    """Read pages, in the order given, tokenize them and pack all their documents.

    Raises:
        ConfigError: a file can no longer be read.
        InterruptedError: `cancelled` was set before the last page.
    """
    documents: list[list[int]] = []
    num_bytes: list[int] = []
    for number in numbers:
        if cancelled is not None and cancelled.is_set():
            raise InterruptedError("nobody wants these pages any more")
        texts = pages.read(number)
        documents += tokenizer.encode(texts)
        num_bytes += [len(text.encode()) for text in texts]
    return pack_documents(
        documents,
        num_bytes=num_bytes,
        sequence_length=config.sequence_length,
        end_of_text=tokenizer.end_of_text,
        pad=tokenizer.pad,
    )
