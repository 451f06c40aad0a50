"""Attention between words, and attention rollout."""

import pytest
import torch
import transformers

from bert_lightning.errors import InputError
from bert_lightning.interpretability.attention import Units, attention_weights, rollout
from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.attention import ATTENTIONS, register_attention


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 3, 7, 7, generator=generator, dtype=torch.float64).softmax(-1)


def test_rows_of_rollout_sum_to_one_after_every_block(weights):
    found = rollout(weights)
    assert found.shape == (2, 4, 7, 7)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4, 7).double(), rtol=0, atol=1e-14)


def test_rollout_of_identity_attention_is_the_identity():
    identity = torch.eye(5).double()
    assert torch.equal(rollout(identity.expand(6, 2, 5, 5)), identity.expand(6, 5, 5))


def test_rollout_equals_the_product_of_halved_matrices_written_out(weights):
    product = torch.eye(7).double()
    for number in range(4):
        halved = torch.zeros(7, 7).double()
        for row in range(7):
            for column in range(7):
                heads = [weights[0, number, head, row, column] for head in range(3)]
                halved[row, column] = 0.5 * sum(heads) / 3 + 0.5 * (row == column)
        product = halved @ product
        torch.testing.assert_close(rollout(weights)[0, number], product, rtol=0, atol=1e-14)


def test_attention_equals_that_of_transformers_with_padding(tmp_path):
    torch.manual_seed(0)
    config = BertConfig.preset("tiny", vocab_size=50)
    encoder = BertEncoder(config).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    encoder.save_pretrained(tmp_path)
    theirs = transformers.BertModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids, mask = torch.tensor([[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    encoder.attention = "sdpa"
    found = attention_weights(encoder, ids, None, mask)
    assert encoder.attention == "sdpa"
    with torch.no_grad():
        expected = torch.stack(theirs(ids, attention_mask=mask, output_attentions=True).attentions, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 2, 5), rtol=0, atol=1e-6)


def without_weights(query, key, value, layout, dropout):
    return value


def packed(query, key, value, layout, dropout):
    return value


packed.takes_packed = True


@pytest.mark.parametrize("attention", [without_weights, packed])
def test_a_custom_attention_without_weights_is_refused_by_name(attention):
    name = f"explained-{attention.__name__}"
    if name not in ATTENTIONS:
        register_attention(name, attention)
    encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=50, attention=name))
    with pytest.raises(InputError, match=f"'{name}' returns no attention weights"):
        attention_weights(encoder, torch.tensor([[2, 7, 3]]), None, None)


def test_weights_to_a_word_are_summed_over_its_pieces_and_weights_from_it_averaged():
    # [CLS] a ##b c [SEP] [PAD]
    units = Units.of(torch.tensor([-1, 0, 0, 1, -1, -1]), num_tokens=5)
    assert units.words == [-1, 0, 1, -1]
    assert units.firsts == [0, 1, 3, 4]
    weights = torch.zeros(6, 6)
    weights[:5, :5] = torch.tensor(
        [
            [0.1, 0.2, 0.3, 0.4, 0.0],
            [0.5, 0.0, 0.1, 0.0, 0.4],
            [0.1, 0.2, 0.2, 0.5, 0.0],
            [0.2, 0.2, 0.2, 0.2, 0.2],
            [0.0, 0.0, 1.0, 0.0, 0.0],
        ]
    )
    expected = [[0.1, 0.5, 0.4, 0.0], [0.3, 0.25, 0.25, 0.2], [0.2, 0.4, 0.2, 0.2], [0.0, 1.0, 0.0, 0.0]]
    torch.testing.assert_close(units.between(weights), torch.tensor(expected))


def test_neighbouring_special_tokens_stay_apart_and_two_words_in_a_row_too():
    units = Units.of(torch.tensor([-1, -1, 3, 4, 4, -1, -1]), num_tokens=7)
    assert units.words == [-1, -1, 3, 4, -1, -1]
    assert units.membership.sum(1).tolist() == [1, 1, 1, 2, 1, 1]
