"""Pre-training samples for inspection: the samples that training reads, in order, as words."""

from collections.abc import Iterator

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES

# metric of the objective -> key that is true for a pair with label 1.
_LABELS = {"nsp": "is_random_next", "sop": "is_swapped"}


def dynamic_instances(data: PretrainingDataModule, seed: int, epoch: int = 0) -> Iterator[dict[str, object]]:
    """Yield every sample of an epoch, in the order in which training with this seed draws them.

    The keys are those of the original generator (`published_generator.py`). Sentence-order pairs have `is_swapped`
    instead of `is_random_next`; single texts have neither.
    """
    total = data.num_training_samples
    first = epoch * total
    metric = OBJECTIVES[data.settings.objective].metric
    stop = first + total
    num_steps = -(-stop // data.batch_size)
    plan = TrainingPlan(num_steps, accumulate=1, seed=seed)
    for step in range(first // data.batch_size, num_steps):
        [batch] = data.training_batches(step, plan, share=0, num_shares=1)
        for number, instance in enumerate(_instances(data, batch, metric), step * data.batch_size):
            if first <= number < stop:
                yield instance


def _instances(data: PretrainingDataModule, batch: Batch, metric: str | None) -> Iterator[dict[str, object]]:
    entries = data.tokenizer.entries
    num_sequences, width = batch["input_ids"].shape
    mask = batch["attention_mask"]
    lengths = mask.sum(1).tolist() if mask is not None else [width] * num_sequences
    masked: list[list[tuple[int, str]]] = [[] for _ in range(num_sequences)]
    for flat, label in zip(batch["masked_positions"].tolist(), batch["masked_labels"].tolist(), strict=True):
        sequence, position = divmod(flat, width)
        masked[sequence].append((position, entries[label]))
    for number, length in enumerate(lengths):
        instance: dict[str, object] = {
            "tokens": [entries[token] for token in batch["input_ids"][number, :length].tolist()],
            "segment_ids": batch["token_type_ids"][number, :length].tolist(),
        }
        if metric is not None:
            instance[_LABELS[metric]] = bool(batch["sentence_labels"][number])
        instance["masked_lm_positions"] = [position for position, _ in masked[number]]
        instance["masked_lm_labels"] = [label for _, label in masked[number]]
        yield instance
