"""The data of multiple choice: questions with several choices, of which one is right."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.datasets.examples import ChoiceQuestion
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.encoding import encode_texts
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit, SplitExamples, Subset, check_all_or_none
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.text.wordpiece import WordPieceTokenizer


class EncodedChoices(EncodedSplit[ChoiceQuestion]):
    """Questions, encoded. Each choice is [CLS] context [SEP] question choice [SEP]; paper section 4.4.

    A question counts as one sequence, with all of its choices. A batch holds `input_ids`, `token_type_ids`,
    `attention_mask` (B, K, S), `choice_mask` (B, K), `numbers` (B,) and, if the right choice is known, `labels` (B,).
    K is the largest number of choices in the batch.
    """

    def __init__(
        self,
        examples: Sequence[ChoiceQuestion],
        tokenizer: WordPieceTokenizer,
        settings: MultipleChoiceData,
        subsets: Sequence[Subset] | None = None,
    ) -> None:
        super().__init__(examples, subsets)
        self.settings, self.tokenizer = settings, tokenizer
        contexts = [example.context for example in examples for _ in example.choices]
        choices = [f"{example.question} {choice}".strip() for example in examples for choice in example.choices]
        self.contexts, seconds = encode_texts(tokenizer, contexts, choices, settings.max_seq_length)
        assert seconds is not None
        self.choices = [second or [] for second in seconds]
        self.num_choices = np.array([len(example.choices) for example in examples], dtype=np.int64)
        self.starts = np.cumsum(self.num_choices) - self.num_choices
        lengths = [len(a) + len(b) for a, b in zip(self.contexts, self.choices, strict=True)]
        # The length of a question is that of its longest choice, because batches are padded to it.
        self.lengths = np.array(
            [max(lengths[start : start + n]) for start, n in zip(self.starts, self.num_choices, strict=True)],
            dtype=np.int64,
        )

    def part(self, numbers: NDArray[np.int64]) -> Self:
        # The choices stay together with those of all questions, where `starts` finds them.
        part = super().part(numbers)
        part.num_choices, part.starts = self.num_choices[numbers], self.starts[numbers]
        return part

    @property
    def is_labelled(self) -> bool:
        """Whether the right choices are known."""
        return self.examples[0].label is not None

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        tokenizer = self.tokenizer
        num_choices = int(self.num_choices[numbers].max(initial=1))
        mask = np.arange(num_choices)[None, :] < self.num_choices[numbers][:, None]
        # Fill missing choices with copies of the first one, which are masked.
        choices = (self.starts[numbers][:, None] + np.where(mask, np.arange(num_choices)[None, :], 0)).flatten()
        arrays = assemble(
            [self.contexts[choice] for choice in choices],
            [self.choices[choice] for choice in choices],
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        labels = {}
        if self.is_labelled:
            labels["labels"] = np.array([self.examples[number].label for number in numbers], dtype=np.int64)
        batch = to_batch(*arrays, numbers=numbers, choice_mask=mask, **labels)
        # The tokens of the copies do not count.
        lengths = arrays[2][mask.flatten()]
        batch |= {"num_tokens": int(lengths.sum()), "num_token_pairs": int((lengths**2).sum())}
        batch["num_sequences"] = len(lengths)
        shape = len(numbers), num_choices
        batch["input_ids"] = batch["input_ids"].unflatten(0, shape)
        batch["token_type_ids"] = batch["token_type_ids"].unflatten(0, shape)
        attention_mask = batch["attention_mask"]
        batch["attention_mask"] = attention_mask.unflatten(0, shape) if attention_mask is not None else None
        return batch


class MultipleChoiceDataModule(FineTuningDataModule[ChoiceQuestion, EncodedChoices]):
    """Data module of questions with their choices.

    Raises:
        InputError: a file is missing or empty, or questions lack labels.
    """

    settings: MultipleChoiceData

    def __init__(
        self,
        settings: MultipleChoiceData,
        tokenizer: WordPieceTokenizer,
        *,
        split: EvaluationSplit | None = None,
        length: TrainingLength | None = None,
    ) -> None:
        super().__init__(settings, tokenizer, length)
        self.splits |= {name: self._encode(name, each) for name, each in self._read(split).items()}

    def _encode(self, split: str, read: SplitExamples[ChoiceQuestion]) -> EncodedChoices:
        check_all_or_none(read.examples, split, "question", "label")
        return EncodedChoices(read.examples, self.tokenizer, self.settings, read.subsets)

    def _read_custom(self, source: str, split: str) -> Iterator[ChoiceQuestion]:
        return read_choices(source)
