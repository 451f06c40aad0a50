"""The loss without float32 logits is the cross-entropy, with the same gradients, in every type."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.model.layers import token_loss
from bert_lightning.model.layers.token_loss import token_loss as loss_of
from bert_lightning.model.losses import IGNORED

V = 40


def inputs(num_tokens, dtype, seed=0, scale=1.0):
    torch.manual_seed(seed)
    hidden, matrix, bias = torch.randn(num_tokens, 6) * scale, torch.randn(V, 6), torch.randn(V)
    return [tensor.to(dtype).requires_grad_() for tensor in (hidden, matrix, bias)], torch.randint(
        0, V, (num_tokens,)
    )


def written_out(hidden, matrix, bias, labels):
    logits = F.linear(hidden, matrix, bias)
    return F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(-1) == labels).sum()


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 99))
def test_loss_hits_and_gradients_equal_the_plain_ones_for_every_chunk_size(num_tokens, rows_at_once, seed):
    tensors, labels = inputs(num_tokens, torch.float64, seed)
    expected, num_right = written_out(*tensors, labels)
    gradients = torch.autograd.grad(expected * 0.3, tensors)
    at_once = token_loss._NUM_ELEMENTS_AT_ONCE["cpu"]
    token_loss._NUM_ELEMENTS_AT_ONCE["cpu"] = rows_at_once * V
    try:
        ours = loss_of(*tensors, labels)
    finally:
        token_loss._NUM_ELEMENTS_AT_ONCE["cpu"] = at_once
    torch.testing.assert_close(ours.loss, expected)
    assert ours.num_right == num_right
    for mine, theirs in zip(torch.autograd.grad(ours.loss * 0.3, tensors), gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_tokens_have_zero_loss():
    tensors, labels = inputs(0, torch.float32)
    ours = loss_of(*tensors, labels)
    ours.loss.backward()
    assert ours.loss == 0
    assert ours.num_right == 0
    assert not tensors[1].grad.any()


def test_an_almost_impossible_label_has_a_finite_loss():
    """The probability is 0 in float32, but its logarithm must be finite."""
    tensors, labels = inputs(5, torch.float32, scale=300.0)
    expected, _ = written_out(*tensors, labels)
    assert expected > 500
    torch.testing.assert_close(loss_of(*tensors, labels).loss, expected)


def test_under_autocast_the_loss_is_that_of_bfloat16_products():
    tensors, labels = inputs(20, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = loss_of(*tensors, labels)
    assert ours.loss.dtype == torch.float32
    expected, _ = written_out(*tensors, labels)
    gradients = torch.autograd.grad(expected, tensors)
    torch.testing.assert_close(ours.loss, expected, rtol=5e-3, atol=0)
    for mine, theirs in zip(torch.autograd.grad(ours.loss, tensors), gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_has_the_same_losses_as_with_the_plain_step(precision):
    """Compare 50 fast steps without dropout with steps on all logits, `cross_entropy` and `eager` attention."""
    torch.manual_seed(0)
    config = BertConfig.preset(
        "tiny", vocab_size=V, max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    fast = BertForPreTraining(config)
    plain = copy.deepcopy(fast)
    ids, positions = torch.randint(5, V, (6, 12)), torch.randperm(72)[:20]
    mask = torch.arange(12) < torch.randint(4, 13, (6, 1))
    labels, pairs = torch.randint(5, V, (20,)), torch.randint(0, 2, (6,))
    losses = {"fast": [], "plain": []}
    for name, model in (("fast", fast), ("plain", plain)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(50):
            with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
                if name == "fast":
                    tokens, scores = model.losses(ids, None, mask, positions, labels)
                    loss = tokens.loss / 20
                else:
                    model.encoder.attention = "eager"
                    logits, scores = model(ids, None, mask, positions)
                    loss = F.cross_entropy(logits.float(), labels)
                loss = loss + F.cross_entropy(scores.float(), pairs)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(float(loss.detach()))
    assert losses["plain"][-1] < 0.5 * losses["plain"][0]
    tolerance = 0.05 if precision == torch.bfloat16 else 1e-3
    torch.testing.assert_close(torch.tensor(losses["fast"]), torch.tensor(losses["plain"]), rtol=tolerance, atol=0.02)


def test_a_second_derivative_is_refused():
    (hidden, matrix, bias), labels = inputs(3, torch.float32)
    loss = loss_of(hidden, matrix, bias, labels).loss
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, hidden, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_ignored_tokens_count_for_nothing(dtype):
    tensors, labels = inputs(9, torch.float64)
    labels[[0, 4, 8]] = IGNORED
    tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    ours = loss_of(*tensors, labels)
    ours.loss.backward()
    kept = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    counted = labels != IGNORED
    expected = loss_of(kept[0][counted], *kept[1:], labels[counted])
    expected.loss.backward()
    torch.testing.assert_close(ours.loss, expected.loss)
    assert ours.num_right == expected.num_right
    assert not tensors[0].grad[~counted].any()
    for mine, theirs in zip(tensors, kept, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_vocabulary_padded_for_an_accelerator_has_the_same_loss_and_gradients(monkeypatch, dtype):
    tensors, labels = inputs(9, torch.float64)
    found = []
    for multiple in (1, 64):
        monkeypatch.setitem(token_loss._WIDTH_MULTIPLE, "cpu", multiple)
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
        ours = loss_of(*leaves, labels)
        (ours.loss * 0.3).backward()
        assert [leaf.grad.shape for leaf in leaves] == [leaf.shape for leaf in leaves]
        found.append([ours.loss.detach(), ours.num_right, *(leaf.grad for leaf in leaves)])
    for padded, plain in zip(*found, strict=True):
        torch.testing.assert_close(padded, plain)


def test_on_an_accelerator_every_width_is_a_multiple_of_64():
    matrix = torch.empty(30522, 6, device="meta")
    assert token_loss._cast_and_padded(matrix, torch.bfloat16).shape == (30528, 6)
    assert token_loss._cast_and_padded(torch.empty(128, 6, device="meta"), torch.float32).shape == (128, 6)
