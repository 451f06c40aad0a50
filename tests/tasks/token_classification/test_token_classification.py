import logging
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import CONLLU_SUFFIXES, read_tagged, word_location
from bert_lightning.errors import InputError
from bert_lightning.model.losses import IGNORED
from bert_lightning.tasks.token_classification.data import EncodedWords, TokenClassificationDataModule
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
from bert_lightning.tasks.token_classification.tag_schemes import all_tags
from bert_lightning.tasks.token_classification.task import TokenClassificationTask
from bert_lightning.tasks.token_classification.windows import cut_sentence

LABELS = all_tags(["animals", "places"], "IOB2")
WORDS = ["cat", "dog", "house", "housecatriverdog", "\x01", "The", "river", "x" * 300]


def encode(words, tokenizer, tags=None, documents=None, training=False, **changes):
    changes = {"max_seq_length": 16, "window_overlap": 4} | changes
    data = TokenClassificationData(**changes)
    documents = documents or [0] * len(words)
    examples = [TaggedSentence(f"s{n}", w, tags[n] if tags else None, documents[n]) for n, w in enumerate(words)]
    return EncodedWords(examples, tokenizer, data, LABELS, training=training)


@settings(max_examples=60)
@given(
    words=st.lists(st.lists(st.sampled_from(WORDS), max_size=30), min_size=1, max_size=4), context=st.integers(0, 9)
)
def test_every_word_is_answered_once_and_no_window_is_too_long(tokenizer, words, context):
    split = encode(words, tokenizer, document_context=context)
    seen = {number: [] for number in range(len(words))}
    for window in split.windows:
        seen[window.sentence] += window.words
        assert len(window.pieces) <= 14
        for word, position in zip(window.words, window.positions, strict=True):
            expected = tokenizer.encode_batch([words[window.sentence][word]])[0][:14] or [tokenizer.unknown_id]
            length = window.num_pieces[word - window.words.start]
            assert window.pieces[position - 1 : position - 1 + length] == expected
    assert all(seen[number] == list(range(len(words[number]))) for number in seen)


@settings(max_examples=200)
@given(lengths=st.lists(st.integers(1, 10), min_size=3, max_size=60), overlap=st.integers(0, 5))
def test_a_word_belongs_to_the_window_with_most_context(lengths, overlap):
    ends = np.cumsum(lengths)
    starts = ends - lengths
    windows = list(cut_sentence(starts, ends, 12, overlap))
    assert all(ends[shown[-1]] - starts[shown[0]] <= 12 for shown, _ in windows)

    def smaller_context(word, shown):
        return min(starts[word] - starts[shown[0]], ends[shown[-1]] - ends[word])

    for shown, answered in windows:
        for word in answered:
            contexts = [smaller_context(word, each) for each, _ in windows if word in each]
            assert smaller_context(word, shown) == max(contexts)


def test_context_is_of_the_same_document_and_is_not_labelled(tokenizer):
    words = [["cat"], ["dog"], ["bird"], ["house"]]
    tags = [["B-animals"], ["O"], ["B-animals"], ["B-places"]]
    split = encode(words, tokenizer, tags, documents=[1, 1, 1, 2], document_context=5)
    ids = {word: tokenizer.encode_batch([word])[0] for word in ("cat", "dog", "bird", "house")}
    assert split.windows[1].pieces == [*ids["cat"], *ids["dog"], *ids["bird"]]
    assert split.windows[3].pieces == ids["house"]
    batch = split.batch(np.array([1]))
    assert batch["labels"].tolist() == [[LABELS.index("O")]]
    assert batch["input_ids"][0, batch["positions"][0, 0]] == ids["dog"][0]


def test_labels_are_at_first_pieces_and_a_window_that_cuts_a_span_starts_a_new_one(tokenizer):
    words = [["cat"] * 40]
    tags = [["B-animals", *["I-animals"] * 39]]
    split = encode(words, tokenizer, tags, training=True)
    assert len(split.windows) > 2
    for number, window in enumerate(split.windows):
        batch = split.batch(np.array([number]))
        labels = [LABELS[label] for label in batch["labels"][0].tolist()]
        assert labels == ["B-animals", *["I-animals"] * (len(window.words) - 1)]
        assert batch["positions"][0].tolist() == window.positions


