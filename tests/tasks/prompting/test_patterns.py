"""Patterns and verbalisers: what becomes a sequence, what is cut, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.encoding import pair_lengths
from bert_lightning.errors import InputError
from bert_lightning.tasks.prompting.data import EncodedClozes, verbalizer_of
from bert_lightning.tasks.prompting.patterns import kept_lengths, read_pattern
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer

WORDS = ("it", "was", "a", "film", "great", "bad", "good", "##ness", "terri", "##ble", ".", "?", ",", "yes", "no")


@pytest.fixture(scope="module")
def words():
    return WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, *WORDS), lowercase=True))


def text(first, second=None):
    return LabelledText("", first, second, None, "")


def tokens(words, filled):
    """Return the sequence as the model reads it."""
    ids = [words.cls_id, *filled.first, words.sep_id]
    if filled.second is not None:
        ids += [*filled.second, words.sep_id]
    assert [ids[place] for place in filled.masks] == [words.mask_id] * len(filled.masks)
    return " ".join(words.entries[each] for each in ids)


@pytest.mark.parametrize(
    ("pattern", "num_masks", "expected"),
    [
        ("{text} It was {mask}.", 1, "[CLS] a film . it was [MASK] . [SEP]"),
        ("It was {mask}. || {text}", 2, "[CLS] it was [MASK] [MASK] . [SEP] a film . [SEP]"),
        ("{text:open}? || {mask}, {text_pair}", 1, "[CLS] a film ? [SEP] [MASK] , good . [SEP]"),
        ("{mask}: {one} {two:open}", 1, "[CLS] [MASK] [UNK] a film . good [SEP]"),
        ("{mask} {{ {text}", 1, "[CLS] [MASK] [UNK] a film . [SEP]"),
    ],
)
def test_a_pattern_becomes_the_sequence_that_it_reads_like(words, pattern, num_masks, expected):
    read = read_pattern(pattern, ["one", "two"])
    [filled] = read.fill([text("A film.", "Good.")], words, num_masks, 40)
    assert tokens(words, filled) == expected


def test_the_pattern_and_its_masks_survive_texts_of_any_length(words):
    read = read_pattern("{text} It was {mask}. || {text_pair}?", ["one", "two"])
    for length in range(11, 20):
        filled = read.fill([text("a " * 50, "film " * 7), text("", ""), text("a", "film " * 90)], words, 2, length)
        assert [sum(map(len, (each.first, each.second))) + 3 for each in filled][::2] == [length, length]
        for each in filled:
            assert "it was [MASK] [MASK] ." in tokens(words, each)
            assert tokens(words, each).endswith("? [SEP]")
    with pytest.raises(ValueError, match=r"^the pattern alone has 9 pieces, and each field needs one more"):
        read.fill([text("a", "a")], words, 2, 10)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 40))
def test_one_piece_at_a_time_is_removed_from_the_longest_field(lengths, limit):
    expected = list(lengths)
    while sum(expected) > limit:
        # The last one of the longest.
        expected[max(range(len(expected)), key=lambda place: (expected[place], place))] -= 1
    assert kept_lengths(lengths, limit) == expected
    if len(lengths) == 2:
        assert kept_lengths(lengths, limit) == list(pair_lengths(*lengths, limit))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{sentence} It was great.", "has no {mask}; it must have one"),
        ("{mask} {sentence} {mask}", "has 2 {mask}; it must have one"),
        ("It was {mask}.", "has no field: one of text, sentence in braces"),
        ("{sentense} {mask}", "pattern has the field 'sentense'; did you mean 'sentence'?"),
        ("{sentence} {maks}", "pattern has the field 'maks'; did you mean 'mask'?"),
        ("{sentence:opened} {mask}", "pattern has the field sentence:opened; only sentence:open exists"),
        ("{sentence!r} {mask}", "pattern has the field sentence!r; a conversion such as !r is not possible"),
        ("{sentence} {mask!r}", "pattern has the field mask!r; a conversion such as !r is not possible"),
        ("{sentence} {mask:open}", "pattern has the field mask:open; {mask} takes no options"),
        ("{} {mask}", "has braces without a name: one of text, sentence, mask"),
        ("{sentence} {mask", "which cannot be read: expected '}' before end of string"),
        ("{sentence} || {mask} || it", "which has 3 segments; BERT reads two"),
        ("{text_pair} {mask}", "pattern has the field 'text_pair', but there is one text; in a configuration, data."),
    ],
)
def test_a_pattern_that_cannot_be_filled_is_refused_with_its_key(pattern, message):
    with pytest.raises(ValueError, match=f"^pattern .*{re.escape(message.removeprefix('pattern '))}"):
        ClozeData(train="x", text_column="sentence", pattern=pattern)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verbalizer": {"1": True}}, "verbalizer.1 is True; YAML reads yes, no, on and off without quotes"),
        ({"verbalizer": {"1": ["good", False]}}, "YAML reads yes, no"),
        ({"verbalizer": {"1": 3}}, "verbalizer.1 is 3; it must be a word, or a list of words"),
        ({"verbalizer": {"1": []}}, "verbalizer.1 is []; it must be a word, or a list of words"),
        ({"verbalizer": {"1": " "}}, "verbalizer.1 is ' '; it must be a word"),
        ({"calibration": []}, 'calibration is []; it must have texts, such as ["N/A", "[MASK]", ""]'),
        ({"problem": "regression"}, "problem is regression: the words of a cloze exclude each other"),
        ({"label_prefix": "x"}, "label_prefix tells apart labels of several data sets"),
    ],
)
def test_settings_that_no_cloze_can_have_are_refused_with_their_key(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ClozeData(train="x", **changes)


@pytest.mark.parametrize(
    ("verbalizer", "message"),
    [
        (
            {"1": "greatt", "0": "bad"},
            "verbalizer.1 is 'greatt', which is outside the vocabulary; did you mean 'great'?",
        ),
        ({"1": "ŵ", "0": "bad"}, "verbalizer.1 is 'ŵ', which is outside the vocabulary"),
        ({"1": "\u200b", "0": "bad"}, "which has no word piece"),
        ({"1": "[MASK]", "0": "bad"}, "verbalizer.1 is '[MASK]', which is outside the vocabulary"),
        (
            {"0": "bad"},
            "verbalizer.1 is '1' (the label's own name), which is outside the vocabulary",
        ),
        ({"1": "good", "0": "Good"}, "verbalizer.0 is 'Good', the same word as that of 1"),
        ({"1": ["yes", "good"], "0": ["bad", "good"]}, "is 'good', the same word as that of"),
        ({"1": "goodness", "0": "good"}, "verbalizer.0 is 'good', with which that of 1 ('goodness') begins"),
        ({"1": "good", "0": "bad", "O": "no"}, "verbalizer has the label 'O', which the data do not have"),
    ],
)
def test_a_word_that_cannot_answer_is_refused_with_its_key_and_the_nearest_word(words, verbalizer, message):
    settings = ClozeData(train="x", verbalizer=verbalizer)
    with pytest.raises(InputError, match=r"^data\..*" + re.escape(message)):
        verbalizer_of(settings, ["0", "1"], words)


def test_a_split_knows_where_its_masks_are_in_every_batch(words):
    settings = ClozeData(train="x", pattern="{text} It was {mask}.", verbalizer={"0": "terrible", "1": "great"})
    examples = [text("a " * number) for number in (9, 1, 4)]
    split = EncodedClozes(examples, words, settings, ["0", "1"])
    assert split.lengths.tolist() == [each + 5 for each in (9, 1, 4)]
    for numbers in ([0, 1, 2], [2, 1], [1]):
        batch = split.batch(split.by_length[numbers])
        flat = batch["input_ids"].flatten()
        assert (flat == words.mask_id).nonzero().flatten().tolist() == batch["masked_positions"].tolist()
        assert len(batch["masked_positions"]) == 2 * len(numbers)
    part = split.part(split.by_length[[0, 2]])
    assert part.masks.tolist() == split.masks[split.by_length[[0, 2]]].tolist()


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["--data.verbalizer={places: house, animals: 'no', nature: ['off', 'null']}"],
        [
            "--data.verbalizer.animals=no",
            "--data.verbalizer.nature=['off', 'null']",
            "--data.verbalizer.places=house",
        ],
    ],
)
def test_words_that_yaml_reads_as_truth_values_and_labels_that_it_reads_as_numbers_are_texts(overrides):
    values = {
        "experiment": "words",
        "task": "cloze",
        "model": {"size": "tiny"},
        "trainer": {"max_steps": 1},
        "data": {
            "train": "x",
            "pattern": "{text}: {mask}",
            "verbalizer": {"animals": "no", "nature": ["off", "null"]},
        },
    }
    experiment = load_experiment([], overrides, values)
    assert experiment.data.verbalizer | {"places": "house"} == {
        "animals": "no",
        "nature": ["off", "null"],
        "places": "house",
    }
    assert experiment.data.cloze.text == "{text}: {mask}"
    assert load_experiment([], [], experiment.to_dict()) == experiment
    numbered = load_experiment([], ["--data.verbalizer={0: great, 1: [bad, sad]}"], values | {"data": {"train": "x"}})
    assert numbered.data.verbalizer == {"0": "great", "1": ["bad", "sad"]}
    with pytest.raises(InputError, match=r"data\.verbalizer: the key '0' is given twice"):
        load_experiment([], ["--data.verbalizer={0: great, '0': bad}"], values)
    weighted = values | {"task": "text-classification", "data": {"train": "x"}}
    assert load_experiment([], ["--data.class_weights={0: 1, 1: 2.5}"], weighted).data.class_weights == {
        "0": 1.0,
        "1": 2.5,
    }
    pattern = ["--data.pattern={text} It was {mask}."]
    assert load_experiment([], pattern, values).data.pattern == "{text} It was {mask}."
