"""The Fisher information of weights: squared gradients of the log-likelihood, one example at a time."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.tasks.distributions import Distribution
from bert_lightning.tasks.task import Task

FisherLabels = Literal["model", "data"]


def fisher_information(task: Task, batches: Iterable[Batch], labels: FisherLabels, seed: int) -> dict[str, Tensor]:
    """Return the diagonal of the Fisher information for each parameter that trains, by its name in the model.

    It is the mean over examples of the squared gradient of log p(label). The square of the mean gradient of a batch
    of n would be about n times smaller. Dropout is off.

    Args:
        task: holds the model.
        batches: batches of one example each.
        labels: `model` draws a label from the model's own predictions, as the Fisher information is defined. `data`
            takes the given one, which is called the empirical Fisher information; its gradients are those of the
            task's losses.
        seed: decides which labels are drawn.
    """
    parameters = {name: each for name, each in task.model.named_parameters() if each.requires_grad}
    total = {name: torch.zeros_like(each) for name, each in parameters.items()}
    task.eval()
    number = 0
    for number, batch in enumerate(batches, 1):
        task.model.zero_grad()
        with torch.enable_grad():
            _surprise(task, batch, labels, derive_key(seed, "fisher", number)).backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                total[name].addcmul_(parameter.grad, parameter.grad)
    task.model.zero_grad()
    return {name: values / max(number, 1) for name, values in total.items()}


def _surprise(task: Task, batch: Batch, labels: FisherLabels, key: int) -> Tensor:
    """Return -log p of the labels of one example, ()."""
    if labels == "data":
        return task.sums(batch)[: task.num_losses].sum()
    computed = task.compute(batch)
    generator = torch.Generator().manual_seed(key)
    return torch.stack([_drawn(each, generator) for each in task.distributions(computed, batch)]).sum()


def _drawn(distribution: Distribution, generator: torch.Generator) -> Tensor:
    """Return -log p of outcomes that are drawn from a distribution itself, summed over its items: ()."""
    logits = distribution.logits
    if distribution.are_numbers:
        noise = torch.randn(logits.shape, generator=generator).to(logits)
        values = (logits - (logits.detach() + noise)).square().sum(-1) / 2
    else:
        if distribution.possible is not None:
            logits = logits.masked_fill(~distribution.possible, torch.finfo(logits.dtype).min)
        log_probabilities = logits.log_softmax(-1)
        # On the processor, so that every device draws the same.
        probabilities = log_probabilities.detach().exp().flatten(0, -2).cpu()
        drawn = torch.multinomial(probabilities, 1, generator=generator).to(logits.device)
        values = -log_probabilities.gather(-1, drawn.view(*logits.shape[:-1], 1)).squeeze(-1)
    values = values.sum(-1)
    return (values if distribution.counted is None else values * distribution.counted).sum()
