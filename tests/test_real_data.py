"""What only real files show; skipped where BERT_LIGHTNING_DATA is not set."""

from collections import Counter
from itertools import islice

import pytest
import transformers

from bert_lightning.data.sources import (
    CORPUS_SUFFIXES,
    column,
    detect_layout,
    find_sources,
    read_documents,
    read_rows,
)
from bert_lightning.text.wordpiece import load_tokenizer

pytestmark = pytest.mark.real_data


def test_every_novel_is_read_as_running_text_and_the_original_sample_as_sentences(real_data):
    novels = find_sources([str(real_data / "novels")], CORPUS_SUFFIXES)
    assert len(novels) == 60
    assert {detect_layout(novel) for novel in novels} == {"paragraphs"}
    assert detect_layout(str(real_data / "golden/google_sample_text.txt")) == "sentences"


def test_no_word_of_a_hard_wrapped_novel_is_lost(real_data):
    path = real_data / "novels/Hardy_Jude_1895.txt"
    [document] = read_documents(str(path), "auto", "text")
    assert " ".join(document.segments).split() == path.read_text(encoding="utf-8").split()
    # Joined to paragraphs, not left as lines.
    assert max(map(len, document.segments)) > 500


@pytest.mark.parametrize(
    ("name", "names", "text", "rows"),
    [
        ("SST-2/train.tsv", None, "sentence", 67349),
        ("SST-2/dev.tsv", None, "sentence", 872),
        ("CoLA/train.tsv", ["source", "label", "mark", "sentence"], "sentence", 8551),
        ("RTE/dev.tsv", None, "sentence2", 277),
        ("STS-B/dev.tsv", None, "sentence1", 1500),
    ],
)
def test_glue_tables_have_their_published_number_of_rows(real_data, name, names, text, rows):
    read = list(read_rows(str(real_data / "glue" / name), names))
    assert len(read) == rows
    assert all(column(row, text) for row in read)


@pytest.mark.parametrize("casing", ["uncased", "cased"])
def test_novels_are_encoded_as_transformers_does_with_the_released_vocabularies(real_data, casing):
    vocabulary = real_data / f"vocab/bert-base-{casing}.txt"
    ours = load_tokenizer(vocabulary, cased=casing == "cased")
    theirs = transformers.BertTokenizer(str(vocabulary), do_lower_case=casing == "uncased")
    for novel in ("Doyle_Hound_1902", "Cbronte_Villette_1853", "Lawrence_Serpent_1926"):
        [document] = read_documents(str(real_data / f"novels/{novel}.txt"), "auto", "text")
        texts = list(islice(document.segments, 300))
        expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
        assert ours.encode_batch(texts) == expected


def test_hardly_a_word_of_the_novels_is_unknown(real_data):
    tokenizer = load_tokenizer(real_data / "vocab/bert-base-uncased.txt")
    [document] = read_documents(str(real_data / "novels/Woolf_Night_1919.txt"), "auto", "text")
    counts = Counter(token for ids in tokenizer.encode_batch(document.segments) for token in ids)
    assert counts[tokenizer.unknown_id] / sum(counts.values()) < 1e-4
