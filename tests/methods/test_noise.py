"""Noise of embeddings: a pure function of seed, step and sequence, with the stated distributions."""

import functools
import operator

import torch
from scipy import stats

from bert_lightning.data.loading.randomness import random_bits
from bert_lightning.methods.adversarial.noise import Noise, _mixed
from bert_lightning.model.layers.packing import packing_of
from tests.support.methods import ADVERSARIAL, NO_DROPOUT, first_batch, gradients, maker


def padded(rows, width):
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": ids > 0}


ROWS = [[2, 5, 6, 3], [2, 7, 3], [2, 5, 6, 8, 3]]


def noise(step=0, seed=0):
    source = Noise()
    source.begin_step(step, 10, seed)
    return source


def test_it_depends_on_the_sequence_alone_and_not_on_its_batch_padding_or_packing():
    whole = noise().normal(padded(ROWS, 5), 4)
    for number, row in enumerate(ROWS):
        alone = padded([row], len(row))
        assert torch.equal(noise().normal(alone, 4)[0], whole[number, : len(row)])
        assert torch.equal(noise().normal({**alone, "attention_mask": None}, 4)[0], whole[number, : len(row)])
    ids = torch.tensor(functools.reduce(operator.iadd, ROWS, []))
    lengths = torch.tensor([len(row) for row in ROWS])
    packed = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "packing": packing_of(lengths)}
    assert torch.equal(noise().normal(packed, 4), torch.cat([whole[n, : len(row)] for n, row in enumerate(ROWS)]))
    choices = {name: values[None] for name, values in padded(ROWS, 5).items()}
    assert torch.equal(noise().normal(choices, 4)[0], whole)


def test_it_differs_between_steps_seeds_sequences_and_segments():
    batch = padded(ROWS[:1], 4)
    other_segments = {**batch, "token_type_ids": torch.tensor([[0, 0, 1, 1]])}
    found = [
        noise().uniform(batch, 4),
        noise(step=1).uniform(batch, 4),
        noise(seed=1).uniform(batch, 4),
        noise().uniform(other_segments, 4),
        noise().uniform(padded([[2, 6, 5, 3]], 4), 4),
    ]
    values = torch.cat([each.flatten() for each in found])
    assert len(values.unique()) == values.numel()


def test_it_has_the_distributions_that_it_names():
    torch.manual_seed(0)
    ids = torch.randint(1, 1000, (40, 50))
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": None}
    uniform = noise().uniform(batch, 20).flatten()
    assert uniform.abs().max() < 1
    assert stats.kstest(uniform, stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(noise().normal(batch, 20).flatten(), "norm").pvalue > 0.01
    # Neighbouring features, tokens and sequences are independent.
    values = noise().normal(batch, 20)
    for one, other in (
        (values[1:], values[:-1]),
        (values[:, 1:], values[:, :-1]),
        (values[..., 1:], values[..., :-1]),
    ):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.02


def test_its_bits_are_those_of_the_counter_based_generator_of_the_data():
    counters = torch.arange(1000)
    increment = -(2**64 - 0x9E3779B97F4A7C15)
    found = _mixed(7 + (counters + 1) * increment).numpy().view("uint64")
    assert (found == random_bits(7, counters.numpy())).all()


def test_packed_sequences_are_perturbed_as_padded_ones_are(experiments, recorded):
    make = maker(experiments["pretraining"])
    for name in ("pgd", "freelb", "smart"):
        student, batch = first_batch(make(*ADVERSARIAL[name], *NO_DROPOUT, "--data.batching=packed"))
        student.model.double()
        packing = batch["packing"]
        assert len(packing.lengths.unique()) > 1
        recorded.clear()
        of_packed = gradients(student, batch)
        unpacked = as_padded(batch, packing.lengths)
        packed_perturbation = recorded[-1]
        recorded.clear()
        of_padded = gradients(student, unpacked)
        mask = unpacked["attention_mask"]
        torch.testing.assert_close(recorded[-1][mask], packed_perturbation, rtol=1e-4, atol=1e-8)
        for one, other in zip(of_packed, of_padded, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def as_padded(batch, lengths):
    """The same micro-batch with padding."""
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    places = mask.flatten().nonzero().squeeze(1)

    def spread(values):
        return values.new_zeros(mask.numel()).index_copy(0, places, values).view(mask.shape)

    changed = {name: spread(batch[name]) for name in ("input_ids", "token_type_ids")}
    others = {name: value for name, value in batch.items() if name != "packing"}
    return {**others, **changed, "attention_mask": mask, "masked_positions": places[batch["masked_positions"]]}