def test_label_all_pieces_trains_every_piece(tokenizer):
    word = "housecatriverdog"
    number = len(tokenizer.encode_batch([word])[0])
    assert 1 < number < 14
    split = encode(
        [[word, "cat"]], tokenizer, [["B-animals", "O"]], training=True, label_all_pieces=True, max_seq_length=32
    )
    labels = split.batch(np.array([0]))["labels"][0].tolist()
    assert [LABELS[label] for label in labels] == ["B-animals", *["I-animals"] * (number - 1), "O"]
    scored = encode([[word, "cat"]], tokenizer, [["B-animals", "O"]], label_all_pieces=True, max_seq_length=32)
    assert scored.batch(np.array([0]))["labels"].shape == (1, 2)


def module(tmp_path, tokenizer, train, validation=None, **changes):
    (tmp_path / "train.conll").write_text(train)
    (tmp_path / "validation.conll").write_text(validation or train)
    paths = {split: str(tmp_path / f"{split}.conll") for split in ("train", "validation")}
    return TokenClassificationDataModule(TokenClassificationData(**paths, **changes), tokenizer)


def test_files_of_any_scheme_train_the_same_model(tmp_path, tokenizer):
    iob1 = "cat I-A\ndog I-A\ncat B-A\n\nthe O\nhouse I-B\n"
    bioes = "cat B-A\ndog E-A\ncat S-A\n\nthe O\nhouse S-B\n"
    batches = []
    for text in (iob1, bioes):
        data = module(tmp_path, tokenizer, text)
        assert data.labels == ["O", "B-A", "I-A", "B-B", "I-B"]
        batches.append(data.splits["train"].batch(np.array([0, 1]))["labels"].tolist())
    assert batches[0] == batches[1] == [[1, 2, 1], [0, 3, IGNORED]]


def test_broken_tags_are_counted_or_refused_with_file_and_line(tmp_path, tokenizer, caplog):
    text = "the O\ncat B-A\n\nthe O\ndog I-A\n"
    with caplog.at_level(logging.WARNING):
        module(tmp_path, tokenizer, text)
    assert "train.conll" in caplog.text
    assert "'I-A' of 'dog' breaks the scheme IOB2; 1 sentence in all" in caplog.text
    with pytest.raises(InputError, match=r"train\.conll.*line 5.*'I-A'"):
        module(tmp_path, tokenizer, text, broken_tags="error")


def test_types_that_training_lacks_are_counted_and_stay_gold(tmp_path, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        data = module(tmp_path, tokenizer, "cat B-A\n", "cat B-A\nhouse B-Z\n")
    assert "'Z' does not occur in training; 1 gold label of validation like this cannot be found" in caplog.text
    assert data.splits["validation"].batch(np.array([0]))["labels"].tolist() == [[1, IGNORED]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat O\n", "no tag except O"),
        ("", "no examples"),
        ("cat\n", "line 1: this sentence has no tag"),
    ],
)
def test_an_unusable_training_file_is_named(tmp_path, tokenizer, text, message):
    with pytest.raises(InputError, match=message):
        module(tmp_path, tokenizer, text)


def test_a_validation_file_without_tags_is_refused_with_its_line(tmp_path, tokenizer):
    with pytest.raises(InputError, match=r"validation\.conll: line 1: this sentence has no tag; data"):
        module(tmp_path, tokenizer, "cat B-A\n", "cat\n")


def test_parts_of_speech_keep_their_own_labels(tmp_path, tokenizer):
    data = module(tmp_path, tokenizer, "the DET\ncat NOUN\n")
    assert data.labels == ["DET", "NOUN"]
    assert not data.spans


def test_one_tag_that_marks_no_span_is_named_and_all_may_be_plain_labels(tmp_path, tokenizer):
    text = "the O\ncat B-A\n\nthe o\ndog B-A\n"
    with pytest.raises(InputError, match=r"train\.conll.*the tag 'o' of 'the' marks no span, though others do"):
        module(tmp_path, tokenizer, text)
    data = module(tmp_path, tokenizer, text, source_scheme="none")
    assert data.labels == ["B-A", "O", "o"]
    assert not data.spans


