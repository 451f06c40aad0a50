"""Perturbations of the embeddings of whole sequences: which tokens they may change, their moves and their norms."""

from collections.abc import Callable

import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.model.layers.packing import Packing, pad
from bert_lightning.tasks.task import Task


def no_perturbation(task: Task, batch: Batch) -> Tensor:
    """Return zeros for the embeddings of a batch: (..., S, H), or packed (T, H).

    They are in at least float32, in which norms are exact enough; the encoder casts their sum with the embeddings.
    """
    encoder = task.model.backbone
    shape = (*batch["input_ids"].shape, encoder.config.hidden_size)
    kind = torch.promote_types(encoder.embeddings.word.weight.dtype, torch.float32)
    return torch.zeros(shape, dtype=kind, device=batch["input_ids"].device)


def perturbable(task: Task, batch: Batch, *, special_tokens: bool) -> Tensor:
    """Return bool of the shape of `input_ids`: True at the tokens that may be perturbed, which padding never is.

    Args:
        task: knows [CLS] and [SEP].
        batch: the micro-batch.
        special_tokens: whether [CLS] and [SEP] may be perturbed.
    """
    ids, allowed = batch["input_ids"], real_tokens_of(batch)
    if not special_tokens:
        allowed = allowed & (ids != task.tokenizer.cls_id) & (ids != task.tokenizer.sep_id)
    return allowed


def real_tokens_of(batch: Batch) -> Tensor:
    """Return bool of the shape of `input_ids`: True at tokens, False at padding."""
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()


def per_sequence(function: Callable[[Tensor], Tensor], values: Tensor, packing: Packing | None) -> Tensor:
    """Apply a function of padded sequences (..., S, H) to values of any layout, and return its result in that layout.

    Args:
        function: keeps the shape.
        values: (..., S, H), or packed (T, H).
        packing: the boundaries of packed values.
    """
    if not values.numel():
        return values
    if packing is None:
        return function(values)
    padded, indices = pad(values, packing)
    return function(padded).flatten(0, 1)[indices]


def directions(gradient: Tensor, packing: Packing | None = None) -> Tensor:
    """Scale the gradient of each sequence to the norm 1: (..., S, H), or packed (T, H), keeps its shape.

    A gradient of 0 stays 0. A gradient that is not finite becomes 0, so the perturbed loss stays finite. The
    gradients of the first pass are still not finite, so the update is not made (`trainer.non_finite`).

    >>> directions(torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])).tolist()
    [[[0.6..., 0.0], [0.0, 0.8...]], [[0.0, 0.0], [0.0, 0.0]]]
    """
    return per_sequence(_directions, gradient, packing)


def _directions(gradient: Tensor) -> Tensor:
    # Squares of small gradients would vanish, so divide by the largest value first.
    largest = gradient.abs().amax((-2, -1), keepdim=True)
    usable = largest.isfinite() & (largest > 0)
    scaled = torch.where(usable, gradient / torch.where(usable, largest, 1), 0)
    norms = torch.linalg.vector_norm(scaled, dim=(-2, -1), keepdim=True)
    return scaled / torch.where(usable, norms, 1)


def where_finite(perturbation: Tensor, gradient: Tensor, packing: Packing | None = None) -> Tensor:
    """Set the perturbation of each sequence to 0 if its gradient is not finite, and keep the shape.

    >>> gradient = torch.tensor([[[torch.nan, 1.0]], [[2.0, 1.0]]])
    >>> where_finite(torch.ones(2, 1, 2), gradient).tolist()
    [[[0.0, 0.0]], [[1.0, 1.0]]]
    """
    # Packed values are padded with False.
    spoilt = per_sequence(
        lambda values: values.any(-1, keepdim=True).any(-2, keepdim=True).expand_as(values),
        ~gradient.isfinite(),
        packing,
    )
    return torch.where(spoilt, 0, perturbation)


def ascended(
    perturbation: Tensor, gradient: Tensor, size: float, epsilon: float | None, packing: Packing | None = None
) -> Tensor:
    """Move the perturbation of each sequence along its gradient, and keep the shape (..., S, H), or packed (T, H).

    Args:
        perturbation: the perturbation before the move.
        gradient: the gradient of the loss at this perturbation. A sequence whose gradient is not finite gets no
            perturbation.
        size: the length of the move.
        epsilon: the radius of the ball into which the result is brought back; None for no ball.
        packing: the boundaries of packed values.
    """
    moved = where_finite(perturbation, gradient, packing) + size * directions(gradient, packing)
    return moved if epsilon is None else projected(moved, epsilon, packing)


def projected(perturbation: Tensor, epsilon: float, packing: Packing | None = None) -> Tensor:
    """Shorten the perturbation of each sequence to the norm `epsilon` if it is longer, and keep the shape.

    >>> projected(torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]]), 1.0).tolist()
    [[[0.6..., 0.8...]], [[0.3..., 0.4...]]]
    """

    def shortened(values: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(values, dim=(-2, -1), keepdim=True)
        return values * (epsilon / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)

    return per_sequence(shortened, perturbation, packing)


def num_perturbable(allowed: Tensor, packing: Packing | None = None) -> Tensor:
    """Return the number of perturbable tokens of each token's sequence, in the shape of `allowed`.

    >>> num_perturbable(torch.tensor([[True, True, False]])).tolist()
    [[2.0, 2.0, 2.0]]
    """
    counts = per_sequence(
        lambda values: values.sum(-2, keepdim=True).expand_as(values), allowed[..., None].float(), packing
    )
    return counts.squeeze(-1)
