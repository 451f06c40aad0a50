"""The number of operations of a model's matrix products."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bert_lightning.model import BertConfig, BertEncoder, BertForPreTraining
from bert_lightning.model.operations import forward_operations, training_passes


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


TRAINED = {
    "everything": lambda encoder: True,
    "nothing": lambda encoder: False,
    "biases": lambda encoder: [each for name, each in encoder.named_parameters() if name.endswith("bias")],
    "two of four blocks": lambda encoder: [*encoder.layers[2:].parameters(), *encoder.pooler.parameters()],
    "the lowest block": lambda encoder: [*encoder.layers[0].parameters()],
}


def test_a_norm_after_the_blocks_does_not_count_as_one_below_them():
    config = BertConfig.preset("tiny", vocab_size=50, num_hidden_layers=4, norm_placement="pre")
    encoder = BertEncoder(config)
    assert encoder.final_norm is not None
    encoder.requires_grad_(False)
    encoder.final_norm.requires_grad_(True)
    assert training_passes(encoder) == 1, "nothing below the head has a backward pass"


@pytest.mark.parametrize("trained", TRAINED)
def test_passes_are_those_that_torch_counts_for_the_parameters_that_train(trained):
    config = BertConfig.preset("tiny", vocab_size=50, max_position_embeddings=64, num_hidden_layers=4)
    encoder = BertEncoder(config)
    chosen = TRAINED[trained](encoder)
    if not isinstance(chosen, bool):
        encoder.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
    else:
        encoder.requires_grad_(chosen)
    ids = torch.randint(5, 50, (8, 8))
    # A head trains in any case.
    head = torch.nn.Linear(config.hidden_size, 2)
    with FlopCounterMode(display=False) as counter:
        encoded = encoder(ids)
        head(encoded.last_hidden_state).sum().backward()
    forward = forward_operations(config, 64, 8 * 8**2, 0, 0)
    # The products of attention have no weights, and the lowest block that trains passes no gradient on.
    assert counter.get_total_flops() == pytest.approx(forward * training_passes(encoder), rel=0.05)
