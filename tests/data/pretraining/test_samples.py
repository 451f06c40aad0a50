"""Every objective in the table, and the properties of each."""

import numpy as np
import pytest
from scipy import stats

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.corpus.documents import CorpusFormat
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.pretraining.objectives import OBJECTIVES
from bert_lightning.data.pretraining.sentence_pairs import OrderedPairs, SentencePairs
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer

NUM_WORDS = 3000


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> TokenStore:
    """A corpus in which every token occurs once, in order, so that a token shows its position.

    Documents of one sentence, of one token, and of many sentences.
    """
    words = [f"w{n}" for n in range(NUM_WORDS)]
    generator = np.random.default_rng(0)
    documents, position = [], 0
    while position < NUM_WORDS:
        sentences = []
        for _ in range(int(generator.choice([1, 1, 3, 8, 20]))):
            length = int(generator.integers(1, 12))
            sentences.append(" ".join(words[position : position + length]))
            position += length
        documents.append("\n".join(sentence for sentence in sentences if sentence))
    documents.insert(3, "alone")
    folder = tmp_path_factory.mktemp("numbered")
    (folder / "c.txt").write_text("\n\n".join(documents) + "\n")
    tokenizer = WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, *words, "alone")))
    prepare([str(folder / "c.txt")], tokenizer, folder / "s", corpus=CorpusFormat(layout="sentences"))
    return TokenStore(folder / "s")


@pytest.fixture(params=OBJECTIVES.values(), ids=OBJECTIVES)
def objective(request):
    return request.param


def all_samples(source, epoch: int = 0):
    return source.samples(epoch, np.arange(source.num_samples))


def documents_of(store: TokenStore, tokens) -> set[int]:
    """Return the documents that hold some tokens."""
    ends = np.cumsum(store.section(0).document_lengths())
    all_tokens = store.section(0).read(0, store.num_tokens)
    position = {int(token): n for n, token in enumerate(all_tokens)}
    return {int(np.searchsorted(ends, position[int(token)], side="right")) for token in tokens}


@pytest.mark.parametrize("length", [5, 6, 24, 512])
def test_samples_fit_and_every_text_holds_tokens(numbered, objective, length):
    for sample in all_samples(objective(numbered, length, 0.3, seed=1)):
        assert sample.length <= length
        assert len(sample.first) >= 1
        assert (sample.second is not None) == (objective.metric is not None)
        assert sample.second is None or len(sample.second) >= 1


def test_a_sample_depends_on_seed_epoch_and_index_alone(numbered, objective):
    one, other = objective(numbered, 24, 0.1, seed=3), objective(numbered, 24, 0.1, seed=3)
    whole = all_samples(one, epoch=5)
    for index in (0, 7, one.num_samples - 1):
        [alone] = other.samples(5, np.array([index]))
        assert repr(alone) == repr(whole[index])
    assert repr(whole) != repr(all_samples(one, epoch=6))
    assert repr(whole) != repr(all_samples(objective(numbered, 24, 0.1, seed=4), epoch=5))


def test_every_token_is_drawn_and_none_much_more_often_than_others(numbered, objective):
    source = objective(numbered, 24, 0.0, seed=1)
    counts = np.zeros(len(numbered.tokenizer), dtype=int)
    for epoch in range(60):
        for sample in all_samples(source, epoch):
            np.add.at(counts, sample.first.astype(int), 1)
            if sample.second is not None:
                np.add.at(counts, sample.second.astype(int), 1)
    words = counts[len(SPECIAL_TOKENS) : -1]
    assert (words > 0).mean() > 0.99
    assert np.quantile(words, 0.95) < 4 * max(np.quantile(words, 0.05), 1)


def test_sentences_longer_than_a_sample_are_seen_to_their_ends(tmp_path, objective):
    words = [f"w{n}" for n in range(600)]
    documents = [f"{' '.join(words[n : n + 80])}\n{' '.join(words[n + 80 : n + 150])}" for n in range(0, 600, 150)]
    (tmp_path / "c.txt").write_text("\n\n".join(documents) + "\n")
    tokenizer = WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, *words)))
    prepare([str(tmp_path / "c.txt")], tokenizer, tmp_path / "s", corpus=CorpusFormat(layout="sentences"))
    source = objective(TokenStore(tmp_path / "s"), 24, 0.0, seed=1)
    seen = {
        token
        for epoch in range(200)
        for sample in all_samples(source, epoch)
        for text in (sample.first, sample.second)
        if text is not None
        for token in text.tolist()
    }
    assert len(seen - set(range(len(SPECIAL_TOKENS)))) > 0.98 * 600


