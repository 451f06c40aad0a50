import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from bert_lightning.data.corpus.documents import CorpusFormat
from bert_lightning.data.corpus.preparation import prepare
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.batching import shuffled
from bert_lightning.data.loading.module import TrainingLength, TrainingPlan
from bert_lightning.data.pretraining.instances import dynamic_instances
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.sentence_pairs import IS_NEXT, IS_RANDOM, SentencePairs, truncate_pair
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.distributed.collectives import DataRank
from bert_lightning.errors import InputError
from tests.support.small_corpus import sentence_ends, write_corpus


def document_of(store: TokenStore, tokens: np.ndarray) -> set[int]:
    """Return the documents that hold a run of tokens."""
    wanted = tokens.tolist()
    found = set()
    for document in range(store.num_documents):
        whole = store.tokens(document, 0, int(sentence_ends(store, document)[-1])).tolist()
        if any(whole[i : i + len(wanted)] == wanted for i in range(len(whole) - len(wanted) + 1)):
            found.add(document)
    return found


@pytest.fixture
def pairs(store) -> SentencePairs:
    return SentencePairs(TokenStore(store), 40, 0.1, seed=3)


def all_pairs(pairs: SentencePairs, epoch: int = 0):
    return pairs.samples(epoch, np.arange(pairs.num_samples))


def test_pairs_fit_and_both_texts_hold_tokens(pairs):
    for pair in all_pairs(pairs):
        assert len(pair.first) >= 1
        assert len(pair.second) >= 1
        assert len(pair.first) + len(pair.second) <= 37


def test_a_next_pair_is_one_stretch_of_a_document_and_a_random_one_is_not(tmp_path, tokenizer):
    # Each sentence names its position, so that each run of tokens is in one document only.
    words = [w for w in tokenizer.entries if w.isalpha()][:36]
    triples = itertools.permutations(words, 3)
    documents = [[" ".join(next(triples)) for _ in range(8)] for _ in range(12)]
    prepare(
        [str(write_corpus(tmp_path / "c.txt", documents))],
        tokenizer,
        tmp_path / "s",
        corpus=CorpusFormat(layout="sentences"),
    )
    store = TokenStore(tmp_path / "s")
    # Longer than two documents together, so that nothing is truncated.
    source = SentencePairs(store, 200, 0.0, seed=1)
    labels = []
    for epoch in range(6):
        for pair in all_pairs(source, epoch):
            together = document_of(store, np.concatenate([pair.first, pair.second]))
            if pair.label == IS_NEXT:
                assert together
            else:
                assert not document_of(store, pair.first) & document_of(store, pair.second)
            labels.append(pair.label)
    assert {IS_NEXT, IS_RANDOM} == set(labels)


def test_half_of_the_pairs_are_random(pairs):
    labels = [pair.label for epoch in range(40) for pair in all_pairs(pairs, epoch)]
    # Four standard deviations of a fair coin.
    assert abs(np.mean(labels) - 0.5) < 2 / np.sqrt(len(labels))


def test_a_sample_depends_on_seed_epoch_and_index_alone(store):
    one, other = (SentencePairs(TokenStore(store), 40, 0.1, seed=3) for _ in range(2))
    whole = all_pairs(one, epoch=5)
    for index in (0, 7, one.num_samples - 1):
        [alone] = other.samples(5, np.array([index]))
        assert alone.label == whole[index].label
        assert alone.first.tolist() == whole[index].first.tolist()
        assert alone.second.tolist() == whole[index].second.tolist()


def test_epochs_and_seeds_draw_different_pairs(store):
    def drawn(seed: int, epoch: int):
        return [p.second.tolist() for p in all_pairs(SentencePairs(TokenStore(store), 40, 0.1, seed), epoch)]

    assert drawn(1, 0) != drawn(1, 1)
    assert drawn(1, 0) != drawn(2, 0)


def test_every_token_of_the_corpus_is_drawn(store):
    source = SentencePairs(TokenStore(store), 40, 0.0, seed=1)
    opened = TokenStore(store)
    seen = [np.zeros(int(sentence_ends(opened, n)[-1]), dtype=bool) for n in range(opened.num_documents)]
    for epoch in range(30):
        for pair in all_pairs(source, epoch):
            for text in (pair.first.tolist(), pair.second.tolist()):
                for document, marks in enumerate(seen):
                    whole = opened.tokens(document, 0, len(marks)).tolist()
                    for i in range(len(whole) - len(text) + 1):
                        if whole[i : i + len(text)] == text:
                            marks[i : i + len(text)] = True
    assert np.concatenate(seen).mean() > 0.99


def test_truncation_is_the_one_token_at_a_time_rule():
    def reference(a: int, b: int, limit: int) -> tuple[int, int]:
        while a + b > limit:
            if a > b:
                a -= 1
            else:
                b -= 1
        return a, b

    for a, b in itertools.product(range(1, 90, 4), repeat=2):
        first, second = truncate_pair(np.arange(a), np.arange(b), 37, a * 7 % 10 / 10)
        assert (len(first), len(second)) == reference(a, b, 37)
        assert (np.diff(first) == 1).all()


