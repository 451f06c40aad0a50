"""Unlabelled texts in the pattern of a cloze, with masked words to predict."""

import numpy as np

from bert_lightning.data.loading.batching import Batch, length_bucketed
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.data.pretraining.masked_batch import MaskedBatches
from bert_lightning.data.pretraining.masking import TokenMasking
from bert_lightning.data.pretraining.samples import NumberedSample, Sample
from bert_lightning.tasks.fine_tuning.texts import TextSplit


class MaskedTexts:
    """Unlabelled texts in a pattern. Every step reads the same number of them.

    Args:
        texts: the texts in their pattern.
        batch_size: how many of them a step reads, over all processes and micro-batches.
    """

    def __init__(self, texts: TextSplit, batch_size: int) -> None:
        self.texts = texts
        self.batch_size = batch_size
        self._masked = MaskedBatches(texts.tokenizer, TokenMasking(), pairs=False, source="masked_words")
        seconds = texts.seconds if texts.seconds is not None else [None] * len(texts.firsts)
        self._samples = [
            Sample(np.array(first, np.uint32), None if second is None else np.array(second, np.uint32), label=0)
            for first, second in zip(texts.firsts, seconds, strict=True)
        ]

    def batches(self, step: int, plan: TrainingPlan, share: int, num_shares: int) -> list[Batch]:
        """Return the micro-batches of one share of a step.

        The masks of a text depend on the seed, the epoch and the text alone. They do not depend on the number of
        micro-batches or processes.
        """
        seed = derive_key(plan.seed, "masked words")
        drawn = np.stack(length_bucketed(seed, self.texts.lengths, self.batch_size, step, plan.num_steps), axis=1)
        of_share = np.split(drawn, plan.accumulate * num_shares)[share::num_shares]
        length = self.texts.settings.max_seq_length
        return [
            self._masked.build(
                [NumberedSample(epoch, n, self._samples[n]) for epoch, n in each.tolist()], length, seed
            )
            for each in of_share
        ]