def test_letters_without_types_are_spans_of_one_type(tmp_path, tokenizer, caplog):
    text = "cat B\ndog I\nthe O\n\nhousecatriverdog B\nthe O\nthe O\nthe O\n"
    for scheme in ("auto", "IOB2"):
        data = module(tmp_path, tokenizer, text, source_scheme=scheme, label_all_pieces=True)
        assert (data.labels, data.spans, data.tag_scheme) == (["O", "B", "I"], True, "IOB2")
        labels = data.splits["train"].batch(np.array([1]))["labels"].tolist()[0]
        assert labels[0] == 1
        assert set(labels[1:-3]) == {2}
        assert labels[-3:] == [0, 0, 0]
    assert not caplog.text
    data = module(tmp_path, tokenizer, text, tag_scheme="BIOES")
    assert data.labels == ["O", "B", "I", "E", "S"]


@pytest.mark.parametrize(
    ("tags", "line", "message"),
    [
        (
            "B-PER 0 0 0",
            2,
            "the tag '0' of 'w1' marks no span, though others do, such as 'B-PER'; the nearest tag is 'O'",
        ),
        ("O B_PER O", 2, "the tag 'B_PER' of 'w1' marks no span; the nearest tag is 'B-PER'"),
        ("O PER-B PER-I", 2, "the nearest tag is 'B-PER'"),
        ("O B-PER I", 3, "the tag 'I' of 'w2' has no type, unlike 'B-PER'"),
        ("O B-PER E-PER U-PER", 4, "the tag 'U-PER' of 'w3' is of BILOU, but others are of BIOES"),
        ("NOUN VERB B-PER", 1, "the tag 'NOUN' of 'w0' marks no span, though others do, such as 'B-PER'"),
    ],
)
def test_a_tag_nearly_of_a_scheme_is_refused_with_its_line_and_nearest_reading(
    tmp_path, tokenizer, tags, line, message
):
    text = "".join(f"w{number} {tag}\n" for number, tag in enumerate(tags.split()))
    with pytest.raises(InputError, match=rf"train\.conll: line {line}: ") as error:
        module(tmp_path, tokenizer, text)
    assert message in str(error.value)
    assert "set data.source_scheme to none" in str(error.value)
    assert not module(tmp_path, tokenizer, text, source_scheme="none").spans


@pytest.mark.parametrize("suffix", [".conll", ".bio", *CONLLU_SUFFIXES])
def test_every_column_file_that_training_reads_is_a_column_file_for_predictions(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    row = "1\tcat\t_\tNOUN\n" if suffix in CONLLU_SUFFIXES else "cat NOUN\n"
    path.write_text(row)
    [row] = TokenClassificationTask.read_raw(SimpleNamespace(settings=TokenClassificationData()), str(path))
    assert row.values["tokens"] == ["cat"]


def test_the_line_of_a_tag_counts_comments_ranges_and_rows(tmp_path):
    path = tmp_path / "x.conllu"
    path.write_text("# text = a\n1-2\tab\t_\t_\n1\ta\t_\tDET\n2\tb\t_\tNOUN\n2.1\tc\t_\tX\n3\td\t_\tVERB\n")
    [sentence] = read_tagged(str(path))
    assert [word_location(sentence, word) for word in range(3)] == [f"{path}: line {line}" for line in (3, 4, 6)]
    assert word_location(pickle.loads(pickle.dumps(sentence)), 2) == f"{path}: line 6"
    path = tmp_path / "x.jsonl"
    path.write_text('{"tokens": ["a", "b"], "tags": ["O", "O"]}\n')
    assert word_location(next(read_tagged(str(path))), 1) == f"{path}: line 1: word 2"


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ("cat B-A\n", "cat O\ndog B\n", r"validation\.conll: line 2: the tag 'B' of 'dog' has no type, unlike 'B-A'"),
        ("cat B\ndog O\n", "cat B-A\n", r"validation\.conll: line 1: the tag 'B-A' of 'cat' has a type, unlike 'B'"),
        (
            "cat NOUN\ndog DET\n",
            "cat NOUN\ndog B-A\n",
            r"validation\.conll: line 1: the tag 'NOUN' of 'cat' marks no",
        ),
        (
            "cat NOUN\ndog DET\n",
            "cat O\ndog B-A\n",
            r"validation\.conll: line 2: .*'B-A' of 'dog' marks a span, but .*DET",
        ),
        ("cat B-A\n", "cat NOUN\n", r"validation\.conll: line 1: the tag 'NOUN' of 'cat' marks no span"),
        ("cat B-A\n", "cat 0\n", r"validation\.conll: line 1: the tag '0' .* the nearest tag is 'O'"),
    ],
)
def test_files_of_two_kinds_of_tags_are_refused(tmp_path, tokenizer, train, validation, message):
    with pytest.raises(InputError, match=message):
        module(tmp_path, tokenizer, train, validation)