def test_a_corpus_of_one_document_is_an_error_with_its_reason(tmp_path, tokenizer, documents):
    text = write_corpus(tmp_path / "one.txt", documents[:1])
    prepare([str(text)], tokenizer, tmp_path / "store")
    with pytest.raises(InputError, match="too small for one pair"):
        SentencePairs(TokenStore(tmp_path / "store"), 40, 0.1, 1)


@pytest.fixture
def make(store, validation_store):
    """A function from the number of steps and micro-batches to a data module."""
    settings = PretrainingData(str(store), str(validation_store), max_seq_length=40, batch_size=8)
    return lambda steps, accumulate: PretrainingDataModule(
        settings, length=TrainingLength(steps, accumulate=accumulate, seed=1)
    )


@pytest.fixture
def data(make) -> PretrainingDataModule:
    return make(20, 2)


def test_labels_are_the_masked_tokens(data):
    plan = data.plan
    _, indices = shuffled(plan.seed, data.num_training_samples, np.arange(8))
    [batch] = data.training_batches(0, replace(plan, accumulate=1), 0, 1)
    [source] = data.stores["train"]
    pairs = SentencePairs(source, 40, 0.1, plan.seed).samples(0, indices)
    tokenizer = data.tokenizer
    original = [
        [tokenizer.cls_id, *p.first.tolist(), tokenizer.sep_id, *p.second.tolist(), tokenizer.sep_id] for p in pairs
    ]
    width = batch["input_ids"].shape[1]
    for position, label in zip(batch["masked_positions"].tolist(), batch["masked_labels"].tolist(), strict=True):
        assert original[position // width][position % width] == label
    assert batch["sentence_labels"].tolist() == [pair.label for pair in pairs]
    assert batch["num_tokens"] == sum(map(len, original))


def test_segments_change_after_the_first_separator(data):
    plan = data.plan
    [batch] = data.training_batches(1, replace(plan, accumulate=1), 0, 1)
    for ids, segments, mask in zip(
        batch["input_ids"].tolist(), batch["token_type_ids"].tolist(), batch["attention_mask"].tolist(), strict=True
    ):
        first, last = (i for i, token in enumerate(ids) if token == data.tokenizer.sep_id and mask[i])
        assert segments == [0] * (first + 1) + [1] * (last - first) + [0] * (len(ids) - last - 1)
        assert sum(mask) == last + 1


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_accumulation_only_split_the_samples_of_a_step(make, monkeypatch, world_size, accumulate):
    data = make(3, accumulate)
    seen = []
    for rank in range(world_size):
        monkeypatch.setattr(data, "_share", lambda rank=rank: DataRank(rank, world_size))
        seen += [batch for step in itertools.islice(data.train_dataloader(), 1) for batch in step]
    labels = sorted(label for batch in seen for label in batch["masked_labels"].tolist())
    [whole] = data.training_batches(0, TrainingPlan(3, 1, seed=1), 0, 1)
    assert labels == sorted(whole["masked_labels"].tolist())
    assert len(seen) == world_size * accumulate


def test_micro_batches_differ_in_their_number_of_masked_tokens(make):
    # Otherwise a mean over the step would equal a mean of micro-batch means.
    data = make(5, 4)
    assert len({len(batch["masked_labels"]) for step in data.train_dataloader() for batch in step}) > 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_validation_sees_each_sample_once_on_any_number_of_ranks(data, monkeypatch, world_size):
    total = data.num_evaluation_samples("validation")
    data.evaluation_batch_size = 7
    counts = []
    for rank in range(world_size):
        monkeypatch.setattr(data, "_share", lambda rank=rank: DataRank(rank, world_size))
        counts.append([len(batch["sentence_labels"]) for batch in data.val_dataloader()])
    assert len({len(c) for c in counts}) == 1, "ranks would wait for each other"
    assert sum(map(sum, counts)) == total


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_resumes_at_its_position(data, num_workers):
    data.num_workers = num_workers
    whole = [step[0]["input_ids"] for step in data.train_dataloader()]
    first = data.train_dataloader()
    for _ in itertools.islice(first, 7):
        pass
    second = data.train_dataloader()
    second.load_state_dict(first.state_dict())
    rest = [step[0]["input_ids"] for step in second]
    assert len(rest) == 13
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[7:], strict=True))


def test_every_epoch_sees_each_sample_once(data):
    total = data.num_training_samples
    steps = -(-2 * total // 8)
    epochs, indices = shuffled(data.plan.seed, total, np.arange(8 * steps))
    for epoch in (0, 1):
        assert sorted(indices[epochs == epoch]) == list(range(total))


def test_with_a_dupe_factor_of_two_the_third_epoch_repeats_the_samples_and_masks_of_the_first(data):
    def epochs(dupe_factor: int | None) -> list[list[str]]:
        settings = replace(data.settings, dupe_factor=dupe_factor)
        repeated = PretrainingDataModule(settings, length=TrainingLength(20, seed=1))
        return [[str(each) for each in dynamic_instances(repeated, 1, epoch)] for epoch in range(3)]

    dynamic, static = epochs(None), epochs(2)
    assert static[:2] == dynamic[:2]
    assert sorted(static[2]) == sorted(static[0])
    assert static[2] != static[0], "the order is a new one"
    assert not set(dynamic[2]) & {*dynamic[0], *dynamic[1]}


def test_a_batch_that_does_not_divide_names_the_keys(make):
    with pytest.raises(InputError, match="multiple of 3"):
        make(3, 3).train_dataloader()
