"""Tests on real files; skipped unless BERT_LIGHTNING_DATA is set."""

import json
from collections import Counter
from itertools import accumulate, islice

import pytest
import transformers

from bert_lightning.data.corpus.documents import CorpusFormat, detect_layout, read_passages
from bert_lightning.data.pretraining.published_generator import GoogleSettings, google_instances
from bert_lightning.data.reading.sources import CORPUS_SUFFIXES, find_sources
from bert_lightning.data.reading.tables import column, read_rows
from bert_lightning.text.encoding import CachingEncoder
from bert_lightning.text.original import OriginalEncoding
from bert_lightning.text.wordpiece import load_tokenizer

pytestmark = pytest.mark.real_data


def test_every_novel_is_read_as_running_text_and_the_original_sample_as_sentences(real_data):
    novels = find_sources([str(real_data / "novels")], CORPUS_SUFFIXES)
    assert len(novels) == 60
    assert {detect_layout(novel) for novel in novels} == {"paragraphs"}
    assert detect_layout(str(real_data / "golden/google_sample_text.txt")) == "sentences"


def test_no_word_of_a_hard_wrapped_novel_is_lost(real_data):
    path = real_data / "novels/Hardy_Jude_1895.txt"
    segments = [s for passage in read_passages(str(path), CorpusFormat()) for s in passage.segments]
    assert " ".join(segments).split() == path.read_text(encoding="utf-8").split()
    # Lines are joined to paragraphs.
    assert max(map(len, segments)) > 500


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
        passage = next(read_passages(str(real_data / f"novels/{novel}.txt"), CorpusFormat()))
        texts = list(islice(passage.segments, 300))
        expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
        assert ours.encode_batch(texts) == expected


def test_few_words_of_the_novels_are_unknown(real_data):
    tokenizer = load_tokenizer(real_data / "vocab/bert-base-uncased.txt")
    segments = [
        segment
        for passage in read_passages(str(real_data / "novels/Woolf_Night_1919.txt"), CorpusFormat())
        for segment in passage.segments
    ]
    counts = Counter(token for ids in tokenizer.encode_batch(segments) for token in ids)
    assert counts[tokenizer.unknown_id] / sum(counts.values()) < 1e-4


def test_google_mode_equals_the_original_generator(real_data):
    entries = load_tokenizer(real_data / "vocab/bert-base-uncased.txt").entries
    text = str(real_data / "golden/google_sample_text.txt")
    lines = google_instances([text], OriginalEncoding(entries, True), entries, GoogleSettings(dupe_factor=5))
    golden = real_data / "golden/google_instances_seq128_pred20_dupe5_seed12345_short0.1.jsonl"
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in golden.read_text().splitlines()]


def test_remembered_words_are_encoded_as_whole_sentences_are(real_data):
    tokenizer = load_tokenizer(real_data / "vocab/bert-base-uncased.txt")
    passages = read_passages(str(real_data / "novels/Doyle_Hound_1902.txt"), CorpusFormat())
    texts = [segment for passage in passages for segment in passage.segments]
    ids, ends = CachingEncoder(tokenizer).encode(texts)
    expected = tokenizer.encode_batch(texts)
    assert ids.tolist() == [token for one in expected for token in one]
    assert ends.tolist() == list(accumulate(map(len, expected)))