def test_a_saved_model_refuses_tags_of_another_kind_than_its_labels(tmp_path, tokenizer):
    path = tmp_path / "test.conll"

    def read_test(text, labels):
        path.write_text(text)
        return TokenClassificationDataModule(
            TokenClassificationData(test=str(path)), tokenizer, labels=labels, split="test"
        )

    assert read_test("cat S-A\n", ["O", "B-A", "I-A"]).spans
    assert read_test("cat B\n", ["O", "B", "I"]).spans
    # The labels of a model that was trained on letters as plain labels.
    assert not read_test("cat B\n", ["B", "I", "O"]).spans
    with pytest.raises(InputError, match=r"line 1: the tag 'B_A' of 'cat' marks no span, .*'B-A'"):
        read_test("cat B_A\n", ["O", "B-A", "I-A"])
    with pytest.raises(InputError, match="line 1: the tag 'B-A' of 'cat' marks a span, but"):
        read_test("cat B-A\n", ["DET", "NOUN"])
    with pytest.raises(InputError, match="line 1: the tag 'B' of 'cat' has no type"):
        read_test("cat B\n", ["O", "B-A", "I-A"])


def test_files_of_two_schemes_are_warned_about_and_each_is_read_by_its_own_scheme(tmp_path, tokenizer, caplog):
    data = module(tmp_path, tokenizer, "cat B-A\ndog I-A\ncat B-A\n", "cat S-A\ndog S-A\nthe O\n")
    assert "validation.conll: line 1: the tags follow BIOES, but those of " in caplog.text
    assert "follow IOB2; each split is read by its own scheme" in caplog.text
    assert "breaks" not in caplog.text
    assert data.splits["validation"].batch(np.array([0]))["labels"].tolist() == [[1, 1, 0]]
    caplog.clear()
    # A file that follows both schemes is of no other scheme.
    module(tmp_path, tokenizer, "cat B-A\ndog E-A\ncat S-A\n", "the O\n")
    module(tmp_path, tokenizer, "cat I-A\ndog B-A\n", "the O\ncat I-A\n")
    assert not caplog.text


def test_a_small_file_of_iob2_with_a_broken_tag_is_not_taken_for_iob1(tmp_path, tokenizer):
    # Alone, the second file could be IOB1.
    with pytest.raises(InputError, match=r"validation\.conll: line 2: the tag 'I-A' of 'cat' breaks the scheme IOB2"):
        module(tmp_path, tokenizer, "cat B-A\nthe O\n", "the O\ncat I-A\n", broken_tags="error")


def test_types_that_differ_only_in_case_or_look_alike_are_warned_about(tmp_path, tokenizer, caplog):
    module(tmp_path, tokenizer, "cat B-PER\ndog B-per\nthe O\n")
    assert "the types 'PER' and 'per' are similar, but are read as two" in caplog.text
    caplog.clear()
    module(tmp_path, tokenizer, "cat B-PER\ndog B-\u0420ER\nthe O\n")
    assert "are similar" in caplog.text
    caplog.clear()
    module(tmp_path, tokenizer, "cat B-LOC1\ndog B-LOC2\nthe O\n")
    assert not caplog.text


def test_numbers_without_names_are_warned_about_if_spans_are_expected(tmp_path, caplog):
    path = tmp_path / "x.jsonl"
    path.write_text('{"tokens": ["a", "b"], "ner_tags": [0, 3]}\n' * 2)
    assert [each.tags for each in read_tagged(str(path))] == [["0", "3"]] * 2
    assert caplog.text.count("the tags in the column 'ner_tags' are numbers without names") == 1
    caplog.clear()
    path.write_text('{"tokens": ["a", "b"], "tags": [0, 1]}\n')
    list(read_tagged(str(path)))
    assert not caplog.text


def test_letters_that_may_mark_spans_or_not_are_plain_with_a_warning(tmp_path, tokenizer, caplog):
    assert not module(tmp_path, tokenizer, "cat S\nthe O\n").spans
    assert "train.conll: line 1: the tag 'S' of 'cat' could mark a span" in caplog.text
    assert module(tmp_path, tokenizer, "cat S\nthe O\n", source_scheme="BIOES").spans


