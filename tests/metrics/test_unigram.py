import math

import pytest
import torch

from bert_lightning.metrics.unigram import UnigramBaseline


def test_the_baseline_is_cross_entropy_under_smoothed_frequencies():
    metric = UnigramBaseline(torch.tensor([0, 5, 2]))
    metric.update(torch.tensor([1, 1]))
    metric.update(torch.tensor([2, 0]))
    probabilities = [1 / 10, 6 / 10, 3 / 10]
    expected = -sum(math.log(probabilities[token]) for token in (1, 1, 2, 0)) / 4
    assert metric.compute()["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert metric.compute()["accuracy"].item() == 0.5
