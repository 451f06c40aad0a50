"""Every dropout of the configuration is at its position, with its own rate, and only in training."""

import pytest
import torch
from torch import nn

from bert_lightning.model import BertConfig
from bert_lightning.model.architectures import MODELS
from bert_lightning.model.bert import BertForPreTraining
from bert_lightning.model.layers import attention
from bert_lightning.model.layers.attention import Backend, sdpa
from bert_lightning.model.layers.dropout import dropout
from bert_lightning.model.task_models import BertForMultipleChoice

HIDDEN, ATTENTION, HEAD = 0.3, 0.2, 0.5
WITH_HEAD_DROPOUT = ("BertForSequenceClassification", "BertForTokenClassification", "BertForMultipleChoice")


def build(architecture: str, **changes):
    torch.manual_seed(0)
    rates = {"hidden_dropout_prob": HIDDEN, "attention_probs_dropout_prob": ATTENTION, "classifier_dropout": HEAD}
    return MODELS[architecture](
        BertConfig.preset("tiny", vocab_size=30, max_position_embeddings=16, **(rates | changes))
    )


def run(model) -> torch.Tensor:
    ids = torch.randint(5, 30, (4, 2, 9) if isinstance(model, BertForMultipleChoice) else (4, 9))
    return model(ids)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_every_dropout_drops_its_share_of_its_input(architecture, training):
    model = build(architecture).train(training)
    shares = []

    def hook(module: nn.Module, inputs, output) -> None:
        shares.append((module.p, float((output == 0).float().mean())))

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(hook)
    run(model)
    # One after the embeddings, two in each of two blocks, and one before a task's head.
    rates = [HIDDEN] * 5 + [HEAD] * (architecture in WITH_HEAD_DROPOUT)
    assert [rate for rate, _ in shares] == rates
    for rate, share in shares:
        assert share == pytest.approx(rate if training else 0, abs=0.09)


@pytest.mark.parametrize("training", [True, False])
def test_the_attention_backend_receives_its_rate(monkeypatch, training):
    given = []

    def recording(query_key_value, layout, num_heads, dropout):
        given.append(dropout)
        return sdpa(query_key_value, layout, num_heads, dropout)

    monkeypatch.setitem(attention._BACKENDS, "sdpa", Backend(recording))
    run(build("BertModel").train(training))
    assert given == [ATTENTION if training else 0.0] * 2


def test_a_rate_of_zero_is_not_treated_as_none():
    assert build("BertForSequenceClassification", classifier_dropout=0.0).dropout.p == 0.0
    assert build("BertForSequenceClassification", classifier_dropout=None).dropout.p == HIDDEN


def test_activation_checkpointing_computes_each_block_twice(monkeypatch):
    calls = []

    def recording(query_key_value, layout, num_heads, dropout):
        calls.append(1)
        return sdpa(query_key_value, layout, num_heads, dropout)

    monkeypatch.setitem(attention._BACKENDS, "sdpa", Backend(recording))
    for recompute, expected in ((False, 2), (True, 4)):
        calls.clear()
        model = build("BertForPreTraining")
        assert isinstance(model, BertForPreTraining)
        model.encoder.activation_checkpointing = recompute
        run(model).prediction_logits.sum().backward()
        assert len(calls) == expected


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_dropped_at_their_rate_and_the_rest_keeps_the_mean(probability, dtype):
    torch.manual_seed(0)
    num = 400_003
    dropped = dropout(torch.ones(num, dtype=dtype), probability)
    zero = dropped == 0
    # Five standard deviations, plus the rounding of the rate.
    reach = 5 * (probability * (1 - probability) / num) ** 0.5 + 2**-16
    assert float(zero.double().mean()) == pytest.approx(probability, abs=reach)
    if probability < 1:
        assert float(dropped[~zero].double().mean()) == pytest.approx(1 / (1 - probability), rel=1e-2)


def test_neighbours_are_dropped_independently():
    """Four elements share one draw of the generator."""
    torch.manual_seed(0)
    zero = (dropout(torch.ones(4 * 50_000), 0.5) == 0).view(-1, 4)
    patterns = (zero.long() * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16).double()
    expected = 50_000 / 16
    # Chi-squared over 15 degrees of freedom exceeds 37.7 once in a thousand.
    assert float(((patterns - expected) ** 2 / expected).sum()) < 37.7


def test_a_seed_repeats_the_mask_and_only_kept_elements_get_gradients():
    values = torch.randn(3, 7, requires_grad=True)
    torch.manual_seed(5)
    first = dropout(values, 0.4)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(values, 0.4))
    assert not torch.equal(first, dropout(values, 0.4))
    first.sum().backward()
    torch.testing.assert_close(values.grad * values.detach(), first.detach())


def test_an_empty_tensor_stays_empty():
    assert dropout(torch.ones(0, 4), 0.5).shape == (0, 4)
