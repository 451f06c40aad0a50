from collections import Counter
from pathlib import Path

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.errors import InputError
from bert_lightning.text import vocabulary
from bert_lightning.text.sentences import split_sentences
from bert_lightning.text.vocabulary import WordCounts, train_wordpiece
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer, load_tokenizer
from tests.support.texts import NASTY


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def pair(request, tmp_path_factory):
    texts = [NASTY, "the quick brown fox jumps over the lazy dog", "中文 and ## signs [MASK] é"] * 3
    ours = train_wordpiece(texts, 300, lowercase=request.param)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return ours, transformers.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=request.param)


@settings(max_examples=150)
@example(text="a" * 100)  # the longest word that is not [UNK]
@example(text="a" * 101)
@given(
    text=st.one_of(
        st.text(alphabet=NASTY, max_size=60),
        st.text(max_size=40),
    )
)
def test_encoding_equals_transformers_tokenizer(pair, text: str):
    ours, theirs = pair
    assert ours.encode_batch([text])[0] == theirs.encode(text, add_special_tokens=False)


def test_a_saved_tokenizer_loads_the_same_and_keeps_its_casing(pair, tmp_path: Path):
    ours, _ = pair
    ours.save(tmp_path)
    for path in (tmp_path, tmp_path / "vocab.txt"):
        loaded = load_tokenizer(path, cased=None if path.is_dir() else not ours.vocabulary.lowercase)
        assert loaded.fingerprint == ours.fingerprint


def test_special_tokens_come_first_and_the_size_is_as_requested(documents):
    tokenizer = train_wordpiece((s for d in documents for s in d), 100)
    assert tuple(tokenizer.entries[:5]) == SPECIAL_TOKENS
    assert len(tokenizer) == 100


def test_training_depends_on_the_text_alone():
    # In separate processes, because the order that must not matter is drawn once per process.
    import subprocess
    import sys

    code = (
        "from tests.support.small_corpus import make_documents\n"
        "from bert_lightning.text.vocabulary import train_wordpiece\n"
        "texts = [s for d in make_documents(3, 60) for s in d]\n"
        "print(train_wordpiece(texts, 150).fingerprint)\n"
    )
    root = Path(__file__).parents[2]
    prints = {
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(prints) == 1


def test_a_vocabulary_too_small_for_the_alphabet_says_how_much_it_takes():
    with pytest.raises(InputError, match="alone take 11 entries"):
        train_wordpiece(["abc"], 8)


def test_text_without_a_character_is_an_error():
    with pytest.raises(InputError, match="no text"):
        train_wordpiece(["", "  \n"], 100)


def test_an_unusable_vocabulary_file_is_named_with_its_fault(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("\n".join(["a", "[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    with pytest.raises(InputError, match=r"vocab\.txt: .*no \[MASK\]"):
        load_tokenizer(tmp_path)


def test_entries_that_occur_twice_are_refused():
    with pytest.raises(InputError, match="holds 'a' twice"):
        WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, "a", "b", "a")))


def test_a_vocabulary_file_takes_its_casing_from_the_settings_next_to_it(tmp_path: Path):
    WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, "A"), lowercase=False)).save(tmp_path)
    assert not load_tokenizer(tmp_path / "vocab.txt").vocabulary.lowercase


def test_cased_with_an_uncased_folder_is_an_error(tmp_path: Path):
    WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, "a"), lowercase=True)).save(tmp_path)
    with pytest.raises(InputError, match="uncased"):
        load_tokenizer(tmp_path, cased=True)


def test_abbreviations_do_not_end_sentences():
    text = "Dr. Watson met Mr. Holmes at 5.30 p.m. in Baker St. yesterday. They left."
    assert split_sentences(text)[-1] == "They left."
    assert "".join(split_sentences(text)).replace(" ", "") == text.replace(" ", "")


def test_words_are_counted_as_the_whole_text_is_split():
    texts = ["The the THE café", "中文 x" * 40, "a" * 90 + " " + "b" * 300, "[E1] don't [E1]stop"]
    counts = WordCounts(lowercase=True, special_tokens=["[E1]"])
    for text in texts:
        counts.add(text)
    expected = Counter(
        word
        for text in texts
        for word, _ in BertPreTokenizer().pre_tokenize_str(
            BertNormalizer(lowercase=True).normalize_str(text.replace("[E1]", " "))
        )
        if len(word) <= 100
    )
    assert counts.words() == expected


def test_distinct_words_are_held_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(vocabulary, "MAX_DISTINCT_CHARACTERS", 1000)
    counts = WordCounts(lowercase=True)
    for number in range(5000):
        counts.add(f"common word{number}")
    assert counts.num_dropped > 4000
    words = counts.words()
    assert words["common"] == 5000
    assert sum(map(len, words)) <= 2 * 1000


@pytest.mark.parametrize("token", ["", "a b", "[MASK]"])
def test_impossible_special_tokens_are_errors(token):
    with pytest.raises(InputError, match="special token"):
        train_wordpiece(["text text"], 50, special_tokens=[token])
