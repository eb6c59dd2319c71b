"""Text to tokens and back."""

from __future__ import annotations

from typing import Any, Protocol

from templar_pl.errors import ConfigError

BYTES = "bytes"
"""Name of the tokenizer that needs no files."""


class Tokenizer(Protocol):
    """What the package asks of a tokenizer. No end-of-text is added by `encode`; packing puts it between documents."""

    @property
    def end_of_text(self) -> int:
        """The token after each document."""
        ...

    @property
    def pad(self) -> int:
        """The token that fills up a sequence; never learned, because labels leave it out by place."""
        ...

    @property
    def vocab_size(self) -> int:
        """All tokens are in 0..vocab_size - 1."""
        ...

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens, without end-of-text and padding."""
        ...


class ByteTokenizer:
    """One token a UTF-8 byte (0..255), end-of-text 256, padding 257."""

    end_of_text = 256
    pad = 257
    vocab_size = 258

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the UTF-8 bytes of each text."""
        return [list(text.encode()) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """Return the text of bytes; what is no UTF-8 becomes U+FFFD, tokens from 256 on are left out."""
        return bytes(token for token in ids if 0 <= token < 256).decode(errors="replace")


class HubTokenizer:
    """A tokenizer of `transformers`, without its special tokens except end-of-text."""

    def __init__(self, tokenizer: Any) -> None:
        """Use `load_tokenizer`.

        Args:
            tokenizer: a `PreTrainedTokenizerBase` with an end-of-sequence token.
        """
        self._tokenizer = tokenizer
        self.end_of_text: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.vocab_size: int = len(tokenizer)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text; the name of a special token inside a text is ordinary text."""
        if not texts:
            return []
        # verbose=False: documents longer than the model's context are what packing is for.
        encoded = self._tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        return encoded["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens, without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def load_tokenizer(name: str, *, offline: bool = False) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: `bytes`, a folder, or a name on the Hugging Face hub (downloaded once).
        offline: whether to load only what is on this machine already.

    Raises:
        ConfigError: it cannot be loaded, or has no end-of-sequence token.
    """
    if name == BYTES:
        return ByteTokenizer()
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds, and `bytes` does not need it

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=offline)
    except (OSError, ValueError, ImportError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"cannot load the tokenizer {name!r} ({first_line}); set tokenizer_name to `bytes`, to a folder with the "
            "tokenizer's files, or to a name on the Hugging Face hub that this machine can reach"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer {name!r} has no end-of-sequence token, which marks where a document ends; set eos_token "
            "in its tokenizer_config.json, or choose another tokenizer"
        )
    return HubTokenizer(tokenizer)
