"""Documents to sequences of one length, with nothing thrown away.

Shapes: S = sequences, L = tokens a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

IGNORED_LABEL = -100
"""Label of padding; what `torch.nn.functional.cross_entropy` leaves out by default."""


@dataclass(frozen=True, slots=True)
class PackedSequences:
    """Sequences in order. A document that is too long for one runs on in the next."""

    input_ids: Tensor
    """(S, L) int64; only the last sequence may end in padding."""

    labels: Tensor
    """(S, L) int64; the inputs, unshifted, and IGNORED_LABEL at padding. End-of-text is a label like any other."""

    num_bytes: Tensor
    """(S,) int64; bytes of text that are predicted in the sequence: those of all its tokens but the first."""

    def __len__(self) -> int:
        """S."""
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one sequence: input_ids (L,), labels (L,) and num_bytes ()."""
        return {
            "input_ids": self.input_ids[index],
            "labels": self.labels[index],
            "num_bytes": self.num_bytes[index],
        }


def pack_documents(
    documents: Sequence[Sequence[int]],
    *,
    num_bytes: Sequence[int],
    sequence_length: int,
    end_of_text: int,
    pad: int,
) -> PackedSequences:
    """Lay all documents end to end, each followed by one end-of-text, and cut the stream into sequences.

    The last sequence is filled up with padding: every token is trained on in the window that its page belongs to, and
    no window depends on the one before.

    Args:
        documents: tokens of each document; any may be empty.
        num_bytes: UTF-8 bytes of each document.
        sequence_length: L, at least 1.
        end_of_text: token after each document.
        pad: token of padding; may equal end_of_text, since labels go by place.

    Returns:
        ceil(total / L) sequences, where total counts all tokens and one end-of-text a document.

    Raises:
        ValueError: sequence_length is below 1, or num_bytes and documents differ in number.
    """
    if sequence_length < 1:
        raise ValueError(f"sequence_length must be at least 1, got {sequence_length}")
    if len(num_bytes) != len(documents):
        raise ValueError(f"num_bytes must name one size per document ({len(documents)}), got {len(num_bytes)}")
    stream = [np.asarray([*document, end_of_text], dtype=np.int64) for document in documents]
    return PackedSequences(
        input_ids=torch.from_numpy(_cut(stream, sequence_length, pad)),
        labels=torch.from_numpy(_cut(stream, sequence_length, IGNORED_LABEL)),
        num_bytes=torch.from_numpy(_predicted_bytes(documents, num_bytes, sequence_length)),
    )


def _predicted_bytes(documents: Sequence[Sequence[int]], num_bytes: Sequence[int], length: int) -> np.ndarray:
    """Return the (S,) int64 bytes that the predicted tokens of each sequence stand for, which bits per byte need.

    A document's bytes are spread evenly over its tokens in whole numbers that add up exactly; end-of-text stands for
    none. With one token a byte this is exact; otherwise only the boundaries of sequences are approximate.
    """
    sizes = [_spread(size, len(document)) for size, document in zip(num_bytes, documents, strict=True)]
    return _cut(sizes, length, 0)[:, 1:].sum(axis=1)  # (S, L) without the first token of each


def _spread(num_bytes: int, num_tokens: int) -> np.ndarray:
    """Return the bytes of each token of a document, and 0 for its end-of-text."""
    if num_tokens == 0:
        return np.zeros(1, dtype=np.int64)
    passed = np.arange(num_tokens + 1, dtype=np.int64) * num_bytes // num_tokens
    return np.append(np.diff(passed), 0)


def _cut(parts: list[np.ndarray], length: int, fill: int) -> np.ndarray:
    """Join the parts and cut them into rows of `length`, the last one filled up."""
    joined = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
    rows = -(-len(joined) // length)
    cut = np.full(rows * length, fill, dtype=np.int64)
    cut[: len(joined)] = joined
    return cut.reshape(rows, length)
