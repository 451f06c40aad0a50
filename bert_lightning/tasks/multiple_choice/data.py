"""Questions with several choices, of which one is right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.datasets.examples import ChoiceQuestion
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.encoding import encode_texts
from bert_lightning.data.loading.module import Stage
from bert_lightning.tasks.fine_tuning.data import (
    EncodedSplit,
    FineTuningData,
    FineTuningDataModule,
    Part,
    check_all_or_none,
)
from bert_lightning.text.wordpiece import WordPieceTokenizer


@dataclass(frozen=True)
class MultipleChoiceData(FineTuningData):
    """SWAG tables, DREAM and RACE files, or tables with `context`, `question`, `choices` and `label`."""

    task: ClassVar[str] = "multiple-choice"
    shortest: ClassVar[int] = 5

    @property
    def is_pair(self) -> bool:
        """Return True: a sequence holds a context and a choice."""
        return True


class EncodedChoices(EncodedSplit):
    """Questions, encoded: each choice a sequence [CLS] context [SEP] question choice [SEP]; paper section 4.4.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, K, S), `choice_mask` (B, K), `numbers` (B,), and
    where the right choice is known `labels` (B,). K is the most choices in the batch.
    """

    def __init__(
        self,
        examples: Sequence[ChoiceQuestion],
        tokenizer: WordPieceTokenizer,
        settings: MultipleChoiceData,
        parts: Sequence[Part] | None = None,
    ) -> None:
        super().__init__(examples, parts)
        self.settings, self.tokenizer = settings, tokenizer
        contexts = [example.context for example in examples for _ in example.choices]
        choices = [f"{example.question} {choice}".strip() for example in examples for choice in example.choices]
        self.contexts, seconds = encode_texts(tokenizer, contexts, choices, settings.max_seq_length)
        assert seconds is not None
        self.choices = seconds
        self.num_choices = np.array([len(example.choices) for example in examples], dtype=np.int64)
        self.starts = np.cumsum(self.num_choices) - self.num_choices
        lengths = [len(a) + len(b) for a, b in zip(self.contexts, self.choices, strict=True)]
        # That of the longest choice, which its batch is padded to.
        self.lengths = np.array(
            [max(lengths[start : start + n]) for start, n in zip(self.starts, self.num_choices, strict=True)],
            dtype=np.int64,
        )

    @property
    def is_labelled(self) -> bool:
        """Whether the right choices are known."""
        return self.examples[0].label is not None

    def batch(self, features: NDArray[np.int64]) -> Batch:
        """Features to tensors."""
        tokenizer = self.tokenizer
        most = int(self.num_choices[features].max(initial=1))
        mask = np.arange(most)[None, :] < self.num_choices[features][:, None]
        # A choice that is not there is a copy of the first, and masked.
        rows = (self.starts[features][:, None] + np.where(mask, np.arange(most)[None, :], 0)).flatten()
        arrays = assemble(
            [self.contexts[row] for row in rows],
            [self.choices[row] for row in rows],
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        labels = {}
        if self.is_labelled:
            labels["labels"] = np.array([self.examples[number].label for number in features], dtype=np.int64)
        batch = to_batch(*arrays, numbers=features, choice_mask=mask, **labels)
        # The copies are no real tokens.
        lengths = arrays[2][mask.flatten()]
        batch |= {"num_tokens": int(lengths.sum()), "num_token_pairs": int((lengths**2).sum())}
        batch["num_sequences"] = len(lengths)
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            if batch[name] is not None:
                batch[name] = batch[name].unflatten(0, (len(features), most))
        return batch


class MultipleChoiceDataModule(FineTuningDataModule):
    """Serves questions with their choices.

    Raises:
        InputError: a file is missing or empty, or a question has no label though the first one has.
    """

    def __init__(
        self, settings: MultipleChoiceData, tokenizer: WordPieceTokenizer, *, stage: Stage | None = None
    ) -> None:
        super().__init__(settings, tokenizer)
        for split, (examples, parts, _) in self._read(stage).items():
            check_all_or_none(examples, split, "question", "label")
            self.splits[split] = EncodedChoices(examples, tokenizer, settings, parts)

    @property
    def head(self) -> dict[str, Any]:
        """Nothing: a choice's score is the same for all data."""
        return {}

    def _own(self, source: str, split: str) -> Iterator[ChoiceQuestion]:
        return read_choices(source)