def test_context_without_documents_is_an_error(tmp_path, tokenizer):
    with pytest.raises(InputError, match=r"train\.conll: no line begins a document"):
        module(tmp_path, tokenizer, "cat B-A\n", document_context=4)
    data = module(tmp_path, tokenizer, "-DOCSTART- O\n\ncat B-A\n\ndog O\n", document_context=4)
    assert data.splits["train"].lengths.tolist() == [4, 4]


def test_words_and_tags_that_were_taken_for_each_other_are_refused_with_the_keys_that_name_them(tmp_path, tokenizer):
    text = "B-A cat\nI-A dog\nO the\n"
    with pytest.raises(InputError, match=r"train.conll: line 1: 'B-A' is read as a word .* data.token_column and"):
        module(tmp_path, tokenizer, text)
    assert module(tmp_path, tokenizer, text, token_column=1, tag_column=0).labels == ["O", "B-A", "I-A"]
    # Words that are letters, next to other words.
    assert module(tmp_path, tokenizer, "I PRON\nB NOUN\nwas VERB\n").labels == ["NOUN", "PRON", "VERB"]


def test_a_training_file_of_o_alone_is_refused_with_any_validation_file(tmp_path, tokenizer):
    with pytest.raises(InputError, match=r"train.conll: line 1: the training file has no tag except O"):
        module(tmp_path, tokenizer, "cat O\n", "cat B-A\n")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_only_a_test_file_may_have_no_tags(tmp_path, tokenizer, split):
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation", "test")}
    for name, path in paths.items():
        row = '{"tokens": ["cat"], "labels": ["B-A"]}' if name == split else '{"tokens": ["cat"], "tags": ["B-A"]}'
        (tmp_path / path).write_text(row + "\n")
    with pytest.raises(InputError, match=rf"{split}.jsonl: line 1: this sentence has no tag; data.tag_column names"):
        TokenClassificationDataModule(TokenClassificationData(**paths), tokenizer)
    settings = TokenClassificationData(test=paths[split])
    tested = TokenClassificationDataModule(settings, tokenizer, labels=["O", "B-A", "I-A"], split="test")
    assert not tested.splits["test"].is_labelled


def test_a_last_column_of_fractions_is_warned_about_as_no_tags(tmp_path, tokenizer, caplog):
    text = "cat B-A 0.91\ndog I-A 0.88\nthe O 0.001\n"
    module(tmp_path, tokenizer, text)
    assert (
        "line 1: the tag '0.91' of 'cat' is a number, as all tags are; set data.tag_column to another" in caplog.text
    )
    caplog.clear()
    module(tmp_path, tokenizer, text, tag_column=1)
    module(tmp_path, tokenizer, "cat 0\ndog 1\n")
    assert not caplog.records


def test_tags_of_spans_in_a_column_before_the_last_are_warned_about(tmp_path, tokenizer, caplog):
    text = "cat B-A NN\ndog I-A NN\nthe O DT\n"
    assert module(tmp_path, tokenizer, text).labels == ["DT", "NN"]
    assert "line 1: the tag 'B-A' of 'cat' marks a span, but the last column, which holds plain" in caplog.text
    assert "set data.tag_column to 1 to read the spans" in caplog.text
    caplog.clear()
    tsv = tmp_path / "train.tsv"
    tsv.write_text(text.replace(" ", "\t"))
    TokenClassificationDataModule(TokenClassificationData(train=str(tsv)), tokenizer)
    assert "set data.tag_column to 1 to read the spans" in caplog.text
    caplog.clear()
    assert module(tmp_path, tokenizer, text, tag_column=1).labels == ["O", "B-A", "I-A"]
    module(tmp_path, tokenizer, text, tag_column=-1)
    module(tmp_path, tokenizer, "1 cat x NN\n2 dog O NN\n", token_column=1)
    assert not caplog.records


@pytest.mark.parametrize("tag", ["B-A|B-C", "B-A;I-C", "B-A,B-C", "B-A/S-C"])
def test_several_tags_in_one_are_warned_about(tmp_path, tokenizer, caplog, tag):
    module(tmp_path, tokenizer, f"the O\ncat {tag}\n")
    assert f"train.conll: line 2: the tag '{tag}' of 'cat' holds several tags" in caplog.text


def test_types_with_hyphens_and_separators_are_single_tags(tmp_path, tokenizer, caplog):
    module(tmp_path, tokenizer, "cat B-A-1\ndog B-I/O\nthe B-first_name\ncat B-B-I\ndog B-web-S-x\n")
    assert not caplog.records
