import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.data.loading.batching import fit_into_bins
from bert_lightning.data.loading.module import TrainingLength, TrainingPlan
from bert_lightning.data.pretraining import pools
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.data.pretraining.stages import BatchSizeWarmup, PretrainingStage, resolve_stages
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertForPreTraining


@given(lengths=st.lists(st.integers(1, 20), max_size=60), num_bins=st.integers(1, 12))
def test_bins_hold_each_sequence_once_at_most_and_never_overflow(lengths, num_bins):
    bins = fit_into_bins(np.array(lengths, dtype=np.int64), num_bins, 20)
    held = [number for each in bins for number in each]
    assert len(bins) == num_bins
    assert len(set(held)) == len(held)
    assert all(sum(lengths[number] for number in each) <= 20 for each in bins)
    left = set(range(len(lengths))) - set(held)
    free = max(20 - sum(lengths[number] for number in each) for each in bins)
    assert all(lengths[number] > free for number in left)


def module(store, length=None, **settings) -> PretrainingDataModule:
    values = {"max_seq_length": 40, "batch_size": 8, "num_workers": 0, **settings}
    return PretrainingDataModule(PretrainingData(str(store), **values), length=length)


def sequences(batch) -> list[tuple]:
    """The sequences of a padded or packed batch: ids, segments, and (position, label) of each mask."""
    ids, segments = batch["input_ids"], batch["token_type_ids"]
    if "packing" in batch:
        bounds = batch["packing"].boundaries.tolist()
        width = 0
    else:
        width = ids.shape[1]
        mask = batch["attention_mask"]
        lengths = mask.sum(1).tolist() if mask is not None else [width] * len(ids)
        ids, segments = ids.flatten(), segments.flatten()
        bounds = None
    found = []
    masked = list(zip(batch["masked_positions"].tolist(), batch["masked_labels"].tolist(), strict=True))
    spans = itertools.pairwise(bounds) if bounds else ((n * width, n * width + k) for n, k in enumerate(lengths))
    for number, (start, stop) in enumerate(spans):
        own = tuple((position - start, label) for position, label in masked if start <= position < stop)
        found.append(
            (
                tuple(ids[start:stop].tolist()),
                tuple(segments[start:stop].tolist()),
                own,
                int(batch["sentence_labels"][number]),
            )
        )
    return found


@pytest.fixture
def small_pools(monkeypatch):
    monkeypatch.setattr(pools, "TARGET_POOL_BINS", 32)
    # Groups of four of eight bins.
    monkeypatch.setattr(pools, "_MIN_GROUP_BINS", 4)


@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
@pytest.mark.parametrize(("accumulate", "num_shares"), [(2, 1), (1, 2), (2, 4)])
def test_shares_and_micro_batches_only_share_out_a_step(store, small_pools, batching, accumulate, num_shares):
    data = module(store, batching=batching)
    for step in (0, 3, 17):
        [whole] = data.training_batches(step, TrainingPlan(20, 1, seed=1), 0, 1)
        plan = TrainingPlan(20, accumulate, seed=1)
        batches = [b for share in range(num_shares) for b in data.training_batches(step, plan, share, num_shares)]
        assert len(batches) == accumulate * num_shares
        assert sorted(s for batch in batches for s in sequences(batch)) == sorted(sequences(whole))


@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_a_step_is_the_same_from_any_starting_step(store, small_pools, batching):
    plan = TrainingPlan(30, 1, seed=1)
    first, second = module(store, batching=batching), module(store, batching=batching)
    whole = [sequences(first.training_batches(step, plan, 0, 1)[0]) for step in range(30)]
    for step in (29, 4, 11):
        assert sequences(second.training_batches(step, plan, 0, 1)[0]) == whole[step]


