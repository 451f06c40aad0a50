"""Labelled texts, single or in pairs, from tables."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.batching import Batch, assemble, length_bucketed, to_batch
from bert_lightning.data.module import Stage, StepDataModule, TrainingPlan, require_at_least, used_splits
from bert_lightning.data.sources import Row, column, read_rows
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer


@dataclass(frozen=True)
class TextClassificationData:
    """Tables of labelled texts: TSV, CSV, JSONL, Parquet (also .gz) or `hub:NAME[:CONFIG[:SPLIT]]`.

    Attributes:
        train: table to train on.
        validation: table to validate on, or none.
        test: table for `bert-lightning test`, or none.
        text_column: column of the text, or of the first of two.
        text_pair_column: column of the second text, or none.
        label_column: column of the label.
        column_names: names of the columns, where the file's first line does not give them.
        tokenizer: vocabulary file or folder; from the pre-trained checkpoint unless given.
        cased: whether a bare vocabulary file is cased.
        max_seq_length: longest sequence, special tokens included; longer ones are cut.
        batch_size: texts of one optimiser step, over all processes and accumulated micro-batches.
        evaluation_batch_size: texts of one batch in validation and test.
        max_train_samples: use only the first of the training rows.
        num_workers: processes that make batches ahead; 0 makes them in the training process.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    column_names: list[str] | None = None
    tokenizer: str | None = None
    cased: bool = False
    max_seq_length: int = 128
    batch_size: int = 32
    evaluation_batch_size: int = 64
    max_train_samples: int | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        # [CLS] and [SEP] around one token, or around one of each text.
        require_at_least(self, 3 if self.text_pair_column is None else 5, "max_seq_length")
        require_at_least(self, 1, "batch_size", "evaluation_batch_size", "max_train_samples")
        require_at_least(self, 0, "num_workers")


class Examples(NamedTuple):
    """A split, encoded: one entry a row of the table."""

    texts: list[str]
    firsts: list[list[int]]
    seconds: list[list[int]] | None
    labels: NDArray[np.int64]
    lengths: NDArray[np.int64]
    by_length: NDArray[np.int64]
    fingerprint: str


class TextClassificationDataModule(StepDataModule):
    """Serves labelled texts; the label names are those of the training table unless given.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `labels` (B,) and, outside training,
    `numbers` (B,): the rows of the table.

    `stage` reads only the split that it scores; None is for training.

    Attributes:
        labels: label names in id order.
        examples: split -> its encoded rows.

    Raises:
        InputError: a table or column is missing or empty, or a label is not one of the training table's.
    """

    def __init__(
        self,
        settings: TextClassificationData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        stage: Stage | None = None,
    ) -> None:
        super().__init__(tokenizer, settings.batch_size, settings.evaluation_batch_size, settings.num_workers)
        self.settings = settings
        rows = {split: self._rows(split, path) for split, path in used_splits(settings, stage).items()}
        if labels is None:
            labels = sort_labels(column(row, settings.label_column) for row in rows["train"])
            if len(labels) < 2:
                raise InputError(f"{settings.train}: every row has the label {labels[0]!r}: at least two are needed")
        self.labels = list(labels)
        self.examples = {split: self._encode(table) for split, table in rows.items()}

    @property
    def num_training_samples(self) -> int:
        """Rows of the training table."""
        return len(self.examples["train"].labels)

    @property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the texts and labels of each split."""
        return {split: examples.fingerprint for split, examples in self.examples.items()}

    def training_batches(self, step: int, plan: TrainingPlan, rank: int, world_size: int) -> list[Batch]:
        """Rows of about one length."""
        examples = self.examples["train"]
        _, rows = length_bucketed(plan.seed, examples.lengths, self.batch_size, step, plan.num_steps)
        num_parts = plan.accumulate * world_size
        parts = np.split(rows, num_parts)[rank::world_size]
        return [self._batch(examples, part, labels=examples.labels[part]) for part in parts]

    def num_evaluation_samples(self, stage: Stage) -> int:
        """Rows of a split."""
        return len(self.examples[stage].labels) if stage in self.examples else 0

    def evaluation_batch(self, stage: Stage, numbers: NDArray[np.int64]) -> Batch:
        """Rows in order of length, so that little is padded."""
        examples = self.examples[stage]
        rows = examples.by_length[numbers]
        return self._batch(examples, rows, labels=examples.labels[rows], numbers=rows)

    def _rows(self, split: str, path: str) -> list[Row]:
        rows = list(read_rows(path, self.settings.column_names))
        if split == "train":
            rows = rows[: self.settings.max_train_samples]
        if not rows:
            raise InputError(f"{path}: the table has no rows")
        return rows

    def _encode(self, rows: list[Row]) -> Examples:
        settings = self.settings
        ids = {label: number for number, label in enumerate(self.labels)}
        labels = np.empty(len(rows), dtype=np.int64)
        texts = [column(row, settings.text_column) for row in rows]
        pairs = [column(row, settings.text_pair_column) for row in rows] if settings.text_pair_column else None
        for number, row in enumerate(rows):
            label = column(row, settings.label_column)
            if label not in ids:
                raise InputError(
                    f"{row.place}: the label {label!r} does not occur in training; known: {', '.join(self.labels)}"
                )
            labels[number] = ids[label]
        firsts, seconds = encode_texts(self.tokenizer, texts, pairs, settings.max_seq_length)
        lengths = np.array([len(first) for first in firsts], dtype=np.int64)
        if seconds is not None:
            lengths += np.array([len(second) for second in seconds], dtype=np.int64)
        digest = hashlib.sha256()
        for part in (texts, pairs or (), [self.labels[label] for label in labels], self.labels):
            digest.update(repr(part).encode())
        by_length = np.argsort(lengths, kind="stable")
        return Examples(texts, firsts, seconds, labels, lengths, by_length, digest.hexdigest())

    def _batch(self, examples: Examples, rows: NDArray[np.int64], **labels: NDArray[np.int64]) -> Batch:
        firsts = [examples.firsts[row] for row in rows]
        seconds = [examples.seconds[row] for row in rows] if examples.seconds is not None else None
        return text_batch(self.tokenizer, firsts, seconds, self.settings.max_seq_length, **labels)


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels in a fixed order: by value if all are numbers, by name otherwise."""
    distinct = sorted(set(labels))
    try:
        values = {label: float(label) for label in distinct}
    except ValueError:
        return distinct
    return sorted(distinct, key=values.__getitem__) if all(map(math.isfinite, values.values())) else distinct


def encode_texts(
    tokenizer: WordPieceTokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_seq_length: int
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Ids of each text (and each second text), cut so that with the special tokens they fit.

    A pair is cut token by token from the end of the longer part (tie: the second);
    `run_classifier.py: _truncate_seq_pair`.
    """
    firsts = tokenizer.encode_batch(texts)
    if pairs is None:
        return [first[: max_seq_length - 2] for first in firsts], None
    limit = max_seq_length - 3
    seconds = tokenizer.encode_batch(pairs)
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        if len(first) + len(second) > limit:
            keep = min(len(first), max(limit - len(second), -(-limit // 2)))
            firsts[number], seconds[number] = first[:keep], second[: limit - keep]
    return firsts, seconds


def text_batch(
    tokenizer: WordPieceTokenizer,
    firsts: list[list[int]],
    seconds: list[list[int]] | None,
    max_seq_length: int,
    **labels: NDArray[np.int64],
) -> Batch:
    """Encoded texts to padded tensors."""
    arrays = assemble(firsts, seconds, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, max_seq_length)
    return to_batch(*arrays, **labels)