def test_a_text_is_one_stretch_of_the_corpus(numbered, objective):
    separator = numbered.tokenizer.sep_id
    for sample in all_samples(objective(numbered, 24, 0.1, seed=1)):
        for text in (sample.first, sample.second):
            if text is not None:
                words = text[text != separator].astype(int)
                # `alone` stands between two numbered words.
                numbers = words[words != len(numbered.tokenizer) - 1]
                assert (np.diff(numbers) == 1).all()


def test_sentence_order_pairs_are_neighbours_and_half_of_them_are_swapped(numbered):
    labels = []
    for epoch in range(20):
        for sample in all_samples(OrderedPairs(numbered, 200, 0.0, seed=1), epoch):
            a, b = (sample.second, sample.first) if sample.label else (sample.first, sample.second)
            assert int(b[0]) == int(a[-1]) + 1
            assert len(documents_of(numbered, [a[0], b[-1]])) == 1
            labels.append(sample.label)
    assert stats.binomtest(sum(labels), len(labels)).pvalue > 1e-4


def test_next_sentence_pairs_are_random_half_of_the_time_in_documents_of_two_sentences(numbered):
    labels = []
    for epoch in range(20):
        for sample in all_samples(SentencePairs(numbered, 200, 0.0, seed=1), epoch):
            [document] = documents_of(numbered, sample.first)
            assert (sample.label == 0) <= (documents_of(numbered, sample.second) == {document})
            assert (sample.label == 1) <= (document not in documents_of(numbered, sample.second))
            if numbered.num_sentences(document) > 1:
                labels.append(sample.label)
    assert stats.binomtest(sum(labels), len(labels)).pvalue > 1e-4


def test_other_documents_are_drawn_evenly(numbered):
    source = SentencePairs(numbered, 24, 0.0, seed=1)
    drawn = [
        next(iter(documents_of(numbered, sample.second[:1])))
        for epoch in range(60)
        for sample in all_samples(source, epoch)
        if sample.label == 1
    ]
    counts = np.bincount(drawn, minlength=numbered.num_documents)
    # A document is left out for its own samples, so the expected numbers differ slightly.
    own = np.diff(source._count_up(0), prepend=0) * 60
    expected = (len(drawn) - own * len(drawn) / own.sum()) / (numbered.num_documents - 1)
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


def test_full_sentences_continue_into_the_next_document_after_a_separator(numbered):
    source = OBJECTIVES["full-sentences"](numbered, 64, 0.0, seed=1)
    separator = numbered.tokenizer.sep_id
    crossing = 0
    for sample in all_samples(source):
        tokens = sample.first.astype(int)
        texts = np.split(tokens, np.flatnonzero(tokens == separator))
        documents = [documents_of(numbered, text[text != separator]) for text in texts]
        assert all(len(one) == 1 for one in documents)
        numbers = [next(iter(one)) for one in documents]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        crossing += len(numbers) > 1
    assert crossing > source.num_samples / 2


def test_document_sentences_stay_in_their_document(numbered):
    for sample in all_samples(OBJECTIVES["document-sentences"](numbered, 64, 0.0, seed=1)):
        assert len(documents_of(numbered, sample.first)) == 1


def test_short_samples_have_the_requested_share(numbered, objective):
    def share(probability: float) -> float:
        lengths = [s.length for e in range(30) for s in all_samples(objective(numbered, 48, probability, 1), e)]
        return float(np.mean(np.array(lengths) < 24))

    assert share(0.0) + 0.15 < share(1.0)


def test_a_corpus_of_one_document_has_no_random_second(tmp_path, tokenizer):
    (tmp_path / "c.txt").write_text("the cat\nthe dog\n")
    prepare([str(tmp_path / "c.txt")], tokenizer, tmp_path / "s", corpus=CorpusFormat(layout="sentences"))
    with pytest.raises(InputError, match="too small for one pair"):
        SentencePairs(TokenStore(tmp_path / "s"), 24, 0.1, 1)
    assert all_samples(OrderedPairs(TokenStore(tmp_path / "s"), 24, 0.1, 1))


def test_documents_of_a_single_token_have_no_order(tmp_path, tokenizer):
    (tmp_path / "c.txt").write_text("cat\n\ndog\n")
    tokenizer = WordPieceTokenizer(Vocabulary((*SPECIAL_TOKENS, "cat", "dog")))
    prepare([str(tmp_path / "c.txt")], tokenizer, tmp_path / "s", corpus=CorpusFormat(layout="sentences"))
    with pytest.raises(InputError, match="no document has two tokens"):
        OrderedPairs(TokenStore(tmp_path / "s"), 24, 0.1, 1)
