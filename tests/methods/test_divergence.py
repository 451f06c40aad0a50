"""The divergences of distillation and of consistency training, against closed forms and torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.tasks.distributions import (
    Distribution,
    divergence,
    each_of,
    numbers,
    one_of,
    symmetric_divergence,
)

B, L = 6, 5


def logits(seed, *shape):
    torch.manual_seed(seed)
    return torch.randn(*(shape or (B, L)), dtype=torch.float64) * 3


def gradient(student, teacher, temperature, kind=one_of):
    student = student.clone().requires_grad_()
    value = divergence(kind(student), kind(teacher), temperature)
    value.backward()
    return value.detach(), student.grad


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_it_is_the_scaled_divergence_of_the_softened_softmax(temperature):
    student, teacher = logits(1).requires_grad_(), logits(2)
    value, found = gradient(student.detach(), teacher, temperature)
    expected = temperature**2 * F.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="sum"
    )
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found, student.grad, rtol=1e-10, atol=1e-14)


def test_the_gradient_tends_to_the_difference_of_centred_logits_and_the_error_falls_as_one_over_the_temperature():
    student, teacher = logits(1), logits(2)
    centred = [values - values.mean(-1, keepdim=True) for values in (student, teacher)]
    limit = (centred[0] - centred[1]) / L
    errors = {t: (gradient(student, teacher, t)[1] - limit).abs().max().item() for t in (1e2, 1e3, 1e4)}
    for t in (1e2, 1e3):
        assert errors[t] / errors[10 * t] == pytest.approx(10, rel=0.05)
    assert errors[1e4] < 1e-3


@pytest.mark.parametrize("kind", [one_of, each_of, numbers])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equal_logits_give_exactly_nothing(kind, dtype, temperature):
    value, found = gradient(logits(3).to(dtype), logits(3).to(dtype), temperature, kind)
    assert value == 0
    assert not found.any()


def test_independent_outcomes_have_the_mean_divergence_of_their_coins():
    student, teacher, t = logits(1), logits(2), 2.0
    p, q = (teacher / t).sigmoid(), (student / t).sigmoid()
    coins = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    value, _ = gradient(student, teacher, t, each_of)
    torch.testing.assert_close(value, t**2 * coins.mean(-1).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_numbers_have_the_mean_squared_error_at_every_temperature(temperature):
    student, teacher = logits(1), logits(2)
    value, _ = gradient(student, teacher, temperature, numbers)
    torch.testing.assert_close(value, F.mse_loss(student, teacher, reduction="none").mean(-1).sum())


@pytest.mark.parametrize("temperature", [0.25, 2.0])
def test_impossible_outcomes_and_uncounted_items_have_no_part(temperature):
    student, teacher = logits(1), logits(2)
    possible = torch.tensor([True, False, True, True, False]).expand(B, L)
    counted = torch.tensor([True, True, False, True, False, True])

    def kind(values):
        return one_of(values.masked_fill(~possible, -math.inf), possible, counted)

    value, found = gradient(student, teacher, temperature, kind)
    kept = [values[counted][:, possible[0]] for values in (student, teacher)]
    expected, inner = gradient(*kept, temperature)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    assert torch.isfinite(found).all()
    assert not found[~counted].any()
    assert not found[~possible].any()
    torch.testing.assert_close(found[counted][:, possible[0]], inner, rtol=1e-12, atol=0)


def test_several_distributions_of_an_item_count_as_their_mean():
    student, teacher = logits(1, B, 2, L), logits(2, B, 2, L)
    value, _ = gradient(student, teacher, 2.0, Distribution)
    halves = [gradient(student[:, i], teacher[:, i], 2.0)[0] for i in (0, 1)]
    torch.testing.assert_close(value, sum(halves) / 2, rtol=1e-12, atol=0)


def test_it_is_never_negative_beyond_rounding():
    for seed in range(50):
        student = logits(seed).float()
        assert divergence(one_of(student), one_of(student + 1e-4 * logits(seed + 1).float()), 1.0) > -1e-5


def both_gradients(one, other, kind=one_of):
    values = [one.clone().requires_grad_(), other.clone().requires_grad_()]
    value = symmetric_divergence(*map(kind, values))
    return value.detach(), *torch.autograd.grad(value, values)


def test_the_symmetric_one_is_the_sum_of_both_directions_with_gradients_for_both():
    one, other = logits(1).requires_grad_(), logits(2).requires_grad_()
    pairs = ((one, other), (other, one))
    expected = sum(F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="sum") for a, b in pairs)
    value, *found = both_gradients(one.detach(), other.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    for mine, theirs in zip(found, torch.autograd.grad(expected, [one, other]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-13)


def test_the_symmetric_one_of_numbers_is_the_mean_squared_error_once():
    one, other = logits(1), logits(2)
    value, *_ = both_gradients(one, other, numbers)
    torch.testing.assert_close(value, F.mse_loss(one, other, reduction="none").mean(-1).sum())


@pytest.mark.parametrize("kind", [one_of, each_of, numbers])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_symmetric_one_of_equal_logits_is_exactly_nothing(kind, dtype):
    value, *found = both_gradients(logits(3).to(dtype), logits(3).to(dtype), kind)
    assert value == 0
    assert not any(gradient.any() for gradient in found)


def test_the_symmetric_one_is_never_negative_not_even_by_rounding():
    for seed in range(200):
        one = logits(seed).float() * 10
        assert symmetric_divergence(one_of(one), one_of(one + 1e-6 * logits(seed + 1).float())) >= 0


def test_the_symmetric_one_leaves_out_impossible_outcomes_and_uncounted_items():
    one, other = logits(1), logits(2)
    possible = torch.tensor([True, False, True, True, False]).expand(B, L)
    counted = torch.tensor([True, True, False, True, False, True])

    def kind(values):
        return one_of(values.masked_fill(~possible, -math.inf), possible, counted)

    value, *found = both_gradients(one, other, kind)
    expected, *inner = both_gradients(*[values[counted][:, possible[0]] for values in (one, other)])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(found, inner, strict=True):
        assert torch.isfinite(mine).all()
        assert not mine[~counted].any()
        assert not mine[~possible].any()
        torch.testing.assert_close(mine[counted][:, possible[0]], theirs, rtol=1e-12, atol=0)