def test_buckets_hold_every_sample_of_their_pool_and_little_padding(store, small_pools):
    settings = {"short_sequence_probability": 0.6}
    plan = TrainingPlan(8, 1, seed=1)
    padded, bucketed = (
        [b for step in range(8) for b in module(store, batching=kind, **settings).training_batches(step, plan, 0, 1)]
        for kind in ("padded", "bucketed")
    )
    assert sorted(s for b in padded for s in sequences(b)) == sorted(s for b in bucketed for s in sequences(b))

    def share(batches):
        return sum(b["num_tokens"] for b in batches) / sum(b["input_ids"].numel() for b in batches)

    assert share(bucketed) > share(padded) + 0.05


def test_packed_bins_are_full_lose_few_samples_and_never_repeat_one(store, monkeypatch):
    monkeypatch.setattr(pools, "TARGET_POOL_BINS", 256)
    data = module(store, batching="packed", short_sequence_probability=0.1)
    plan = TrainingPlan(32, 1, seed=1)
    batches = [b for step in range(32) for b in data.training_batches(step, plan, 0, 1)]
    num_tokens = sum(b["num_tokens"] for b in batches)
    assert all(b["input_ids"].ndim == 1 and len(b["input_ids"]) == b["num_tokens"] <= 8 * 40 for b in batches)
    assert num_tokens / (32 * 8 * 40) > 0.9
    number = data._pools(data._stages[0], 1, 32).samples_per_step * 32
    held = [s for b in batches for s in sequences(b)]
    assert 0.95 * number < len(held) <= number


def test_a_packed_batch_gives_the_same_model_output_as_its_padded_form(store, small_pools):
    data = module(store, batching="packed", short_sequence_probability=0.5)
    [packed] = data.training_batches(2, TrainingPlan(9, 1, seed=1), 0, 1)
    torch.manual_seed(0)
    config = BertConfig.preset("tiny", vocab_size=len(data.tokenizer), max_position_embeddings=40)
    model = BertForPreTraining(config).double().eval()
    out = model(packed["input_ids"], packed["token_type_ids"], None, packed["masked_positions"], packed["packing"])
    logits = []
    for number, (ids, segments, masked, _) in enumerate(sequences(packed)):
        alone = model(torch.tensor([ids]), torch.tensor([segments]))
        logits.append(alone.prediction_logits[0, [position for position, _ in masked]])
        torch.testing.assert_close(out.seq_relationship_logits[number], alone.seq_relationship_logits[0])
    torch.testing.assert_close(out.prediction_logits, torch.cat(logits))


def test_stages_change_length_and_batch_size_at_their_step_and_draw_afresh(store):
    stages = [PretrainingStage(from_step=3, max_seq_length=64, batch_size=4), PretrainingStage(5, batch_size=2)]
    data = module(store, stages=stages, short_sequence_probability=0.0)
    plan = TrainingPlan(7, 1, seed=1)
    steps = [sequences(data.training_batches(step, plan, 0, 1)[0]) for step in range(7)]
    assert [len(step) for step in steps] == [8, 8, 8, 4, 4, 2, 2]
    assert [max(len(ids) for ids, *_ in step) for step in steps] == [40, 40, 40, 64, 64, 64, 64]
    # Samples consumed before each step, of 24 + 8 + 4.
    progress = [data._progress(data._stages[n], step, plan) for step, n in enumerate([0, 0, 0, 1, 1, 2, 2])]
    assert progress == pytest.approx([n / 36 for n in (0, 8, 16, 24, 28, 32, 34)])


def test_a_stage_does_not_repeat_the_samples_of_the_earlier_one(store):
    data = module(store, stages=[PretrainingStage(from_step=3, batch_size=8)])
    plan = TrainingPlan(6, 1, seed=1)
    steps = [sequences(data.training_batches(step, plan, 0, 1)[0]) for step in range(6)]
    assert not set(steps[0] + steps[1] + steps[2]) & set(steps[3] + steps[4] + steps[5])


