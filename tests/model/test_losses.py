import re

import pytest
import torch

from bert_lightning.model import BertConfig, BertForRelationClassification
from bert_lightning.model.losses import sequence_losses, span_losses


def test_targets_are_not_rounded_to_the_precision_of_the_scores():
    logits = torch.zeros(2, 1, dtype=torch.bfloat16)
    losses = sequence_losses(logits, torch.tensor([3.8, 1234.5]), "regression")
    torch.testing.assert_close(losses, torch.tensor([3.8**2, 1234.5**2]))
    assert losses.dtype == torch.float32


def test_labels_of_another_shape_are_an_error():
    for problem_type in ("regression", "multi_label_classification"):
        with pytest.raises(ValueError, match=r"labels have shape \(3, 2\), but logits have shape \(2, 3\)"):
            sequence_losses(torch.zeros(2, 3), torch.zeros(3, 2), problem_type)
    for labels in (torch.zeros(3, dtype=torch.long), torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"labels have shape \(.*\), but logits have shape \(2, 3\)"):
            sequence_losses(torch.zeros(2, 3), labels, "single_label_classification")


@pytest.mark.parametrize("name", ["end_logits", "starts", "ends", "attention_mask"])
def test_spans_of_another_shape_are_an_error_that_names_the_argument(name):
    given = {
        "start_logits": torch.zeros(2, 9),
        "end_logits": torch.zeros(2, 9),
        "starts": torch.ones(2, dtype=torch.long),
        "ends": torch.ones(2, dtype=torch.long),
        "attention_mask": torch.ones(2, 9),
    }
    shape = tuple(given[name].shape)
    given[name] = given[name][:1]
    found = re.escape(f"{(1, *shape[1:])}; expected {shape}")
    with pytest.raises(ValueError, match=f"{name} has shape {found}"):
        span_losses(**given)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 3), (2,)])
def test_relations_need_two_positions_in_each_sequence(shape):
    config = BertConfig.preset("tiny", vocab_size=9, hidden_size=16, max_position_embeddings=8)
    model = BertForRelationClassification(config)
    with pytest.raises(ValueError, match=r"entity_positions is of shape \(.*\); expected \(2, 2\)"):
        model(torch.ones(2, 5, dtype=torch.long), entity_positions=torch.zeros(shape, dtype=torch.long))


def test_a_span_loss_with_the_mask_is_that_of_the_sequence_alone():
    torch.manual_seed(0)
    start, end = torch.randn(1, 9), torch.randn(1, 9)
    starts, ends = torch.tensor([1]), torch.tensor([3])
    mask = torch.arange(9)[None] < 5
    alone = span_losses(start[:, :5], end[:, :5], starts, ends)
    torch.testing.assert_close(span_losses(start, end, starts, ends, mask), alone)
    assert span_losses(start, end, starts, ends) > alone


@pytest.mark.parametrize("outside", [-1, -5, 9, 100])
def test_a_position_outside_the_window_does_not_count(outside):
    start, end = torch.randn(1, 9), torch.randn(1, 9)
    losses = span_losses(start, end, torch.tensor([outside]), torch.tensor([outside]))
    assert losses.tolist() == [0]
