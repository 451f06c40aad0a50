"""The two halves of the encoder, `embed` and `encode`, and a perturbation between them."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.architectures import MODELS
from bert_lightning.model.layers import attention
from bert_lightning.model.layers.attention import Backend, layout_of, sdpa
from bert_lightning.model.layers.packing import packing_of
from bert_lightning.model.task_models import BertForMultipleChoice

V, H = 50, 128
LENGTHS = (9, 4, 9, 4, 9, 4)


def encoder(**options):
    torch.manual_seed(0)
    return BertEncoder(BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16, **options))


def padded():
    """Ids, segments and mask of sequences among which many have equal lengths, so that a CPU unpads them."""
    torch.manual_seed(1)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(5, V, mask.shape), (torch.arange(max(LENGTHS)) >= 2).long().expand(mask.shape), mask


def packed():
    ids, segments, mask = padded()
    return ids[mask], segments[mask], packing_of(torch.tensor(LENGTHS))


@pytest.fixture
def varlen(monkeypatch):
    """Let `varlen` run on a CPU, by an exact equivalent of its kernels."""
    monkeypatch.setitem(attention._BACKENDS, "varlen", Backend(sdpa, needs_packing=True))
    monkeypatch.setattr(attention, "varlen_obstacle", lambda *_: None)


def states(output):
    return [output.last_hidden_state, output.pooler_output, *output.hidden_states]


def test_forward_is_embed_and_encode_bit_for_bit():
    model = encoder().eval()
    ids, segments, mask = padded()
    whole = model(ids, segments, mask, output_hidden_states=True, output_attentions=True)
    hidden = model.embed(ids, segments)
    halves = model.encode(hidden, layout_of(mask), output_hidden_states=True, output_attentions=True)
    assert all(map(torch.equal, [*states(whole), *whole.attentions], [*states(halves), *halves.attentions]))
    ids, segments, packing = packed()
    whole = model(ids, segments, packing=packing, output_hidden_states=True)
    hidden = model.embed(ids, segments, packing.positions(len(ids)))
    halves = model.encode(hidden, layout_of(None, packing), output_hidden_states=True)
    assert all(map(torch.equal, states(whole), states(halves)))


@pytest.mark.parametrize("masked", [True, False])
def test_encode_packs_padded_embeddings_for_a_backend_that_needs_it(varlen, masked):
    model = encoder().double().eval()
    ids, segments, mask = padded()
    layout = layout_of(mask if masked else None)
    model.attention = "sdpa"
    expected = model.encode(model.embed(ids, segments), layout)
    model.attention = "varlen"
    actual = model.encode(model.embed(ids, segments), layout)
    real = mask if masked else torch.ones_like(mask)
    torch.testing.assert_close(
        actual.last_hidden_state[real], expected.last_hidden_state[real], rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["kept", "ordered", "varlen", "packed", "recomputed"])
def test_the_gradient_of_a_perturbation_is_that_of_the_embeddings(varlen, form):
    model = encoder(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).double().train()
    model.attention = {"kept": "eager", "varlen": "varlen"}.get(form, "sdpa")
    model.activation_checkpointing = form == "recomputed"
    if form == "packed":
        ids, segments, packing = packed()
        inputs, layout, positions = (
            (ids, segments, None, packing),
            layout_of(None, packing),
            packing.positions(len(ids)),
        )
    else:
        ids, segments, mask = padded()
        inputs, layout, positions = (ids, segments, mask), layout_of(mask), None
    torch.manual_seed(2)
    perturbation = torch.randn(*ids.shape, H, dtype=torch.float64, requires_grad=True)
    with model.perturbed(perturbation):
        pooled = model(*inputs).pooler_output
    pooled.sin().sum().backward()
    model.attention, model.activation_checkpointing = "eager", False
    hidden = (model.embed(ids, segments, positions) + perturbation).detach().requires_grad_()
    expected = model.encode(hidden, layout).pooler_output
    torch.testing.assert_close(pooled, expected, rtol=1e-10, atol=1e-12)
    expected.sin().sum().backward()
    torch.testing.assert_close(perturbation.grad, hidden.grad, rtol=1e-10, atol=1e-12)
    assert not torch.equal(model(*inputs).pooler_output, pooled)


@pytest.mark.parametrize("architecture", MODELS)
def test_every_model_can_be_perturbed_and_computes_as_before_afterwards(architecture):
    torch.manual_seed(0)
    model = MODELS[architecture](BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=16)).eval()
    ids, segments, mask = padded()
    if isinstance(model, BertForMultipleChoice):
        ids, segments, mask = (tensor.reshape(2, 3, -1) for tensor in (ids, segments, mask))

    def first():
        output = model(ids, segments, mask)
        return output if isinstance(output, torch.Tensor) else output[0]

    before = first()
    with model.backbone.perturbed(torch.randn(*ids.shape, H)):
        assert not torch.equal(first(), before)
    with pytest.raises(KeyError), model.backbone.perturbed(torch.randn(*ids.shape, H)):
        raise KeyError
    assert torch.equal(first(), before)
    with model.backbone.perturbed(torch.ones(*ids.shape, H)):
        outer = first()
        with model.backbone.perturbed(torch.zeros(*ids.shape, H)):
            assert torch.equal(first(), before)
        assert torch.equal(first(), outer)


def test_a_perturbation_of_other_tokens_is_an_error():
    model = encoder()
    message = r"the perturbation has shape \(6, 8, 128\), but the embeddings \(6, 9, 128\)"
    with pytest.raises(ValueError, match=message), model.perturbed(torch.zeros(6, 8, H)):
        model(*padded())


@pytest.mark.slow
def test_perturbed_and_plain_passes_of_any_shape_share_two_compiled_graphs():
    torch._dynamo.reset()
    model, counter = encoder(), CompileCounter()
    model.compile(dynamic=True, fullgraph=True, backend=counter)
    for number, length in ((3, 8), (2, 12), (5, 16), (4, 9)):
        ids = torch.randint(5, V, (number, length))
        perturbation = torch.zeros(number, length, H, requires_grad=True)
        with model.perturbed(perturbation):
            model(ids).pooler_output.sum().backward()
        assert perturbation.grad.abs().sum() > 0
        model(ids)
    assert counter.frame_count == 2
