"""Predicting masked words of unlabelled texts beside a task: the auxiliary loss of PET."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.checks import RefusedValue, refuse_empty_paths, require_at_least
from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.distributions import Distribution
from bert_lightning.tasks.prompting.task import ClozeTask
from bert_lightning.tasks.step_method import CountedLosses, beside_total


@dataclass(frozen=True)
class MaskedWordSettings:
    """Training the cloze task on masked words of unlabelled texts, too.

    Schick and Schütze 2021, arXiv 2001.07676, "Auxiliary Language Modeling": the loss is (1 - `weight`) times that of
    the task, plus `weight` times the cross-entropy of masked words. So a model that trains on few examples remains a
    language model. The texts are put into the pattern of the task. As in pre-training, 15 % of the tokens of a
    sequence are selected and replaced, but at least one, and never the mask of the pattern. Each epoch selects other
    ones.

    Attributes:
        weight: the share of the masked words in the loss; 1e-4 in the paper.
        unlabelled: a table with the text columns. By default, the examples of the training file that
            `data.examples_per_class` and `data.validation_per_class` leave out; their labels are not used.
        max_samples: read only this many texts, the first ones.
        texts_per_example: how many texts a step reads for each labelled example; 1 by default in PET's `cli.py`.
    """

    weight: float = 1.0e-4
    unlabelled: str | None = None
    max_samples: int | None = None
    texts_per_example: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise RefusedValue("weight", self.weight, "be more than 0 and less than 1")
        refuse_empty_paths(self, "unlabelled")
        require_at_least(self, 1, "max_samples", "texts_per_example")


class MaskedWordLosses:
    """The losses of a task, and the cross-entropy of the masked words in `batch["unlabelled"]`.

    Args:
        losses: those of the task, or of the task and a teacher.
        task: computes the masked words with its model.
        weight: the share of the masked words in the loss; the other losses share the rest.
    """

    def __init__(self, losses: CountedLosses, task: ClozeTask, weight: float) -> None:
        self.losses = losses
        self.task = task
        self.weight = weight

    @property
    def loss_names(self) -> Sequence[str]:
        """The losses, `mlm_loss`, the other sums, and `mlm_accuracy`."""
        number, names = self.losses.num_losses, beside_total(self.losses.loss_names, self.losses.num_losses)
        return [*names[:number], "mlm_loss", *names[number:], "mlm_accuracy"]

    @property
    def num_losses(self) -> int:
        """The losses, and that of the masked words."""
        return self.losses.num_losses + 1

    @property
    def loss_factors(self) -> Sequence[float]:
        """(L,) the factors of the losses times 1 - `weight`, and `weight`."""
        return [*(factor * (1 - self.weight) for factor in self.losses.loss_factors), self.weight]

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the losses, with the number of masked words for those of the masked words."""
        counts = self.losses.counts(batch)
        return self._joined(counts, counts.new_full((2,), len(batch["unlabelled"]["masked_labels"])))

    def sums(self, batch: Batch) -> Tensor:
        """Return (K,) the sums of the losses, the loss of the masked words, and how many of them are right."""
        return self._joined(self.losses.sums(batch), self._of_masked_words(batch["unlabelled"]))

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the task predicts for the labelled texts."""
        sums, distributions = self.losses.sums_and_distributions(batch)
        return self._joined(sums, self._of_masked_words(batch["unlabelled"])), distributions

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of the losses and of the masked words."""
        texts = batch["unlabelled"]
        of_texts = self.task.operations_of(texts, len(texts["masked_labels"]))
        return self.losses.operations(batch, num_passes) + num_passes * of_texts

    def _of_masked_words(self, texts: Batch) -> Tensor:
        """Return (2,): the summed cross-entropy, and the number of masked words that the model predicts correctly."""
        logits = self.task.model(
            texts["input_ids"], texts["token_type_ids"], texts["attention_mask"], texts["masked_positions"]
        ).float()
        labels = texts["masked_labels"]
        right = (logits.detach().argmax(-1) == labels).sum()
        return torch.stack([F.cross_entropy(logits, labels, reduction="sum"), right])

    def _joined(self, values: Tensor, of_masked_words: Tensor) -> Tensor:
        number = self.losses.num_losses
        loss, right = of_masked_words.to(values.dtype).unsqueeze(1)
        return torch.cat([values[:number], loss, values[number:], right])
