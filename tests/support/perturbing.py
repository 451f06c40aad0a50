"""A second, plain implementation of what a model computes at perturbed embeddings, sequence by sequence."""

from contextlib import contextmanager

import torch

from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.task import Task


@contextmanager
def moved(task: Task, perturbation: torch.Tensor):
    """Add a perturbation to what the embeddings return. `eager` keeps the padding, so the shapes are those of ids."""
    encoder = task.model.backbone
    encoder.attention = "eager"
    rows = perturbation.flatten(0, -3) if perturbation.dim() > 3 else perturbation
    with encoder.embeddings.register_forward_hook(lambda module, inputs, output: output + rows):
        yield


def loss_at(task: Task, batch: Batch, perturbation: torch.Tensor) -> torch.Tensor:
    """Return the loss of the task at perturbed embeddings, (): the sum of its losses, each divided by its count."""
    with moved(task, perturbation):
        number = task.num_losses
        return (task.sums(batch)[:number] / task.counts(batch)[:number]).sum()


def gradient_at(task: Task, batch: Batch, perturbation: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the loss with respect to a perturbation (..., S, H), 0 at padding."""
    perturbation = perturbation.detach().requires_grad_()
    [gradient] = torch.autograd.grad(loss_at(task, batch, perturbation), perturbation)
    mask = batch["attention_mask"]
    return gradient if mask is None else gradient * mask[..., None]


def parameter_gradients(task: Task, loss: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradient of a loss for each parameter of the model, 0 for those on which it does not depend."""
    parameters = list(task.model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def each_sequence(values: torch.Tensor):
    """Yield each sequence (S, H) of (..., S, H), in the same memory."""
    yield from values.flatten(0, -3)


def ascended(perturbation: torch.Tensor, gradient: torch.Tensor, size: float, epsilon: float) -> torch.Tensor:
    """Move each sequence along its gradient, and back into the ball: with loops and Python's numbers."""
    result = perturbation.clone()
    for sequence, direction in zip(each_sequence(result), each_sequence(gradient), strict=True):
        norm = sum(float(x) ** 2 for x in direction.flatten()) ** 0.5
        if norm > 0:
            sequence += size * direction / norm
        norm = sum(float(x) ** 2 for x in sequence.flatten()) ** 0.5
        if norm > epsilon:
            sequence *= epsilon / norm
    return result
