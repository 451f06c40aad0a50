import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from bert_lightning.model.layers import gelu
from bert_lightning.model.layers.gelu import gelu_new


def published(values):
    """`modeling.py: gelu`, in float64."""
    x = values.double()
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2**-24), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (2, 3, 700)])
def test_values_and_gradients_are_those_of_the_published_formula(monkeypatch, dtype, unit, shape):
    monkeypatch.setattr(gelu, "_NUM_ELEMENTS_AT_ONCE", 1000)
    torch.manual_seed(0)
    values = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    exact = values.detach().double().requires_grad_()
    result, expected = gelu_new(values), published(exact)
    assert result.dtype == dtype
    assert result.shape == shape
    weights = torch.randn(shape).to(dtype)
    [actual] = torch.autograd.grad(result, values, weights)
    [wanted] = torch.autograd.grad(expected, exact, weights.double())
    # Values are rounded once, gradients twice. The computation in float32 adds some units of its largest terms.
    torch.testing.assert_close(result.double(), expected, rtol=unit + 2**-20, atol=2**-20)
    torch.testing.assert_close(actual.double(), wanted, rtol=2.1 * unit + 2**-20, atol=2**-18)
    with torch.no_grad():
        assert torch.equal(gelu_new(values), result)


def test_extreme_values_stay_finite_and_are_those_of_the_formula():
    values = torch.tensor([-1e30, -100.0, -10.0, 10.0, 100.0, 1e30], requires_grad=True)
    result = gelu_new(values)
    assert result.tolist()[:2] == [0, 0]
    assert result[3:].tolist() == values[3:].tolist()
    result.sum().backward()
    torch.testing.assert_close(values.grad[1:5], torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_a_tensor_that_is_not_contiguous_is_read_in_its_order():
    values = torch.randn(6, 4).T.requires_grad_()
    torch.testing.assert_close(gelu_new(values), F.gelu(values, approximate="tanh"))


def test_transforms_of_torch_see_a_function_that_they_can_transform():
    values = torch.randn(5)
    plain = torch.func.vmap(torch.func.grad(lambda x: F.gelu(x, approximate="tanh")))(values)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(gelu_new))(values), plain)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(values, torch.ones(5))
        torch.testing.assert_close(forward_ad.unpack_dual(gelu_new(dual)).tangent, plain)


def test_a_second_derivative_is_refused_with_what_has_one():
    values = torch.randn(5, requires_grad=True)
    with pytest.raises(RuntimeError, match="gelu_pytorch_tanh"):
        torch.autograd.grad(gelu_new(values).sum(), values, create_graph=True)
