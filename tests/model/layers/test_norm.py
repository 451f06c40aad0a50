"""LayerNorm and segments as accelerators compute them, shown on a processor and on the meta device."""

import pytest
import torch
from torch import nn

from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers import norm
from bert_lightning.model.layers.embeddings import BertEmbeddings
from bert_lightning.model.layers.norm import LayerNorm

SMALL = {"vocab_size": 60, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def narrow(monkeypatch):
    """Let the processor compute as other devices do."""
    monkeypatch.setattr(norm, "_WIDE_DEVICES", set())


def test_under_autocast_it_returns_bfloat16_with_moments_in_float32(narrow):
    torch.manual_seed(0)
    layer = LayerNorm(256)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    # With moments in bfloat16, a mean of 30 would be off by 2^-4, and so would every result.
    hidden = torch.randn(50, 256) + 30
    with torch.autocast("cpu", torch.bfloat16):
        actual = layer(hidden)
    rounded = hidden.bfloat16().double()
    weight, bias = layer.weight.bfloat16().double(), layer.bias.bfloat16().double()
    expected = nn.functional.layer_norm(rounded, (256,), weight, bias, layer.eps)
    assert actual.dtype == torch.bfloat16
    # One rounding of the result, and float32 inside.
    assert ((actual.double() - expected).abs() <= 2**-8 * expected.abs() + 2**-15).all()
    actual.float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, None])
def test_float16_and_float32_stay_as_they_were(narrow, dtype):
    layer, hidden = LayerNorm(8), torch.randn(2, 8)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        assert torch.equal(layer(hidden), nn.LayerNorm(8)(hidden))


def encode(model, ids):
    streams = []
    handles = [
        block.register_forward_pre_hook(lambda _, arguments: streams.append(arguments[0].dtype))
        for block in model.layers
    ]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(ids, torch.zeros_like(ids)).last_hidden_state
    for handle in handles:
        handle.remove()
    return hidden, {*streams}


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_the_residual_stream_is_bfloat16_and_the_encoding_about_the_same(monkeypatch, placement):
    torch.manual_seed(0)
    model = BertEncoder(BertConfig.preset("mini", norm_placement=placement, **SMALL))
    ids = torch.randint(5, 60, (4, 20))
    expected, types = encode(model, ids)
    assert types == {torch.float32}
    monkeypatch.setattr(norm, "_WIDE_DEVICES", set())
    actual, types = encode(model, ids)
    assert types == {torch.bfloat16}
    assert actual.dtype == torch.bfloat16
    exact = model(ids, torch.zeros_like(ids)).last_hidden_state
    # Eight sums and as many LayerNorms round by at most 2^-9 each.
    assert (actual.float() - exact).norm() < 16 * 2**-9 * exact.norm()
    assert (expected - exact).norm() < (actual.float() - exact).norm()


def test_segments_on_an_accelerator_are_chosen_rather_than_looked_up(monkeypatch):
    torch.manual_seed(0)
    embeddings = BertEmbeddings(BertConfig.preset("tiny", **SMALL)).double()
    types = torch.randint(0, 2, (3, 7))
    expected = embeddings.token_type(types)
    factor = torch.randn_like(expected)
    gradient = torch.autograd.grad((expected * factor).sum(), embeddings.token_type.weight)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("meta"))
    chosen = embeddings._embed_segments(types)
    monkeypatch.undo()
    assert torch.equal(chosen, expected)
    torch.testing.assert_close(torch.autograd.grad((chosen * factor).sum(), embeddings.token_type.weight), gradient)