def test_a_stage_is_split_by_its_own_numbers(store):
    stages = [PretrainingStage(from_step=3, batch_size=6, accumulate_grad_batches=4)]
    data = module(store, length=TrainingLength(7, accumulate=2, seed=1), stages=stages)
    with pytest.raises(InputError, match=r"data\.stages\.0\.batch_size is 6; it must be a multiple of 4"):
        data.check_shares(1)
    stages = [PretrainingStage(from_step=3, batch_size=8, accumulate_grad_batches=4)]
    data = module(store, stages=stages)
    assert [len(data.training_batches(step, TrainingPlan(7, 2, 1), 0, 1)) for step in (2, 3)] == [2, 4]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_warm_up_of_the_batch_size_goes_through_all_sizes_evenly(start, increment, num_sizes, data):
    num_steps = data.draw(st.integers(num_sizes, 60))
    full = start + num_sizes * increment
    changes = [PretrainingStage(num_steps + 2, max_seq_length=64), PretrainingStage(num_steps + 3, batch_size=5)]
    stages = resolve_stages(128, full, BatchSizeWarmup(start, increment, num_steps), changes)
    sizes = [start + number * increment for number in range(num_sizes)]
    assert [stage.batch_size for stage in stages] == [*sizes, full, full, 5]
    assert [stage.max_seq_length for stage in stages] == [128] * (num_sizes + 1) + [64, 64]
    assert [stage.number for stage in stages] == list(range(num_sizes + 3))
    lengths = np.diff([stage.first_step for stage in stages])
    assert stages[0].first_step == 0
    assert lengths[:num_sizes].sum() == num_steps
    assert lengths[num_sizes:].tolist() == [2, 1]
    assert lengths.min() > 0
    assert np.ptp(lengths[:num_sizes]) <= 1
    consumed = np.cumsum([0, *(n * stage.batch_size for n, stage in zip(lengths, stages, strict=False))])
    assert [stage.samples_before for stage in stages] == consumed.tolist()


@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_a_warm_up_of_the_batch_size_gives_the_samples_of_the_same_stages(store, batching):
    warmed = module(store, batching=batching, batch_size_warmup=BatchSizeWarmup(2, 3, 5))
    stages = [PretrainingStage(2, batch_size=5), PretrainingStage(5, batch_size=8)]
    staged = module(store, batching=batching, batch_size=2, stages=stages)
    plan = TrainingPlan(7, 1, seed=1)
    for step in (6, 0, 1, 2, 4, 5):
        for one, other in zip(*(d.training_batches(step, plan, 0, 1) for d in (warmed, staged)), strict=True):
            assert torch.equal(one["input_ids"], other["input_ids"])


def test_micro_batches_of_a_warm_up_are_never_larger_than_those_of_the_full_batch(store):
    data = module(store, length=TrainingLength(6, accumulate=4, seed=1), batch_size_warmup=BatchSizeWarmup(2, 2, 4))
    plan = data.plan
    data.check_shares(1)
    shapes = [[len(b["input_ids"]) for b in data.training_batches(step, plan, 0, 1)] for step in range(6)]
    assert shapes == [[2], [2] * 2, [2] * 3, [2] * 3, [2] * 4, [2] * 4]
    with pytest.raises(
        InputError, match=r"data\.batch_size_warmup: batch size is 2; it must be a multiple of 4, which"
    ):
        data.check_shares(4)
    # Rounded up: 6 of 10 samples in one micro-batch would be more than the 5 of the full batch's two.
    data = module(store, batch_size=10, batch_size_warmup=BatchSizeWarmup(6, 4, 4))
    batches = data.training_batches(0, TrainingPlan(6, 2, seed=1), 0, 1)
    assert [len(b["input_ids"]) for b in batches] == [3, 3]


def test_a_warm_up_of_the_batch_size_that_does_not_end_is_named(store):
    data = module(store, length=TrainingLength(7, accumulate=1, seed=1), batch_size_warmup=BatchSizeWarmup(2, 2, 7))
    with pytest.raises(InputError, match=r"data\.batch_size_warmup\.num_steps 7 is never reached"):
        data.check_shares(1)
    with pytest.raises(InputError, match=r"cannot be used with data\.batch_size_warmup: set trainer\.max_steps"):
        data.num_steps_of(1.0)


