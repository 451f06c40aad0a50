"""Pre-training samples to look at: what training sees, row by row, as words."""

from collections.abc import Iterator
from typing import Any

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES

# metric of the objective -> what its label 1 says of a pair.
_LABELS = {"nsp": "is_random_next", "sop": "is_swapped"}


def dynamic_instances(data: PretrainingDataModule, seed: int, epoch: int = 0) -> Iterator[dict[str, Any]]:
    """Every sample of an epoch, in the order in which training with that seed draws them.

    Keys are those of the original generator (`published_generator.py`); sentence-order pairs have `is_swapped` in
    place of `is_random_next`, and samples that are no pairs have neither.
    """
    total = data.num_training_samples
    first = epoch * total
    metric = OBJECTIVES[data.settings.objective].metric
    stop = first + total
    num_steps = -(-stop // data.batch_size)
    plan = TrainingPlan(num_steps, accumulate=1, seed=seed)
    for step in range(first // data.batch_size, num_steps):
        [batch] = data.training_batches(step, plan, rank=0, world_size=1)
        for number, instance in enumerate(_rows(data, batch, metric), step * data.batch_size):
            if first <= number < stop:
                yield instance


def _rows(data: PretrainingDataModule, batch: Batch, metric: str | None) -> Iterator[dict[str, Any]]:
    entries = data.tokenizer.entries
    num_rows, width = batch["input_ids"].shape
    mask = batch["attention_mask"]
    lengths = mask.sum(1).tolist() if mask is not None else [width] * num_rows
    masked: list[list[tuple[int, str]]] = [[] for _ in range(num_rows)]
    for place, label in zip(batch["masked_positions"].tolist(), batch["masked_labels"].tolist(), strict=True):
        masked[place // width].append((place % width, entries[label]))
    for row, length in enumerate(lengths):
        instance: dict[str, Any] = {
            "tokens": [entries[token] for token in batch["input_ids"][row, :length].tolist()],
            "segment_ids": batch["token_type_ids"][row, :length].tolist(),
        }
        if metric is not None:
            instance[_LABELS[metric]] = bool(batch["sentence_labels"][row])
        instance["masked_lm_positions"] = [position for position, _ in masked[row]]
        instance["masked_lm_labels"] = [label for _, label in masked[row]]
        yield instance
