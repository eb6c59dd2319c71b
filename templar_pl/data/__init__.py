"""Pages of text, from parquet to packed sequences."""

from templar_pl.data.embedded import embedded_folder, ensure_embedded
from templar_pl.data.packing import IGNORED_LABEL, PackedSequences, pack_documents
from templar_pl.data.page_set import PageSet, PageSetConfig, count_training_pages, open_page_set
from templar_pl.data.tokenizers import Tokenizer, load_tokenizer
from templar_pl.data.windowed import PagesDataset, WindowedDataset, pack_pages

__all__ = [
    "IGNORED_LABEL",
    "PackedSequences",
    "PageSet",
    "PageSetConfig",
    "PagesDataset",
    "Tokenizer",
    "WindowedDataset",
    "count_training_pages",
    "embedded_folder",
    "ensure_embedded",
    "load_tokenizer",
    "open_page_set",
    "pack_documents",
    "pack_pages",
]
