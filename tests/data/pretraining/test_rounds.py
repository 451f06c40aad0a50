"""The order of a large store: rounds of sections, each shuffled as a whole."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from scipy import stats

from bert_lightning.data.corpus import documents as documents_module
from bert_lightning.data.corpus import section_jobs, sections
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.section_tables import CHUNK_LENGTHS, chunk_counts
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.module import TrainingLength
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.data.pretraining import rounds as rounds_module
from bert_lightning.data.pretraining.mixture import Mixture
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES
from bert_lightning.data.pretraining.rounds import Documents, Rounds, num_rounds
from bert_lightning.data.pretraining.sentence_pairs import SentencePairs
from bert_lightning.data.pretraining.settings import PretrainingData
from tests.support.small_corpus import make_documents, write_corpus

NUM_ROUNDS = 8


@pytest.fixture(scope="module")
def many_sections(tmp_path_factory, tokenizer):
    """A store of some forty sections, among them those of a document that spans several."""
    folder = tmp_path_factory.mktemp("many")
    documents = make_documents(7, num_documents=96, num_sentences=12)
    documents.insert(50, [sentence for document in documents[:12] for sentence in document])
    before = section_jobs.CHARACTERS_PER_SECTION, documents_module.PASSAGE, sections.FRAME
    section_jobs.CHARACTERS_PER_SECTION, documents_module.PASSAGE, sections.FRAME = 1100, 300, 64
    try:
        text = write_corpus(folder / "c.txt", documents)
        summary = prepare([str(text)], tokenizer, folder / "s", num_workers=1)
    finally:
        section_jobs.CHARACTERS_PER_SECTION, documents_module.PASSAGE, sections.FRAME = before
    assert 30 < summary.num_sections < 50
    return folder / "s"


@pytest.fixture
def small_rounds(many_sections, monkeypatch):
    """Eight rounds for the store, and the frames with which it was written."""
    monkeypatch.setattr(sections, "FRAME", 64)
    store = TokenStore(many_sections)
    monkeypatch.setattr(rounds_module, "ROUND_BYTES", -(-store.num_bytes // NUM_ROUNDS))
    monkeypatch.setattr(rounds_module, "MIN_SECTIONS", 2)
    assert num_rounds(store, 1.0) == NUM_ROUNDS


@pytest.fixture
def store(many_sections, small_rounds):
    return TokenStore(many_sections)


def random_rounds(seed: int) -> Rounds:
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 60, int(generator.integers(20, 200)))
    return Rounds(counts, int(generator.integers(1, 12)), seed)


@pytest.mark.parametrize("seed", range(20))
def test_an_epoch_holds_each_sample_once_and_each_round_whole_sections(seed):
    rounds = random_rounds(seed)
    everything = rounds.indices(1, 3, np.arange(rounds.num_samples))
    assert sorted(everything.tolist()) == list(range(rounds.num_samples))
    held, _ = rounds.locate(everything)
    number = [rounds.round_of(3, section) for section in held.tolist()]
    assert number == sorted(number)
    members = [rounds.sections_of(3, each).tolist() for each in range(rounds.num_rounds)]
    assert sorted(section for each in members for section in each) == list(range(len(rounds._counts)))
    assert max(map(len, members)) - min(map(len, members)) <= 1
    assert all(rounds.round_of(3, section) == each for each, found in enumerate(members) for section in found)


def test_any_position_is_reached_without_those_before_it():
    rounds = random_rounds(3)
    everything = rounds.indices(1, 0, np.arange(rounds.num_samples))
    fresh = random_rounds(3)
    for position in (rounds.num_samples - 1, 0, 17):
        assert fresh.indices(1, 0, np.array([position])).tolist() == [everything[position]]


def test_epochs_and_seeds_have_other_orders_and_other_rounds():
    counts = np.full(100, 10)
    orders = {
        tuple(Rounds(counts, 10, seed).indices(1, epoch, np.arange(1000)).tolist())
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    assert len({tuple(Rounds(counts, 10, 1).sections_of(epoch, 0).tolist()) for epoch in range(20)}) == 20


def test_samples_of_a_round_and_sections_of_an_epoch_are_shuffled_evenly():
    counts = np.full(30, 4)
    rounds = Rounds(counts, 3, 5)
    first = [rounds.indices(1, epoch, np.array([0]))[0] for epoch in range(6000)]
    assert stats.chisquare(np.bincount(first, minlength=120)).pvalue > 1e-4
    # Neighbours in the text are in one round as often as any two sections: 9 of 29 times.
    together = [rounds.round_of(epoch, 10) == rounds.round_of(epoch, 11) for epoch in range(3000)]
    assert stats.binomtest(sum(together), len(together), 9 / 29).pvalue > 1e-4


def test_a_single_round_is_the_order_of_the_whole_store():
    rounds = Rounds(np.array([5, 0, 700]), 1, 9)
    key = derive_key("any")
    assert sorted(rounds.indices(key, 0, np.arange(705)).tolist()) == list(range(705))
    assert rounds.indices(key, 0, np.arange(9)).tolist() == rounds.indices(key, 7, np.arange(9)).tolist()


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, 8), (0.5, 16), (0.1, None), (1e-6, None)], ids=["1", "half", "tenth", "tiny"]
)
def test_rounds_take_the_memory_of_their_share(store, share, expected):
    assert num_rounds(store, share) == (expected or store.num_sections // 2)


def test_a_small_store_is_shuffled_as_a_whole(many_sections, monkeypatch):
    monkeypatch.setattr(sections, "FRAME", 64)
    assert num_rounds(TokenStore(many_sections), 1.0) == 1


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("length", [6, 24, 1028])
def test_the_table_has_as_many_samples_as_the_documents(store, objective, length):
    source = objective(store, length, 0.0, seed=1)
    room = length - source.num_special
    assert (room in CHUNK_LENGTHS) == (length < 1028)
    expected = 0
    for number in range(store.num_sections):
        lengths = store.section(number).document_lengths().tolist()
        if objective is OBJECTIVES["full-sentences"]:
            lengths = [sum(lengths)]
        if objective is OBJECTIVES["sentence-order"]:
            lengths = [each for each in lengths if each > 1]
        expected += sum(-(-each // room) for each in lengths)
    assert source.num_samples == expected


def test_chunk_counts_are_sums_of_rounded_up_quotients():
    lengths = np.random.default_rng(0).integers(1, 9000, 50)
    assert chunk_counts(lengths).tolist() == [
        sum(-(-int(each) // length) for each in lengths) for length in CHUNK_LENGTHS
    ]


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_training_reads_one_round_at_a_time_and_holds_little_more(store, objective):
    source = objective(store, 24, 0.1, seed=1)
    read: set[int] = set()
    opened = store.files.section
    store.files.section = lambda number: read.add(number) or opened(number)
    for number in range(NUM_ROUNDS):
        positions = np.arange(source.num_samples)
        indices = source.shuffle(0, 2, positions)
        sections_of, _ = source.rounds.locate(indices)
        members = source.rounds.sections_of(2, number)
        read.clear()
        source.samples(2, indices[np.isin(sections_of, members)])
        assert read <= set(members.tolist())
        held = sum(section.num_bytes for section in store.files._held.values())
        assert held <= max(1.25 * store.num_bytes / NUM_ROUNDS, 9 * store.num_bytes / store.num_sections)


def test_a_random_second_comes_from_the_round_and_never_from_the_document(store):
    source = SentencePairs(store, 60, 0.0, seed=1)
    first, last = next(
        (first, last) for first, last in map(store.same_document, range(store.num_documents)) if last - first >= 2
    )
    for document in (0, first, first + 1, last, store.num_documents - 1):
        own = set(range(store.same_document(document)[0], store.same_document(document)[1] + 1))
        near = source._near(0, source.rounds.round_of(0, store.section_of(document)))
        members = source.rounds.sections_of(0, source.rounds.round_of(0, store.section_of(document)))
        allowed = {
            each
            for section in members.tolist()
            for each in range(store.first_document(section), store.first_document(section + 1))
        } - own
        draws = (np.arange(4 * len(allowed)) + 0.5) / (4 * len(allowed))
        found = [near.other(min(own), max(own), draw) for draw in draws.tolist()]
        # Equal draws give equal numbers of each.
        assert sorted(found) == sorted(4 * list(allowed))


def test_a_round_without_another_document_falls_back_to_the_whole_store(tmp_path, tokenizer, monkeypatch):
    documents = make_documents(1, num_documents=40)
    long = [sentence for document in documents for sentence in document]
    monkeypatch.setattr(section_jobs, "CHARACTERS_PER_SECTION", 600)
    monkeypatch.setattr(documents_module, "PASSAGE", 200)
    text = write_corpus(tmp_path / "c.txt", [long, documents[0]])
    prepare([str(text)], tokenizer, tmp_path / "s", num_workers=1)
    store = TokenStore(tmp_path / "s")
    monkeypatch.setattr(rounds_module, "ROUND_BYTES", 1)
    monkeypatch.setattr(rounds_module, "MIN_SECTIONS", 2)
    source = SentencePairs(store, 40, 0.0, seed=1)
    assert source.rounds.num_rounds > 5
    seconds = [pair.second for pair in source.samples(0, np.arange(source.num_samples)) if pair.label]
    ids = set(store.tokens(store.num_documents - 1, 0, 10**6).tolist())
    assert len(seconds) > 20
    assert all(set(second.tolist()) <= ids for second in seconds[:5])


def test_documents_of_no_section_in_between_are_never_drawn(store):
    chosen = np.array([3, 17, 18, 30])
    documents = Documents(store, chosen)
    drawn = {documents.other(0, 0, draw) for draw in np.linspace(0, 1, 500, endpoint=False).tolist()}
    assert {store.section_of(document) for document in drawn} == set(chosen.tolist())


def make(path, batching: str, steps: int = 60, accumulate: int = 1) -> PretrainingDataModule:
    settings = PretrainingData(str(path), str(path), max_seq_length=40, batch_size=8, batching=batching)
    return PretrainingDataModule(settings, length=TrainingLength(steps, accumulate=accumulate, seed=1))


def described(batch) -> list[tuple[int, int]]:
    return sorted(map(tuple, batch["samples"].tolist()))


@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_a_step_is_the_same_from_a_fresh_module_and_on_any_number_of_ranks(many_sections, small_rounds, batching):
    running = make(many_sections, batching)
    for step in range(60):
        [whole] = running.training_batches(step, running.plan, 0, 1)
        if step % 13 == 0:
            fresh = make(many_sections, batching)
            [again] = fresh.training_batches(step, fresh.plan, 0, 1)
            assert again["input_ids"].tolist() == whole["input_ids"].tolist()
            assert again["masked_labels"].tolist() == whole["masked_labels"].tolist()
            parts = [
                part
                for share in range(2)
                for part in fresh.training_batches(step, replace(fresh.plan, accumulate=2), share, 2)
            ]
            assert sorted(chain.from_iterable(map(described, parts))) == described(whole)


def test_every_epoch_of_a_mixture_sees_each_sample_once(many_sections, small_rounds):
    sources = [SentencePairs(TokenStore(many_sections), 40, 0.1, seed, 0.5) for seed in (1, 2)]
    assert sources[0].rounds.num_rounds == 2 * NUM_ROUNDS
    mixture = Mixture(sources, [1, 1])
    epochs, indices = mixture.draw(3, 0, 4 * sources[0].num_samples)
    for number, source in enumerate(sources):
        own = indices // source.num_samples == number
        assert sorted(indices[own & (epochs == 0)] % source.num_samples) == list(range(source.num_samples))


def test_evaluation_scores_the_same_samples_in_every_run_each_once(many_sections, small_rounds):
    data = make(many_sections, "padded")
    total = data.num_evaluation_samples("validation")
    batches = [
        data.evaluation_batch("validation", np.arange(start, min(start + 50, total))) for start in range(0, total, 50)
    ]
    numbers = [number for batch in batches for _, number in batch["samples"].tolist()]
    assert sorted(numbers) == list(range(total))
    other = make(many_sections, "padded").evaluation_batch("validation", np.arange(50, 100))
    assert other["input_ids"].tolist() == batches[1]["input_ids"].tolist()
