"""The number of operations of a model's matrix products."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.model.operations import forward_operations, training_operations


@pytest.mark.parametrize("changes", [{}, {"embedding_size": 24}, {"intermediate_size": 40}, {"num_hidden_layers": 3}])
def test_operations_are_those_that_torch_counts(changes):
    config = BertConfig.preset("tiny", vocab_size=50, max_position_embeddings=16, **changes)
    model = BertForPreTraining(config)
    # A number of masked tokens that is not rounded.
    ids, positions = torch.randint(5, 50, (3, 10)), torch.tensor([1, 9, 20, 22, 23, 25, 27, 29])
    with FlopCounterMode(display=False) as counter:
        model.losses(ids, None, None, positions, torch.arange(5, 13))
    # The two next-sentence scores are not counted.
    expected = counter.get_total_flops() - 2 * 3 * config.hidden_size * 2
    assert forward_operations(config, 30, 3 * 10**2, 3, 8) == expected
    assert training_operations(config, 30, 3 * 10**2, 3, 8) == 3 * expected