def test_epochs_of_several_stages_cannot_be_counted(store):
    with pytest.raises(InputError, match=r"set trainer\.max_steps"):
        module(store, stages=[PretrainingStage(3, batch_size=4)]).num_steps_of(1.0)


@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_an_epoch_has_about_as_many_steps_as_its_samples_fill(store, small_pools, batching):
    data = module(store, batching=batching, short_sequence_probability=0.5)
    steps = data.num_steps_of(2.0)
    plan = TrainingPlan(steps, 1, seed=1)
    seen = sum(len(sequences(data.training_batches(step, plan, 0, 1)[0])) for step in range(steps))
    assert seen == pytest.approx(2 * data.num_training_samples, rel=0.15, abs=16)


def test_a_mixture_of_stores_serves_both(store, validation_store):
    settings = PretrainingData({str(store): 1.0, str(validation_store): 3.0}, max_seq_length=40, batch_size=100)
    data = PretrainingDataModule(settings)
    first, second = (module(path) for path in (store, validation_store))
    assert data.num_training_samples == first.num_training_samples + second.num_training_samples
    assert data.training_token_counts().sum() == sum(m.training_token_counts().sum() for m in (first, second))
    assert set(data.fingerprints) == {"train.0", "train.1"}
    [batch] = data.training_batches(0, TrainingPlan(3, 1, seed=1), 0, 1)
    assert len(sequences(batch)) == 100


def test_masks_are_fresh_in_each_epoch_and_repeat_in_none(store):
    data = module(store)
    total = data.num_training_samples
    plan = TrainingPlan(2 * total // 8, 1, seed=1)
    drawn = [s for step in range(plan.num_steps) for s in sequences(data.training_batches(step, plan, 0, 1)[0])]
    assert len(set(drawn)) > 0.99 * len(drawn)


def test_random_tokens_come_from_the_whole_vocabulary_on_request(store):
    from bert_lightning.data.pretraining.masking import TokenMasking

    found = {}
    for name in ("ordinary", "all"):
        masking = TokenMasking(rate=0.9, mask_share=0.0, random_share=1.0, random_tokens=name)
        data = module(store, masking=masking, batch_size=200)
        [batch] = data.training_batches(0, TrainingPlan(1, 1, seed=1), 0, 1)
        found[name] = set(batch["input_ids"].flatten()[batch["masked_positions"]].tolist())
        special = set(data.tokenizer.special_ids)
    assert not found["ordinary"] & special
    assert found["all"] & special


def test_samples_are_left_out_of_packed_bins_whatever_their_length():
    lengths = np.random.default_rng(0).integers(1, 33, 400).tolist()
    bins = pools.pack(np.array(lengths), 100, 40)
    held = {number for numbers in bins for number in numbers}
    assert held == set(range(len(held)))
    assert 100 < len(held) < 400


def test_the_buckets_of_an_epoch_that_ends_inside_a_pool_hold_all_its_samples(store, small_pools):
    data = module(store, batching="bucketed")
    plan = TrainingPlan(data.num_training_samples // 8, 1, seed=1)
    assert plan.num_steps % 8
    buckets = sorted(s for n in range(plan.num_steps) for s in sequences(data.training_batches(n, plan, 0, 1)[0]))
    padded = module(store)
    assert buckets == sorted(
        s for n in range(plan.num_steps) for s in sequences(padded.training_batches(n, plan, 0, 1)[0])
    )


def test_a_stage_after_the_end_of_training_is_an_error(store):
    stages = [PretrainingStage(from_step=7, batch_size=4)]
    data = module(store, length=TrainingLength(7, accumulate=1, seed=1), stages=stages)
    with pytest.raises(InputError, match=r"data\.stages\.0\.from_step 7 is never reached"):
        data.check_shares(1)
