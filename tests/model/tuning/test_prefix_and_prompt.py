"""Prefixes and prompts are seen by every token, belong to none, and are where they were published."""

import pytest
import torch

from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.attention import Layout, eager, layout_of, register_attention
from bert_lightning.model.layers.front import Front
from bert_lightning.model.layers.packing import packing_of
from bert_lightning.model.tuning import Prefix, Prompt, tune
from tests.support.tuned_models import CONFIG, IDS, MASK, disturb, make, num_trained

HEADS, WIDTH = CONFIG.num_attention_heads, CONFIG.hidden_size


def rows(batch=2, length=5):
    return torch.randn(batch, length, 3 * WIDTH, dtype=torch.float64)


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [(Prefix(length=20), 368_640), (Prefix(length=10), 184_320), (Prompt(length=20), 20 * 768)],
)
def test_they_train_as_many_parameters_as_published(tuning, expected):
    assert num_trained(tuning, "base") == expected


# -- The front ---------------------------------------------------------------------------------------------------


def test_vectors_that_are_masked_out_change_nothing():
    values, mask = rows(), layout_of(MASK)
    front = Front.of(values, mask, length=3)
    joined = front.join(torch.randn(2, 3, 3 * WIDTH), values)
    hidden = torch.cat([torch.zeros(2, 1, 1, 3, dtype=torch.bool), front.layout.mask[..., 3:]], -1)
    context = front.remove(eager(joined, Layout(hidden), HEADS, 0.0).context)
    # Their weights are exactly 0. Sums of five float64 terms of size 1 may have another order.
    torch.testing.assert_close(context, eager(values, mask, HEADS, 0.0).context, rtol=0, atol=5e-15)
    assert front.layout.mask[..., :3].all()


@pytest.mark.parametrize("lengths", [[3], [1, 4, 2], [2, 0, 3]])
@pytest.mark.parametrize("num_rest", [0, 3])
def test_packed_vectors_are_in_front_of_each_sequence_and_the_rest_stays_last(lengths, num_rest):
    packing = packing_of(torch.tensor(lengths))
    total = sum(lengths) + num_rest
    values = torch.arange(total)[:, None].double() + 100
    vectors = torch.arange(len(lengths) * 2).view(-1, 2, 1).double()
    front = Front.of(values, Layout(packing=packing), length=2)
    joined, expected, first = front.join(vectors, values), [], 0
    for number, length in enumerate(lengths):
        expected += [2 * number, 2 * number + 1, *range(100 + first, 100 + first + length)]
        first += length
    expected += range(100 + first, 100 + total)
    assert joined[:, 0].tolist() == expected
    assert front.layout.packing.lengths.tolist() == [length + 2 for length in lengths]
    assert front.layout.packing.max_length == max(lengths) + 2
    assert torch.equal(front.remove(joined), values)


# -- Prefix ------------------------------------------------------------------------------------------------------


def test_a_prefix_that_copies_keys_and_values_of_a_token_counts_that_token_twice():
    block = make(Prefix(length=1, dropout=0.0), cls=BertEncoder)[0].double().layers[0]
    values = rows(batch=1)
    query, key, value = values[0].chunk(3, -1)
    block.prefix.key.data, block.prefix.value.data = key[2:3].clone(), value[2:3].clone()
    context, weights = block.prefix(lambda joined, layout: eager(joined, layout, HEADS, 0.0), values, Layout())
    size = WIDTH // HEADS
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        powers = torch.exp(query[:, own] @ key[:, own].T / size**0.5)
        powers[:, 2] *= 2
        shares = powers / powers.sum(-1, keepdim=True)
        torch.testing.assert_close(context[0, :, own], shares @ value[:, own])
        shares[:, 2] /= 2
        torch.testing.assert_close(weights[0, head], shares)


def test_every_block_has_keys_and_values_that_begin_standard_normal():
    torch.manual_seed(0)
    encoder = BertEncoder(BertConfig(vocab_size=30, num_hidden_layers=2, hidden_size=128, num_attention_heads=2))
    tune(encoder, Prefix(length=50))
    tensors = [tensor for block in encoder.layers for tensor in (block.prefix.key, block.prefix.value)]
    assert len({tensor[0, 0].item() for tensor in tensors}) == 4
    for tensor in tensors:
        assert tensor.shape == (50, 128)
        assert float(tensor.detach().std()) == pytest.approx(1, abs=0.05)
        assert float(tensor.detach().mean()) == pytest.approx(0, abs=0.05)


