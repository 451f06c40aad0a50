"""Unlabelled texts in the pattern of a cloze, with masked words to predict."""

from collections.abc import Sequence

import numpy as np

from bert_lightning.data.loading.batching import Batch, length_bucketed
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.data.pretraining.masked_batch import MaskedBatches
from bert_lightning.data.pretraining.masking import TokenMasking
from bert_lightning.data.pretraining.samples import NumberedSample, Sample, Tokens
from bert_lightning.tasks.fine_tuning.texts import TextSplit


class MaskedTexts:
    """Texts in a pattern, as many in each step.

    Args:
        texts: the texts in their pattern.
        batch_size: how many of them a step reads, over all processes and micro-batches.
    """

    def __init__(self, texts: TextSplit, batch_size: int) -> None:
        self.texts = texts
        self.batch_size = batch_size
        self._masked = MaskedBatches(texts.tokenizer, TokenMasking(), pairs=False, source="masked_words")

    def batches(self, step: int, plan: TrainingPlan, share: int, num_shares: int) -> list[Batch]:
        """Return the micro-batches of one share of a step.

        The masks of a text depend on the seed, the epoch and the text alone. They do not depend on the number of
        micro-batches or processes.
        """
        seed = derive_key(plan.seed, "masked words")
        epochs, numbers = length_bucketed(seed, self.texts.lengths, self.batch_size, step, plan.num_steps)
        of_share = np.split(np.arange(self.batch_size), plan.accumulate * num_shares)[share::num_shares]
        samples = [self._sample(int(epoch), int(number)) for epoch, number in zip(epochs, numbers, strict=True)]
        length = self.texts.settings.max_seq_length
        return [self._masked.build([samples[place] for place in places], length, seed) for places in of_share]

    def _sample(self, epoch: int, number: int) -> NumberedSample:
        second = self.texts.seconds[number] if self.texts.seconds is not None else None
        sample = Sample(_tokens(self.texts.firsts[number]), None if second is None else _tokens(second), label=0)
        return NumberedSample(epoch, number, sample)


def _tokens(ids: Sequence[int]) -> Tokens:
    return np.array(ids, dtype=np.uint32)
