"""Adapters stand where they were published, begin as published except for the zeros, and have the published sizes."""

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.attention import Backend, eager, layout_of
from bert_lightning.model.tuning import Adapter, tune
from tests.support.tuned_models import CONFIG, IDS, MASK, disturb, make, num_trained


@pytest.mark.parametrize(
    ("settings", "preset", "expected"),
    [
        ({"placement": "pfeiffer"}, "base", 894_528),
        ({"placement": "pfeiffer", "size": 48}, "base", 894_528),
        ({"placement": "houlsby", "reduction": 16, "layer_norm": False}, "base", 1_789_056),
        ({"placement": "houlsby", "size": 64, "layer_norm": False}, "base", 2_379_264),
        ({"placement": "houlsby", "size": 64, "layer_norm": False}, "large", 6_343_680),
        # As published, LayerNorm trains too: two vectors for each of 25 norms.
        ({"placement": "houlsby", "size": 64}, "base", 2_379_264 + 25 * 2 * 768),
        ({"placement": "pfeiffer", "layer_norm": True}, "base", 894_528 + 25 * 2 * 768),
    ],
)
def test_adapters_train_as_many_parameters_as_published(settings, preset, expected):
    assert num_trained(Adapter(**settings), preset) == expected


def norm(layer, values):
    return F.layer_norm(values, values.shape[-1:], layer.weight, layer.bias, layer.eps)


def bottleneck(adapter, values, function):
    return function(values @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_a_block_with_adapters_computes_the_published_form(placement):
    encoder = disturb(make(Adapter(placement, size=3), cls=BertEncoder)[0].double()).eval()
    encoder.attention = "eager"
    states = encoder(IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    base = make(Adapter(placement, size=3), cls=BertEncoder)[1].double().eval()
    base.attention = "eager"
    for block, plain, before, after in zip(encoder.layers, base.layers, states, states[1:], strict=False):
        # LayerNorm trains with houlsby.
        plain.attention_norm.load_state_dict(block.attention_norm.state_dict())
        plain.output_norm.load_state_dict(block.output_norm.state_dict())
        attention = plain._attention(before, layout_of(MASK), Backend(eager))[0]
        if placement == "houlsby":
            attention = attention + bottleneck(block.attention_adapter, attention, F.gelu)
        middle = norm(plain.attention_norm, before + attention)
        output = plain._feed_forward(middle)
        if placement == "houlsby":
            output = output + bottleneck(block.output_adapter, output, F.gelu)
        else:
            read = norm(plain.output_norm, middle + output)
            output = output + bottleneck(block.output_adapter, read, F.relu)
        torch.testing.assert_close(norm(plain.output_norm, middle + output), after)


def test_matrices_down_begin_normal_and_cut_at_two_deviations_and_matrices_up_as_zeros():
    torch.manual_seed(0)
    encoder = BertEncoder(BertConfig(vocab_size=30, num_hidden_layers=1, hidden_size=128, num_attention_heads=2))
    tune(encoder, Adapter("houlsby", size=64))
    for adapter in (encoder.layers[0].attention_adapter, encoder.layers[0].output_adapter):
        weights = adapter.down.weight.detach()
        assert 0.019 < weights.abs().max() <= 0.02
        # The deviation of a normal that is cut at two deviations is 0.8796 of it.
        assert float(weights.std()) == pytest.approx(0.01 * 0.8796, rel=0.05)
        assert not any(each.any() for each in (adapter.down.bias, adapter.up.weight, adapter.up.bias))


def test_houlsby_adapters_work_in_a_block_with_norms_before_the_sublayers():
    config = CONFIG.replace(norm_placement="pre")
    encoder = BertEncoder(config).double()
    expected = encoder(IDS, attention_mask=MASK).last_hidden_state
    tune(encoder, Adapter("houlsby", size=3))
    assert torch.equal(encoder(IDS, attention_mask=MASK).last_hidden_state, expected)
    with pytest.raises(ValueError, match="placement is pfeiffer, which reads the LayerNorm after a residual sum"):
        tune(BertEncoder(config), Adapter("pfeiffer"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"reduction": 0}, "reduction is 0"),
        ({"size": 8, "reduction": 2}, "size or tuning.reduction may be set, and not both"),
        ({"reduction": 17}, "reduction is 17, more than the hidden size"),
    ],
)
def test_impossible_settings_of_adapters_name_their_field(settings, message):
    with pytest.raises(ValueError, match=message):
        make(Adapter(**settings))
