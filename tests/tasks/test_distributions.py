"""Distributions of predictions, and the part of them that belongs to some labels."""

import pytest
import torch

from bert_lightning.tasks.distributions import divergence, each_of, one_of

BEFORE = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
NOW = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize("possible", [False, True])
def test_a_choice_among_some_labels_is_a_softmax_over_them(possible):
    masks = [each.isfinite() if possible else None for each in (NOW, BEFORE)]
    found = divergence(
        *(one_of(each, mask).among([0, 2]) for each, mask in zip((NOW, BEFORE), masks, strict=True)), 1
    )
    expected, predicted = (each[:, [0, 2]].log_softmax(-1) for each in (BEFORE, NOW))
    torch.testing.assert_close(found, (expected.exp() * (expected - predicted)).sum())


def test_independent_labels_that_are_not_among_them_have_no_part():
    moved = BEFORE.clone()
    moved[:, 1] += 5
    assert divergence(each_of(moved).among([0, 2]), each_of(BEFORE).among([0, 2]), 2) == 0
    found = divergence(each_of(NOW).among([0, 2]), each_of(BEFORE).among([0, 2]), 1)
    expected, predicted = (each[:, [0, 2]].sigmoid() for each in (BEFORE, NOW))
    each = expected * (expected / predicted).log() + (1 - expected) * ((1 - expected) / (1 - predicted)).log()
    torch.testing.assert_close(found, each.mean(-1).sum())
