import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.data.datasets.examples import RelationExample
from bert_lightning.errors import InputError
from bert_lightning.tasks.relation_classification.data import MARKERS, EncodedRelations, with_markers
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer


@pytest.fixture(scope="module")
def marked(tokenizer):
    """The tokenizer with markers."""
    return WordPieceTokenizer(with_markers(tokenizer.vocabulary))


def encode(marked, text, first, second, length=40, label=None):
    example = RelationExample("here", "1", text, first, second, label)
    return EncodedRelations([example], marked, RelationClassificationData(max_seq_length=length), ["a", "b"])


def test_markers_come_after_all_other_entries_and_only_once(tokenizer, marked):
    assert marked.entries[: len(tokenizer)] == tokenizer.entries
    assert marked.entries[len(tokenizer) :] == MARKERS
    assert with_markers(marked.vocabulary).entries == marked.entries


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((4, 7), (17, 20), "the [E1] cat [/E1] sees the [E2] dog [/E2] ."),
        ((17, 20), (4, 7), "the [E2] cat [/E2] sees the [E1] dog [/E1] ."),
        # Entities may lie in each other, begin or end together, or touch.
        ((4, 12), (8, 12), "the [E1] cat [E2] sees [/E2] [/E1] the dog ."),
        ((4, 7), (4, 12), "the [E2] [E1] cat [/E1] sees [/E2] the dog ."),
        ((4, 7), (7, 12), "the [E1] cat [/E1] [E2] sees [/E2] the dog ."),
    ],
)
def test_markers_stand_around_their_entities(marked, first, second, expected):
    split = encode(marked, "The cat sees the dog.", first, second)
    batch = split.batch(np.array([0]))
    ids = batch["input_ids"][0].tolist()
    tokens = [marked.entries[i] for i in ids[1 : batch["num_tokens"] - 1]]
    assert " ".join(tokens) == expected
    assert [marked.entries[ids[position]] for position in batch["entity_positions"][0]] == ["[E1]", "[E2]"]


@settings(max_examples=100)
@given(
    before=st.integers(0, 30),
    one=st.integers(1, 30),
    between=st.integers(0, 30),
    other=st.integers(1, 30),
    after=st.integers(0, 30),
    length=st.integers(8, 40),
)
def test_both_entities_survive_any_cut(marked, before, one, between, other, after, length):
    pieces = ["the " * before, "cat " * one, "sees " * between, "dog " * other, "the " * after]
    starts = np.cumsum([0, *map(len, pieces)]).tolist()
    split = encode(marked, "".join(pieces), (starts[1], starts[2]), (starts[3], starts[4]), length)
    tokens = [marked.entries[i] for i in split.pieces[0]]
    assert len(tokens) + 2 <= length
    assert len(tokens) + 2 >= min(length, before + one + between + other + after + 6)
    assert [token for token in tokens if token in MARKERS] == list(MARKERS)
    assert "cat" in tokens
    assert "dog" in tokens
    assert [tokens[position - 1] for position in split.positions[0]] == ["[E1]", "[E2]"]


def test_a_relation_that_training_lacks_is_named(marked):
    with pytest.raises(InputError, match="here: the label 'c' does not occur in training; known: a, b"):
        encode(marked, "The cat sees the dog.", (4, 7), (17, 20), label="c")
