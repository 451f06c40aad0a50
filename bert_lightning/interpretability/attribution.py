"""Attributions: how much each input contributes to a score, as pure functions over a differentiable score.

A score takes k points, (k, ...), and returns (k,). The inputs of a model are the embeddings of its tokens, which the
first block reads.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""k points (k, ...) -> their scores (k,)"""
NUM_POINTS = 64
"""The points of a path. Completeness then holds to 1e-6 in float64 for a small BERT."""
# A difference of scores below this share of the attributions' size is rounding.
_LEAST_SHARE = 1e-3


class Integrated(NamedTuple):
    """Integrated gradients of a score.

    Attributes:
        values: (...) the attribution of each input.
        difference: the score minus that of the baseline, which the attributions should sum to.
        error: what they miss, as a share of the difference.
    """

    values: Tensor
    difference: float
    error: float


def gradients(score: Score, points: Tensor, rows: int) -> Tensor:
    """Return the gradient of the score at each point, (k, ...) -> (k, ...).

    Args:
        score: the score.
        points: the points.
        rows: how many points are computed at once.
    """
    found = []
    for chunk in points.split(rows):
        leaves = chunk.detach().requires_grad_()
        with torch.enable_grad():
            [gradient] = torch.autograd.grad(score(leaves).sum(), leaves)
        found.append(gradient)
    return torch.cat(found)


def gradient_x_input(score: Score, inputs: Tensor) -> Tensor:
    """Return gradient times input, (...) -> (...); Shrikumar et al. 2016 (arXiv 1605.01713).

    For a linear score it is the integrated gradient over the path from zero.

    >>> weights = torch.tensor([1.0, -2.0])
    >>> gradient_x_input(lambda points: points @ weights, torch.tensor([3.0, 0.5]))
    tensor([ 3., -1.])
    """
    return gradients(score, inputs[None], rows=1)[0] * inputs


def integrated_gradients(
    score: Score, inputs: Tensor, baseline: Tensor, num_points: int = NUM_POINTS, rows: int = NUM_POINTS
) -> Integrated:
    """Return integrated gradients; Sundararajan et al. 2017 (arXiv 1703.01365), equation 1.

    The integral over the straight path from the baseline is computed at Gauss-Legendre points, which are exact for
    polynomials up to the degree 2 `num_points` - 1.

    Args:
        score: the score.
        inputs: (...) the point that is explained.
        baseline: (...) the point that stands for the absence of information. For BERT, zeros are no such point: after
            a LayerNorm a score depends only on the direction, which changes abruptly near zero.
        num_points: the number of points of the path.
        rows: how many points are computed at once.

    >>> weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    >>> cubes = lambda points: (weights * points**3).sum(-1)
    >>> found = integrated_gradients(cubes, torch.tensor([2.0, 1.0]).double(), torch.zeros(2).double(), num_points=2)
    >>> found.values, found.difference
    (tensor([ 8., -2.], dtype=torch.float64), 6.0)
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_points)
    shares, parts = (inputs.new_tensor(each) for each in ((nodes + 1) / 2, weights / 2))
    ones = [1] * inputs.dim()
    total = torch.zeros_like(inputs)
    for share, part in zip(shares.split(rows), parts.split(rows), strict=True):
        points = baseline + share.view(-1, *ones) * (inputs - baseline)
        total += (part.view(-1, *ones) * gradients(score, points, rows)).sum(0)
    values = total * (inputs - baseline)
    with torch.no_grad():
        at_input, at_baseline = (float(score(point[None])) for point in (inputs, baseline))
    difference = at_input - at_baseline
    size = max(abs(difference), _LEAST_SHARE * float(values.sum(-1).abs().sum()))
    missed = abs(float(values.double().sum()) - difference)
    return Integrated(values, difference, missed / size if missed else 0.0)


def occlusion(score: Score, inputs: Tensor, places: Tensor, num_words: int, replacement: int, rows: int) -> Tensor:
    """Return how much the score falls if a word is hidden; Zeiler and Fergus 2014 (arXiv 1311.2901), section 4.2.

    Args:
        score: k copies of the ids, (k, n, S) -> (k,).
        inputs: (n, S) the ids.
        places: (n, S) the number of the word at each position, -1 elsewhere.
        num_words: the number of words.
        replacement: the id that takes the place of all pieces of a word, everywhere.
        rows: how many copies are computed at once.

    Returns:
        (num_words,) the score minus the score without the word.

    >>> ids, places = torch.tensor([[9, 5, 6, 7]]), torch.tensor([[-1, 0, 0, 1]])
    >>> occlusion(lambda copies: copies.sum((1, 2)).float(), ids, places, num_words=2, replacement=1, rows=8)
    tensor([9., 6.])
    """
    with torch.no_grad():
        whole = score(inputs[None])[0]
        falls = []
        for numbers in torch.arange(num_words, device=inputs.device).split(rows):
            hidden = places[None] == numbers[:, None, None]
            falls.append(whole - score(inputs[None].masked_fill(hidden, replacement)))
    return torch.cat(falls) if falls else inputs.new_zeros(0, dtype=torch.float32)


def per_word(values: Tensor, places: Tensor, num_words: int) -> Tensor:
    """Sum values over the positions of each word, in all sequences.

    Args:
        values: (n, S)
        places: (n, S) the number of the word at each position, -1 elsewhere.
        num_words: the number of words.

    Returns:
        (num_words + 1,) the sum of each word, and that of all positions without a word.

    >>> per_word(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[-1, 0, 1, 1]]), 2)
    tensor([2., 7., 1.])
    """
    numbers = torch.where(places < 0, num_words, places).flatten()
    return values.new_zeros(num_words + 1).index_add(0, numbers, values.flatten())
