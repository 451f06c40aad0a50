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
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength, TrainingPlan
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.splits import SplitExamples, Subset
from bert_lightning.tasks.prompting.demonstrations import Demonstrations, key_of, keys_of_step
from bert_lightning.tasks.prompting.masked_texts import MaskedTexts
from bert_lightning.tasks.prompting.patterns import Filled
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.tasks.prompting.verbalizers import Verbalizer, encode_answers
from bert_lightning.tasks.text_classification.data import EncodedTexts, TextClassificationDataModule
from bert_lightning.text.wordpiece import WordPieceTokenizer

Shown = Sequence[Sequence[str | None]]
"""The examples that demonstrate: first text, second text or None, and label of each."""


class EncodedClozes(EncodedTexts):
    """Texts in a pattern, encoded.

    A batch holds what that of `EncodedTexts` does, and `masked_positions` (B * K): the K masks of each text in order,
    as positions in the flattened micro-batch. With D draws of demonstrations, the D sequences of a text follow one
    another: `input_ids` is (B * D, S), and there are B * D * K positions.

    Attributes:
        masks: (n, K) the positions of the masks in each sequence.
        demonstrations: the examples that are appended; None if none are.
        are_shown: whether they are the examples of this split. Then no example is appended to itself.
    """

    settings: ClozeData
    masks: NDArray[np.int64]
    demonstrations: Demonstrations | None = None
    are_shown: bool = False

    def __init__(
        self,
        examples: Sequence[LabelledText],
        tokenizer: WordPieceTokenizer,
        settings: ClozeData,
        labels: Sequence[str],
        subsets: Sequence[Subset] | None = None,
    ) -> None:
        self.verbalizer = verbalizer_of(settings, labels, tokenizer)
        self.names, self.num_labels = list(labels), len(labels)
        super().__init__(examples, tokenizer, settings, labels, subsets)

    def _sequences(self, examples: Sequence[LabelledText]) -> tuple[list[list[int]], list[list[int] | None] | None]:
        """Return the ids of both segments of each text, and keep the positions of the masks."""
        filled = self._filled(examples)
        self.masks = np.array([each.masks for each in filled], dtype=np.int64).reshape(len(filled), -1)
        seconds = [each.second for each in filled] if self.settings.cloze.is_pair else None
        return [each.first for each in filled], seconds

    def _filled(
        self, examples: Sequence[LabelledText], answers: Sequence[Sequence[int]] | None = None
    ) -> list[Filled]:
        """Return the sequences of the examples; with answers, those of demonstrations.

        Raises:
            InputError: the pattern does not fit into `data.max_seq_length`, or into the share of it that a text or a
                demonstration gets.
        """
        settings = self.settings
        of_text, of_shown = settings.room(self.num_labels)
        room = of_text if answers is None else of_shown
        try:
            return settings.cloze.fill(examples, self.tokenizer, self.verbalizer.num_masks, room, answers)
        except ValueError as error:
            shares = f", of which the text gets {of_text} and each of {self.num_labels} demonstrations {of_shown}"
            raise InputError(
                f"data.max_seq_length is {settings.max_seq_length}{shares if settings.demonstrations else ''}, "
                f"but {error}"
            ) from None

    def places_of_fields(self, number: int) -> list[range]:
        """Return the positions of each field of the pattern in a sequence."""
        return self._filled([self.examples[number]])[0].fields

    def part(self, numbers: NDArray[np.int64]) -> Self:
        part = super().part(numbers)
        part.masks = self.masks[numbers]
        return part

    def show(self, shown: Shown | None) -> None:
        """Append these examples from now on; do nothing without `data.demonstrations`.

        Raises:
            InputError: there are none, although the settings ask for them, or they do not fit.
        """
        settings = self.settings
        if not settings.demonstrations:
            return
        if not shown:
            raise InputError("data.demonstrations needs the examples of a training, and this checkpoint has none")
        examples = [LabelledText("", str(first), second, label, "") for first, second, label in shown]
        answers = [self.verbalizer.first_answers[self.names.index(str(each.label))] for each in examples]
        filled = self._filled(examples, answers)
        self.demonstrations = Demonstrations(
            examples, self.names, [[*each.first, *(each.second or ())] for each in filled]
        )

    def training_batch(self, numbers: NDArray[np.int64], seed: int, step: int) -> Batch:
        keys = [keys_of_step(seed, step, numbers.tolist())] if self.demonstrations is not None else []
        return self._batch(numbers, keys)

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        return self.batch_of_draws(numbers, self.settings.demonstration_draws)

    def batch_of_draws(self, numbers: NDArray[np.int64], num_draws: int) -> Batch:
        """Return a batch in which each text has `num_draws` sequences in a row, each with its own demonstrations."""
        if self.demonstrations is None:
            return self._batch(numbers, [])
        examples = [self.examples[number] for number in numbers]
        return self._batch(numbers, [[key_of(each, draw) for each in examples] for draw in range(num_draws)])

    def _batch(self, numbers: NDArray[np.int64], keys: Sequence[Sequence[int]]) -> Batch:
        """Return sequences with the demonstrations that the keys draw, if there are any.

        Args:
            numbers: the numbers of the texts.
            keys: for each draw, a key of each text; empty without demonstrations.
        """
        shown = self.demonstrations
        num_draws = len(keys) if shown is not None else 1
        rows = np.repeat(numbers, num_draws)
        seconds = self._seconds_of(rows)
        if shown is not None and len(rows):
            own = [int(number) if self.are_shown else None for number in rows]
            before = seconds if seconds is not None else [None] * len(rows)
            drawn = shown.drawn([key for of_text in zip(*keys, strict=True) for key in of_text], own).tolist()
            seconds = [
                shown.appended(each, of_text, self.tokenizer.sep_id)
                for each, of_text in zip(before, drawn, strict=True)
            ]
        batch = self._batch_with(rows, seconds)
        # One entry per text, however many sequences it has.
        batch["numbers"] = batch["numbers"][::num_draws]
        if "labels" in batch:
            batch["labels"] = batch["labels"][::num_draws]
        starts = np.arange(len(rows))[:, None] * batch["input_ids"].shape[1]
        batch["masked_positions"] = torch.from_numpy((self.masks[rows] + starts).flatten())
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
        demonstrations: Shown | None = None,
    ) -> None:
        self.demonstrations = demonstrations
        if labels is None and split is not None:
            # A pre-trained checkpoint is scored as it is, so no training data are read.
            labels = settings.without_dataset().labels or list(settings.verbalizer)
            if not labels:
                raise InputError(
                    "data.verbalizer is empty, and without training the labels are not known: name a word for each"
                )
        super().__init__(settings, tokenizer, labels=labels, split=split, length=length)
        self.masked_texts: MaskedTexts | None = None
        if settings.demonstrations and "train" in self.splits:
            train = self.splits["train"].examples
            self.demonstrations = [[each.text, each.text_pair, str(each.label)] for each in train]
        for name, each in self.splits.items():
            self._show(name, each)

    def _show(self, name: str, split: EncodedTexts) -> EncodedTexts:
        assert isinstance(split, EncodedClozes)
        split.show(self.demonstrations)
        split.are_shown = name == "train"
        return split

    def _encode(self, split: str, read: SplitExamples[LabelledText]) -> EncodedTexts:
        return self._show(split, super()._encode(split, read))

    def mask_words_of(self, texts: Sequence[LabelledText], texts_per_example: int = 1) -> None:
        """Add a micro-batch of these texts, with masked words, to each training micro-batch, as `unlabelled`."""
        encoded = self._encoded(SplitExamples(list(texts), [], ""))
        self.masked_texts = MaskedTexts(encoded, self.batch_size * texts_per_example)

    @property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the examples of each split, and over the texts with masked words."""
        masked = self.masked_texts
        return {**super().fingerprints, **({"masked words": masked.texts.fingerprint} if masked is not None else {})}

    def training_batches(self, step: int, plan: TrainingPlan, share: int, num_shares: int) -> list[Batch]:
        batches = super().training_batches(step, plan, share, num_shares)
        if self.masked_texts is None:
            return batches
        further = self.masked_texts.batches(step, plan, share, num_shares)
        return [{**batch, "unlabelled": texts} for batch, texts in zip(batches, further, strict=True)]

    @property
    def further_texts(self) -> Sequence[str]:
        """The text of the pattern and the answers."""
        answers = [self.settings.answers_of(label) for label in self.labels]
        return [*self.settings.cloze.literals, *chain.from_iterable(answers)]

    def _with_added(self, split: EncodedTexts, added: Sequence[LabelledText]) -> EncodedClozes:
        if self.settings.demonstrations:
            raise InputError("data.demonstrations cannot be combined with replayed examples of other tasks")
        mixed = [*split.examples, *added]
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
