"""Pages of text as Lightning's loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from templar_pl.config import PagesConfig
from templar_pl.data.embedded import TEXT_COLUMN, embedded_folder, ensure_embedded
from templar_pl.data.page_set import PageSet, PageSetConfig, count_training_pages, open_page_set
from templar_pl.data.tokenizers import Tokenizer, load_tokenizer
from templar_pl.data.windowed import PagesDataset, pack_pages
from templar_pl.errors import ConfigError

T_co = TypeVar("T_co", covariant=True)

EMBEDDED = PageSetConfig()
"""The source files of the Python standard library."""

WORKER_TIMEOUT_S = 600.0  # a worker tokenizes a whole window before its first batch


class _Cut(TypedDict):
    """How a page set is cut, as `open_page_set` takes it."""

    text_column: str
    rows_per_page: int
    num_validation_pages: int
    min_training_pages: int


class TemplarDataModule(LightningDataModule):
    """Text of a page set: training pages by window, held-out pages for `validate` and `test`, prompts for `predict`.

    The training loader's dataset is a `WindowedDataset`: the strategy tells it each window. Under any other strategy
    it stays at the pages of window 0 of uid 0.
    """

    def __init__(
        self,
        pages: PagesConfig,
        page_set: PageSetConfig = EMBEDDED,
        *,
        num_workers: int = 0,
        prompts: str | None = None,
    ) -> None:
        """Store the settings; nothing is read before `prepare_data`.

        Args:
            pages: tokenizer, lengths, and how many pages a window has.
            page_set: which text there is and how it is cut into pages.
            num_workers: processes that tokenize training pages, at least 0. The next window is prepared in the
                background either way; one process keeps a slow tokenizer from slowing down training.
            prompts: text file for `predict`, one prompt a line, UTF-8.

        Raises:
            ConfigError: num_workers is negative.
        """
        super().__init__()
        if num_workers < 0:
            raise ConfigError(f"num_workers must be at least 0, got {num_workers}")
        self._config, self._source = pages, page_set
        self._num_workers, self._prompts = num_workers, prompts
        self._pages: PageSet | None = None
        self._tokenizer: Tokenizer | None = None
        self._training: PagesDataset | None = None

    def prepare_data(self) -> None:
        """Build the page set of the standard library, or the manifest of a folder, once on each machine."""
        self._open()

    def look(self) -> int | None:
        """Return how many pages there are to train on; None if their set is built on first use. Nothing is written.

        Raises:
            ConfigError: as `setup`, but for damage inside the files.
        """
        source = self._source
        if source.folder is None:
            folder = embedded_folder(Path(source.cache), rows_per_page=source.rows_per_page)
            if not folder.is_dir():
                return None
        else:
            folder = Path(source.folder)
        return count_training_pages(folder, **self._cut())

    def setup(self, stage: str) -> None:
        """Open what the stage needs. Raises `ConfigError` for settings that do not fit the data."""
        if stage == "predict":
            self._read_prompts()
            return
        self._pages, self._tokenizer = self._open(), load_tokenizer(self._config.tokenizer_name)
        if stage == "fit":
            self._training = PagesDataset(self._pages, self._tokenizer, self._config)

    def teardown(self, stage: str) -> None:
        """Stop the background thread and close the files."""
        if self._training is not None:
            self._training.close()
        if self._pages is not None:
            self._pages.close()
        self._training, self._pages, self._tokenizer = None, None, None

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of {input_ids (B, L), labels (B, L), num_bytes (B,)} of the window that has begun."""
        if self._training is None:
            raise RuntimeError("call setup('fit') before train_dataloader()")
        return DataLoader(
            self._training,
            batch_size=self._config.batch_size,
            num_workers=self._num_workers,
            # A forked worker would inherit the locks that a background thread of this process holds at that moment.
            multiprocessing_context="spawn" if self._num_workers else None,
            persistent_workers=self._num_workers > 0,  # their background thread lives from window to window
            timeout=WORKER_TIMEOUT_S if self._num_workers > 0 else 0,
        )

    def any_window_dataloader(self) -> DataLoader[Any]:
        """Return batches like those of training, of whichever (uid, window) its dataset is told to begin.

        For whoever looks at the pages of many nodes, such as a validator; nothing is prepared ahead.
        """
        if self._pages is None or self._tokenizer is None:
            raise RuntimeError("call setup('fit') before any_window_dataloader()")
        dataset = PagesDataset(self._pages, self._tokenizer, self._config, prepares_next=False)
        return DataLoader(dataset, batch_size=self._config.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the held-out pages, packed and batched like those of training."""
        if self._pages is None or self._tokenizer is None:
            raise RuntimeError("call setup('fit'), setup('validate') or setup('test') first")
        packed = pack_pages(self._pages, self._pages.validation_pages, self._tokenizer, self._config)
        return DataLoader(_Indexed(packed), batch_size=self._config.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the held-out pages, the same as for validation: nothing is chosen by them."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return batches of prompts, as lists of strings."""
        return DataLoader(_Indexed(self._read_prompts()), batch_size=self._config.batch_size)

    def _open(self) -> PageSet:
        """Open the page set, built first if that was not done on this machine yet."""
        source = self._source
        if source.folder is None:
            folder = ensure_embedded(Path(source.cache), rows_per_page=source.rows_per_page)
        else:
            folder = Path(source.folder)
        return open_page_set(folder, **self._cut())

    def _cut(self) -> _Cut:
        """Return how the page set is cut into pages."""
        source = self._source
        return {
            "text_column": TEXT_COLUMN if source.folder is None else source.text_column,
            "rows_per_page": source.rows_per_page,
            "num_validation_pages": source.num_validation_pages,
            "min_training_pages": self._config.pages_per_window,
        }

    def _read_prompts(self) -> list[str]:
        """Return the lines of the prompt file. Raises `ConfigError` if there are none."""
        if self._prompts is None:
            raise ConfigError("predict needs prompts: set prompts to a text file with one prompt a line")
        try:
            prompts = Path(self._prompts).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read the prompts in {self._prompts} ({error}); give a UTF-8 text file"
            ) from error
        if not prompts:
            raise ConfigError(f"{self._prompts} holds no prompts; write one a line")
        return prompts


class _Items(Protocol[T_co]):
    """Something that can be counted and indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


class _Indexed(Dataset[T_co]):
    """Items as a dataset of a size that is known, so that several devices may share them out."""

    def __init__(self, items: _Items[T_co]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> T_co:
        return self._items[index]
