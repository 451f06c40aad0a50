"""`torch.compile` of the training step: one graph, and parameter names unchanged."""

import shutil

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.model.layers.packing import packing_of

V = 60


def build(**changes):
    torch.manual_seed(0)
    return BertForPreTraining(BertConfig.preset("tiny", vocab_size=V, max_position_embeddings=32, **changes))


def arguments_of(form):
    """Return inputs of that form: ids, segments, mask, masked positions, packing."""
    torch.manual_seed(1)
    ids, positions = torch.randint(5, V, (3, 8)), torch.tensor([1, 9, 20])
    segments = torch.zeros_like(ids)
    return {
        "plain": (ids, segments, None, positions),
        "padded": (ids, segments, torch.arange(8) < torch.tensor([[8], [5], [6]]), positions),
        "packed": (ids.flatten(), segments.flatten(), None, positions, packing_of(torch.tensor([8, 10, 6]))),
    }[form]


# Each form and each attention; `make test-slow` tests all combinations.
QUICK = [("plain", "sdpa", False), ("padded", "eager", False), ("packed", "sdpa", False)]
LABELS, NEXT_LABELS = torch.tensor([7, 9, 11]), torch.tensor([0, 1, 1])


def step(model, arguments):
    """Return the loss of one training step."""
    out = model(*arguments)
    return F.cross_entropy(out.prediction_logits, LABELS) + F.cross_entropy(out.seq_relationship_logits, NEXT_LABELS)


GRAPHS = [
    pytest.param(form, attention, recompute, marks=[pytest.mark.slow] * ((form, attention, recompute) not in QUICK))
    for form in ("plain", "padded", "packed")
    for attention in ("sdpa", "eager")
    for recompute in (False, True)
]


@pytest.mark.parametrize(("form", "attention", "recompute"), GRAPHS)
def test_the_training_step_is_one_graph(form, attention, recompute):
    torch._dynamo.reset()
    model = build()
    model.encoder.attention, model.encoder.activation_checkpointing = attention, recompute
    torch.compile(step, fullgraph=True, backend="aot_eager")(model, arguments_of(form)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "option",
    [{"pre_layer_norm": True}, {"pooling": "mean"}, {"embedding_size": 24}, {"position_embeddings": "sinusoidal"}],
)
def test_options_do_not_break_the_graph(option):
    torch._dynamo.reset()
    model = build(**option)
    torch.compile(step, fullgraph=True, backend="aot_eager")(model, arguments_of("padded")).backward()


def test_compiling_in_place_keeps_the_names_of_parameters_and_the_results():
    torch._dynamo.reset()
    model = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    names, expected = list(model.state_dict()), step(model, arguments_of("padded"))
    model.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    actual = step(model, arguments_of("padded"))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert list(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("form", ["plain", "padded", "packed"])
def test_the_compiled_step_has_the_same_gradients(form):
    torch._dynamo.reset()
    model = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).double()
    step(model, arguments_of(form)).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.compile(fullgraph=True, dynamic=True)
    step(model, arguments_of(form)).backward()
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-8, atol=1e-10)
