"""The data of the cloze task: texts in a pattern, with the positions of its masks."""

from collections.abc import Sequence
from itertools import chain
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from bert_lightning.checks import nearest
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.splits import SplitExamples, Subset
from bert_lightning.tasks.prompting.patterns import Filled
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.tasks.prompting.verbalizers import Verbalizer, encode_answers
from bert_lightning.tasks.text_classification.data import EncodedTexts, TextClassificationDataModule
from bert_lightning.text.wordpiece import WordPieceTokenizer


class EncodedClozes(EncodedTexts):
    """Texts in a pattern, encoded.

    A batch holds what that of `EncodedTexts` does, and `masked_positions` (B * K): the K masks of each text in order,
    as positions in the flattened micro-batch.

    Attributes:
        masks: (n, K) the positions of the masks in each sequence.
    """

    settings: ClozeData
    masks: NDArray[np.int64]

    def __init__(
        self,
        examples: Sequence[LabelledText],
        tokenizer: WordPieceTokenizer,
        settings: ClozeData,
        labels: Sequence[str],
        subsets: Sequence[Subset] | None = None,
    ) -> None:
        self.verbalizer = verbalizer_of(settings, labels, tokenizer)
        super().__init__(examples, tokenizer, settings, labels, subsets)

    def _sequences(self, examples: Sequence[LabelledText]) -> tuple[list[list[int]], list[list[int] | None] | None]:
        """Return the ids of both segments of each text, and keep the positions of the masks."""
        filled = self._filled(examples)
        self.masks = np.array([each.masks for each in filled], dtype=np.int64).reshape(len(filled), -1)
        seconds = [each.second for each in filled] if self.settings.cloze.is_pair else None
        return [each.first for each in filled], seconds

    def _filled(self, examples: Sequence[LabelledText]) -> list[Filled]:
        settings = self.settings
        try:
            return settings.cloze.fill(examples, self.tokenizer, self.verbalizer.num_masks, settings.max_seq_length)
        except ValueError as error:
            raise InputError(f"data.{error}") from None

    def part(self, numbers: NDArray[np.int64]) -> Self:
        part = super().part(numbers)
        part.masks = self.masks[numbers]
        return part

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        batch = super().batch(numbers)
        starts = np.arange(len(numbers))[:, None] * batch["input_ids"].shape[1]
        batch["masked_positions"] = torch.from_numpy((self.masks[numbers] + starts).flatten())
        return batch


class ClozeDataModule(TextClassificationDataModule):
    """Data module of texts in a pattern. The labels are those of text classification, or those of the verbaliser.

    Raises:
        InputError: a file or column is missing or empty, a label is not one of training, or a word of the verbaliser
            cannot be used.
    """

    settings: ClozeData

    def __init__(
        self,
        settings: ClozeData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        split: EvaluationSplit | None = None,
        length: TrainingLength | None = None,
    ) -> None:
        if labels is None and split is not None:
            # A pre-trained checkpoint is scored as it is, so no training data are read.
            labels = settings.without_dataset().labels or list(settings.verbalizer)
            if not labels:
                raise InputError(
                    "data.verbalizer is empty, and without training the labels are not known: name a word for each"
                )
        super().__init__(settings, tokenizer, labels=labels, split=split, length=length)

    @property
    def further_texts(self) -> Sequence[str]:
        """The text of the pattern and the answers."""
        answers = [self.settings.answers_of(label) for label in self.labels]
        return [*self.settings.cloze.literals, *chain.from_iterable(answers)]

    def _with_replayed(self, split: EncodedTexts, replayed: Sequence[LabelledText]) -> EncodedClozes:
        mixed = [*split.examples, *replayed]
        return self._encoded(SplitExamples(mixed, [Subset("", 0, len(mixed))], ""))

    def _encoded(self, read: SplitExamples[LabelledText]) -> EncodedClozes:
        return EncodedClozes(read.examples, self.tokenizer, self.settings, self.labels, read.subsets)


def verbalizer_of(settings: ClozeData, labels: Sequence[str], tokenizer: WordPieceTokenizer) -> Verbalizer:
    """Return the pieces of the answers of all labels.

    Raises:
        InputError: a word or a label of the verbaliser cannot be used; the message names the key.
    """
    for label in settings.verbalizer:
        if label not in labels:
            raise InputError(
                f"data.verbalizer has the label {label!r}, which the data do not have{nearest(label, labels)}"
            )
    try:
        return encode_answers(
            {label: settings.answers_of(label) for label in labels}, tokenizer, given=settings.verbalizer
        )
    except ValueError as error:
        raise InputError(f"data.{error}") from None
