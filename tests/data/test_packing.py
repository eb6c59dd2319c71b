"""Documents to sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.data.packing import IGNORED_LABEL, PackedSequences, pack_documents

END, PAD = 256, 257
documents_of_bytes = st.lists(st.lists(st.integers(0, 255), max_size=30), max_size=12)


def packed(documents: list[list[int]], length: int, *, end_of_text: int = END, pad: int = PAD) -> PackedSequences:
    sizes = [len(document) for document in documents]
    return pack_documents(documents, num_bytes=sizes, sequence_length=length, end_of_text=end_of_text, pad=pad)


@given(documents_of_bytes, st.integers(1, 40))
def test_all_tokens_but_padding_are_the_documents_with_one_end_of_text_after_each(
    documents: list[list[int]], length: int
) -> None:
    sequences = packed(documents, length)

    tokens = sequences.input_ids[sequences.labels != IGNORED_LABEL].tolist()
    assert tokens == [token for document in documents for token in [*document, END]]


@given(documents_of_bytes, st.integers(1, 40))
def test_only_the_end_of_the_last_sequence_is_padding(documents: list[list[int]], length: int) -> None:
    sequences = packed(documents, length)

    tokens = sequences.input_ids.flatten().tolist()
    total = sum(len(document) + 1 for document in documents)
    assert PAD not in tokens[:total]
    assert set(tokens[total:]) <= {PAD}
    assert len(tokens) - total < length
    assert sequences.input_ids.shape == (len(sequences), length)


@given(documents_of_bytes, st.integers(1, 40), st.sampled_from([PAD, END]))
def test_labels_are_the_inputs_except_at_padding_even_if_padding_is_end_of_text(
    documents: list[list[int]], length: int, pad: int
) -> None:
    sequences = packed(documents, length, pad=pad)

    labels = sequences.labels.flatten().tolist()
    inputs = sequences.input_ids.flatten().tolist()
    total = sum(len(document) + 1 for document in documents)
    assert labels == inputs[:total] + [IGNORED_LABEL] * (len(inputs) - total)
    assert labels.count(END) == len(documents)


@given(documents_of_bytes, st.integers(1, 40))
def test_with_one_token_a_byte_the_bytes_are_the_predicted_bytes(documents: list[list[int]], length: int) -> None:
    sequences = packed(documents, length)

    expected = [sum(token < 256 for token in row[1:]) for row in sequences.labels.tolist()]
    predicted_pads = [row[1:].count(IGNORED_LABEL) for row in sequences.labels.tolist()]
    assert [size + pads for size, pads in zip(sequences.num_bytes.tolist(), predicted_pads, strict=True)] == expected


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(0, 200)), max_size=8))
def test_the_bytes_of_a_document_add_up_whatever_its_tokens(drawn: list[tuple[list[int], int]]) -> None:
    documents = [[7, *document] for document, _ in drawn]
    sizes = [size for _, size in drawn]

    one_row = pack_documents([[], *documents], num_bytes=[0, *sizes], sequence_length=500, end_of_text=END, pad=PAD)

    assert one_row.num_bytes.tolist() == [sum(sizes)]


def test_a_long_document_runs_on_into_the_next_sequence() -> None:
    sequences = packed([[1, 2, 3, 4, 5], [6]], 4)

    assert sequences.input_ids.tolist() == [[1, 2, 3, 4], [5, END, 6, END]]


def test_a_sequence_is_given_out_with_its_labels_and_bytes() -> None:
    sequences = packed([[1, 2, 3, 4, 5]], 4)

    sequence = sequences[1]

    assert sequence["input_ids"].tolist() == [5, END, PAD, PAD]
    assert sequence["labels"].tolist() == [5, END, IGNORED_LABEL, IGNORED_LABEL]
    assert sequence["num_bytes"].item() == 0


def test_no_documents_are_no_sequences() -> None:
    assert packed([], 8).input_ids.shape == (0, 8)


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="sequence_length must be at least 1, got 0"):
        packed([[1]], 0)
    with pytest.raises(ValueError, match=r"one size per document \(1\), got 2"):
        pack_documents([[1]], num_bytes=[1, 2], sequence_length=4, end_of_text=END, pad=PAD)
