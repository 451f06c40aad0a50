"""A linear probe: multinomial logistic regression with a penalty, fitted to its one minimum."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

L2 = 1e-2
"""The default penalty."""
# The largest entry of the gradient at the end of a fit, and how many steps it may take.
_TOLERANCE = 1e-5
_MAX_STEPS = 1000
# Pairs of steps and gradients that L-BFGS keeps.
_HISTORY = 20


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        weight: (H, C) of the standardised vectors.
        bias: (C,).
        labels: (C,) the ids of the labels that the training data have.
        mean: (H,) of the training vectors.
        deviation: (H,) of the training vectors, 1 where they are constant.
        converged: no entry of the gradient was larger than 1e-5 at the end.
    """

    weight: Tensor
    bias: Tensor
    labels: NDArray[np.int64]
    mean: Tensor
    deviation: Tensor
    converged: bool

    def predict(self, vectors: Tensor) -> NDArray[np.int64]:
        """Return the most probable label id of each vector, (N, H) -> (N,)."""
        scores = ((vectors.double() - self.mean) / self.deviation) @ self.weight + self.bias
        return self.labels[scores.argmax(1).numpy()]


def fit_linear_probe(vectors: Tensor, labels: NDArray[np.int64], l2: float = L2) -> LinearProbe:
    """Fit a probe to vectors, (N, H), and the ids of their labels, (N,).

    The probe minimises the mean cross-entropy plus `l2 / 2` times the sum of squared weights, over vectors that are
    standardised with their own mean and deviation. The bias has no penalty. In the terms of scikit-learn, C is
    1 / (N * l2). The loss is strictly convex in the weights, so neither a start nor an order of examples decides the
    result. L-BFGS finds it in float64 from zero.

    >>> probe = fit_linear_probe(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), np.array([3, 3, 7, 7]))
    >>> probe.predict(torch.tensor([[2.0], [8.0]])).tolist()
    [3, 7]
    """
    own_labels, targets = np.unique(labels, return_inverse=True)
    inputs = vectors.double()
    mean, deviation = inputs.mean(0), inputs.std(0, correction=0)
    # A constant feature carries nothing. Its deviation may be a rounding error instead of 0.
    deviation = torch.where(deviation > 1e-9 * mean.abs(), deviation, torch.ones_like(deviation))
    inputs = (inputs - mean) / deviation
    weight = inputs.new_zeros(inputs.shape[1], len(own_labels)).requires_grad_()
    bias = inputs.new_zeros(len(own_labels)).requires_grad_()
    indicators = torch.nn.functional.one_hot(torch.from_numpy(targets), len(own_labels)).double()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MAX_STEPS,
        max_eval=2 * _MAX_STEPS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=0.0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss_with_gradient() -> Tensor:
        log_probabilities = torch.log_softmax(torch.addmm(bias, inputs, weight), 1)
        errors = (log_probabilities.exp() - indicators) / len(inputs)
        weight.grad, bias.grad = inputs.T @ errors + l2 * weight, errors.sum(0)
        return -(log_probabilities * indicators).sum() / len(inputs) + l2 / 2 * weight.square().sum()

    if len(own_labels) > 1:
        optimizer.step(loss_with_gradient)
    loss_with_gradient()
    assert weight.grad is not None
    assert bias.grad is not None
    steepest = max(float(weight.grad.abs().max()), float(bias.grad.abs().max()))
    fitted = weight.detach(), bias.detach()
    # The last line search may end a little above the tolerance, where rounding ends all progress.
    return LinearProbe(*fitted, own_labels, mean, deviation, steepest <= 2 * _TOLERANCE)
