"""The distribution of initial weights, compared with its closed form."""

import math

import torch

from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.model.initialization import fill_truncated_normal


def test_initial_weights_have_the_normal_distribution_cut_off_at_two_standard_deviations():
    torch.manual_seed(1)
    values = torch.empty(1000, 1000)
    fill_truncated_normal(values, 0.02)
    assert values.abs().max() <= 0.04
    within = math.erf(2 / math.sqrt(2))
    for bound in torch.linspace(-2, 2, 21).tolist():
        # P(x < bound) of a normal variable given that |x| <= 2.
        expected = (math.erf(bound / math.sqrt(2)) + within) / (2 * within)
        share = (values < 0.02 * bound).double().mean().item()
        assert abs(share - expected) <= 5 * math.sqrt(0.25 / values.numel())


def test_every_matrix_of_a_model_is_drawn_from_it_and_the_seed_decides_the_draw():
    config = BertConfig.preset("tiny", vocab_size=500, initializer_range=0.3)
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(dict(BertForPreTraining(config).named_parameters()))
    # Standard deviation of a normal variable that is cut off at 2: sqrt(1 - 4 phi(2) / P(|x| <= 2)).
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    spread = 0.3 * math.sqrt(1 - 4 * density / math.erf(2 / math.sqrt(2)))
    for name, weights in models[0].items():
        if weights.dim() > 1:
            assert weights.abs().max() <= 0.6, name
            # The relative standard error of a standard deviation is at most sqrt(1 / 2n), that of a normal variable.
            assert abs(weights.std() - spread) <= 6 * spread / math.sqrt(2 * weights.numel()), name
            assert torch.equal(weights, models[1][name]), name
            assert not torch.equal(weights, models[2][name]), name
