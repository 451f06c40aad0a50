import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.model import BertConfig, BertForPreTraining

V = 211


def small(size: str = "tiny", act: str = "gelu_new") -> BertConfig:
    return BertConfig.preset(size, vocab_size=V, num_hidden_layers=2, max_position_embeddings=48, hidden_act=act)


def make_batch(padded: bool):
    torch.manual_seed(1)
    ids = torch.randint(5, V, (3, 24))
    segments = (torch.arange(24) >= 10).long().expand(3, -1).contiguous()
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 15:] = 0
        mask[2, 3:] = 0
    return ids, segments, mask


def test_scores_at_masked_positions_are_those_of_the_full_output():
    model = BertForPreTraining(small()).eval()
    ids, segments, mask = make_batch(padded=True)
    positions = torch.tensor([0, 25, 50])
    full = model(ids, segments, mask).prediction_logits.flatten(0, 1)[positions]
    torch.testing.assert_close(model(ids, segments, mask, positions).prediction_logits, full)


@settings(max_examples=20)
@given(length=st.integers(1, 23), seed=st.integers(0, 1000))
def test_padding_never_changes_real_tokens(length: int, seed: int):
    torch.manual_seed(seed)
    model = BertForPreTraining(small()).double().eval()
    ids = torch.randint(5, V, (1, length))
    alone = model(ids).prediction_logits
    padded = torch.cat([ids, torch.randint(0, V, (1, 24 - length))], dim=1)
    mask = (torch.arange(24) < length)[None]
    out = model(padded, None, mask).prediction_logits[:, :length]
    torch.testing.assert_close(out, alone, rtol=1e-10, atol=1e-12)


def test_word_embeddings_and_mlm_decoder_are_one_matrix():
    model = BertForPreTraining(small())
    ids, segments, _ = make_batch(padded=False)
    model(ids, segments).prediction_logits.sum().backward()
    unused = sorted(set(range(V)) - set(ids.flatten().tolist()))
    # Tokens that are not in the input get a gradient only through the decoder.
    assert model.encoder.embeddings.word.weight.grad[unused].abs().sum() > 0


def test_initial_weights_lie_within_two_deviations_and_biases_are_zero():
    torch.manual_seed(0)
    model = BertForPreTraining(small())
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.abs().max() <= 0.04, name
            # A normal distribution truncated at two standard deviations has 0.8796 of its standard deviation.
            # Five standard errors of the estimate.
            tolerance = 5 / (2 * parameter.numel()) ** 0.5
            assert parameter.std().item() == pytest.approx(0.02 * 0.8796, rel=tolerance), name


def test_a_sequence_beyond_the_position_table_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="49 tokens is longer than the position table \\(48\\)"):
        BertForPreTraining(small())(torch.zeros(1, 49, dtype=torch.long))


@pytest.mark.parametrize(
    ("size", "millions"),
    [("tiny", 4.39), ("mini", 11.17), ("small", 28.76), ("medium", 41.37), ("base", 109.48), ("large", 335.14)],
)
def test_presets_have_the_published_number_of_parameters(size, millions):
    from bert_lightning.model import BertEncoder

    with torch.device("meta"):
        encoder = BertEncoder(BertConfig.preset(size))
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3}, "not a multiple"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hiden_size": 128}, "did you mean 'hidden_size'"),
        ({"hidden_act": "geglu"}, "hidden_act is 'geglu'; known: gelu_new, gelu"),
    ],
)
def test_an_impossible_config_names_the_field(values, message):
    with pytest.raises(ValueError, match=message):
        BertConfig.preset("tiny", **values)
