"""Text to tokens and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from templar_pl.data.tokenizers import Tokenizer, load_tokenizer
from templar_pl.errors import ConfigError

TEXTS = ["def f(x):\n    return x + 1\n", "import os\n", "the quick brown fox </s> jumps", "ünïcode 𝄞"]


def train_tokenizer(folder: Path, **specials: str) -> None:
    """Train a small byte-pair tokenizer and save it as transformers does."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=sorted(specials.values()), initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXTS * 5, trainer)
    PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=8, **specials).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, eos_token="</s>", pad_token="<pad>")  # noqa: S106 - not a password
    return folder


@given(st.text())
def test_bytes_are_their_own_tokens(text: str) -> None:
    tokenizer = load_tokenizer("bytes")

    (tokens,) = tokenizer.encode([text])

    assert bytes(tokens) == text.encode()
    assert tokenizer.decode([*tokens, tokenizer.end_of_text, tokenizer.pad]) == text


def test_the_byte_tokenizer_has_258_tokens() -> None:
    tokenizer = load_tokenizer("bytes")

    assert (tokenizer.end_of_text, tokenizer.pad, tokenizer.vocab_size) == (256, 257, 258)


@given(st.lists(st.integers(0, 400)))
def test_any_tokens_decode_to_some_text(tokens: list[int]) -> None:
    load_tokenizer("bytes").decode(tokens).encode()


def test_a_tokenizer_of_transformers_loads_from_its_folder(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))

    encoded = tokenizer.encode(TEXTS)

    assert [tokenizer.decode(tokens) for tokens in encoded] == TEXTS
    assert all(0 <= token < tokenizer.vocab_size for tokens in encoded for token in tokens)
    assert sum(map(len, encoded)) < sum(len(text.encode()) for text in TEXTS)
    assert tokenizer.encode([]) == []


def test_end_of_text_written_out_in_a_document_does_not_end_it(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))

    (tokens,) = tokenizer.encode(["a </s> b <pad>"])

    assert tokenizer.end_of_text not in tokens
    assert tokenizer.pad not in tokens
    assert tokenizer.decode([*tokens, tokenizer.end_of_text]) == "a </s> b <pad>"


def test_end_of_text_and_padding_are_told_apart_where_the_tokenizer_does(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))

    assert tokenizer.end_of_text != tokenizer.pad
    assert tokenizer.decode([tokenizer.end_of_text, tokenizer.pad]) == ""


def test_a_tokenizer_without_padding_pads_with_end_of_text(tmp_path: Path) -> None:
    train_tokenizer(tmp_path, eos_token="</s>")  # noqa: S106 - not a password

    tokenizer: Tokenizer = load_tokenizer(str(tmp_path))

    assert tokenizer.pad == tokenizer.end_of_text


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    train_tokenizer(tmp_path, pad_token="<pad>")  # noqa: S106 - not a password

    with pytest.raises(ConfigError, match=r"no end-of-sequence token.*set eos_token"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot load the tokenizer .*set tokenizer_name to `bytes`"):
        load_tokenizer(str(tmp_path / "nothing"))
