"""Packed tokens and masked tokens are rounded to few numbers, with rows that count for nothing."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bert_lightning.model import BertConfig, BertEncoder, BertForPreTraining, bert, encoder
from bert_lightning.model.layers import packing as packing_module
from bert_lightning.model.layers.packing import groups_of_lengths, packing_of, round_size

V = 50
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


@pytest.mark.parametrize("num_sizes", [4, 8, 32])
def test_a_rounded_size_is_the_next_of_few_sizes(num_sizes):
    sizes = range(1, 5000)
    rounded = [round_size(size, num_sizes) for size in sizes]
    assert rounded == sorted(rounded)
    for size, result in zip(sizes, rounded, strict=True):
        assert size <= result == round_size(result, num_sizes)
        assert result - size < max(8, size / num_sizes)
    for octave in (256, 512, 1024):
        assert len({result for result in rounded if octave < result <= 2 * octave}) == min(num_sizes, octave // 8)
    assert round_size(0) == 0


def test_groups_hold_the_sequences_in_order_in_powers_of_two_and_few_lengths():
    generator = np.random.default_rng(0)
    forms = set()
    for _ in range(300):
        lengths = np.where(generator.random(32) < 0.1, generator.integers(0, 129, 32), 128).tolist()
        for order in (lengths, sorted(lengths)):
            groups = groups_of_lengths(order)
            assert [length for group in groups for length in group.lengths] == [length for length in order if length]
            for group in groups:
                assert group.num_tokens == sum(group.lengths)
                assert max(group.lengths) <= group.padded_length <= 128
                assert len(group.lengths).bit_count() == 1
                # Sequences that need no padding are not padded along with others.
                assert group.is_padded == (group.lengths[0] != group.padded_length)
                assert group.is_padded == (group.lengths[-1] != group.padded_length)
                forms.add((len(group.lengths), group.padded_length))
    # Six numbers from 1 to 32, and twelve lengths: 8 to 64 in steps of 8, then 80 to 128 in steps of 16.
    assert len(forms) <= 6 * 12
    assert groups_of_lengths([]) == []


def config_of(**changes):
    rates = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    return BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=64, **{**rates, **changes})


def lengths_and_inputs(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    packing = packing_of(torch.tensor(lengths))
    ids, segments = (torch.randint(0, high, (sum(lengths),), generator=generator) for high in (V, 2))
    return ids, segments, packing


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_rows_that_round_the_tokens_change_neither_outputs_nor_gradients_nor_dropout(monkeypatch, pooling, rate):
    ids, segments, packing = lengths_and_inputs([33, 40, 7, 64, 64, 64, 61])
    torch.manual_seed(0)
    model = BertEncoder(config_of(pooling=pooling, hidden_dropout_prob=rate)).double()
    results = []
    for rounding in (round_size, lambda size: size):
        monkeypatch.setattr(encoder, "round_size", rounding)
        torch.manual_seed(1)
        output = model(ids, segments, packing=packing, output_hidden_states=True)
        model.zero_grad()
        (output.last_hidden_state.sin().sum() + output.pooler_output.sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([output.last_hidden_state, output.pooler_output, *output.hidden_states, *gradients])
    for rounded, exact in zip(*results, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=1e-10, atol=1e-12)


class ProductShapes(TorchDispatchMode):
    """Collects the shapes of the factors of each matrix product."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in PRODUCTS:
            self.shapes.add(tuple(tuple(x.shape) for x in args if isinstance(x, torch.Tensor) and x.dim() > 1))
        return function(*args, **(kwargs or {}))


def product_shapes(model, generator, num_batches):
    """Return the shapes in training steps over batches as pre-training draws them."""
    with ProductShapes() as seen:
        for _ in range(num_batches):
            lengths = np.where(generator.random(16) < 0.1, generator.integers(8, 65, 16), 64)
            real = torch.arange(64) < torch.from_numpy(lengths)[:, None]
            masked = (real & (torch.rand(real.shape) < 0.15)).flatten().nonzero().squeeze(1)
            inputs = torch.randint(0, V, real.shape)
            loss, pairs = model.losses(inputs, None, real, masked, inputs.flatten()[masked])
            (loss.loss + pairs.sum()).backward()
    return seen.shapes


def test_products_of_fresh_batches_have_the_shapes_of_earlier_ones(monkeypatch):
    monkeypatch.setattr(packing_module, "_TOKENS_PER_GROUP", 1)
    torch.manual_seed(0)
    model = BertForPreTraining(config_of()).train()
    before = product_shapes(model, np.random.default_rng(1), 40)
    fresh = product_shapes(model, np.random.default_rng(2), 40)
    for module in (bert, encoder):
        monkeypatch.setattr(module, "round_size", lambda size: size)
    not_rounded = product_shapes(model, np.random.default_rng(2), 40)
    assert len(fresh - before) * 10 < len(not_rounded - before)
    assert len(fresh) * 2 < len(not_rounded)