def test_dropout_of_a_prefix_acts_in_training_alone_and_on_each_sequence_apart():
    encoder = make(Prefix(length=4, dropout=0.5), cls=BertEncoder)[0].double()
    ids = IDS[:1].expand(2, -1)
    first, second = encoder.train()(ids).last_hidden_state
    assert not torch.equal(first, second)
    encoder.eval()
    assert torch.equal(encoder(ids).last_hidden_state, encoder(ids).last_hidden_state)
    # Without dropout of its own, training computes what evaluation does.
    plain = make(Prefix(length=4, dropout=0.0), cls=BertEncoder)[0].double().train()
    torch.testing.assert_close(plain(ids).last_hidden_state, encoder(ids).last_hidden_state)


def test_a_custom_attention_sees_the_prefix_as_further_keys():
    lengths = []

    def counting(query, key, value, layout, dropout):
        lengths.append((query.shape[2], key.shape[2], layout.mask.shape[-1]))
        scores = (query @ key.mT).masked_fill(~layout.mask, -1e9)
        return scores.softmax(-1) @ value

    register_attention("counting_keys", counting)
    encoder = BertEncoder(CONFIG.replace(attention="counting_keys"))
    tune(encoder, Prefix(length=3))
    assert encoder.eval()(IDS, attention_mask=MASK).last_hidden_state.shape == (*IDS.shape, WIDTH)
    assert lengths == [(8, 8, 8)] * CONFIG.num_hidden_layers


# -- Prompt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_cls", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_prompt_is_vectors_between_embeddings_and_blocks_and_its_place_does_not_matter(after_cls, pooling):
    encoder, base = make(Prompt(length=3), cls=BertEncoder)
    encoder, base = disturb(encoder.double()).eval(), base.double().eval()
    for each in (encoder, base):
        each.config = CONFIG.replace(pooling=pooling)
    hidden, prompt = base.embed(IDS), encoder.embeddings.prompt.expand(2, -1, -1)
    place = 1 if after_cls else 0
    joined = torch.cat([hidden[:, :place], prompt, hidden[:, place:]], 1)
    mask = torch.cat([MASK[:, :place], torch.ones(2, 3), MASK[:, place:]], 1)
    expected = base.encode(joined, layout_of(mask), output_hidden_states=True)
    actual = encoder(IDS, attention_mask=MASK, output_hidden_states=True)
    for ours, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        tokens = torch.cat([theirs[:, :place], theirs[:, place + 3 :]], 1)
        torch.testing.assert_close(ours, tokens, rtol=0, atol=1e-12)
    if pooling == "cls" and after_cls:
        torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=0, atol=1e-12)
    if pooling == "mean":
        means = [row[mask.bool()].mean(0) for row, mask in zip(actual.last_hidden_state, MASK, strict=True)]
        pooled = torch.tanh(base.pooler(torch.stack(means)))
        torch.testing.assert_close(actual.pooler_output, pooled, rtol=0, atol=1e-12)


def test_a_prompt_begins_as_embeddings_of_entries_of_the_vocabulary():
    encoder, base = make(Prompt(length=6), cls=BertEncoder)
    every = base.eval().embed(torch.arange(CONFIG.vocab_size)[:, None])[:, 0]
    for vector in encoder.embeddings.prompt:
        assert (every == vector).all(-1).any()
    assert len({tuple(vector.tolist()) for vector in encoder.embeddings.prompt}) > 1


def test_a_perturbation_of_the_embeddings_changes_tokens_and_no_prompt():
    encoder = disturb(make(Prompt(length=3), cls=BertEncoder)[0].double()).eval()
    perturbation = torch.zeros(*IDS.shape, WIDTH, dtype=torch.float64, requires_grad=True)
    with encoder.perturbed(perturbation):
        encoder(IDS, attention_mask=MASK).last_hidden_state[MASK.bool()].square().sum().backward()
    assert (perturbation.grad.abs().sum(-1) > 0).eq(MASK.bool()).all()


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (Prefix, {"length": 0}, "length is 0"),
        (Prefix, {"dropout": 1.0}, "dropout is 1.0"),
        (Prompt, {"length": 0}, "length is 0"),
    ],
)
def test_impossible_settings_name_their_field(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)
