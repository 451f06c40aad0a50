"""A saved model in Python: raw input to predictions and to hidden states."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.data.loading.encoding import encode_texts, text_batch
from bert_lightning.data.reading.lines import STANDARD_INPUT, read_lines
from bert_lightning.data.reading.sources import refuse_other_table, warn_of_json_row
from bert_lightning.data.reading.tables import Row, is_table, json_row, read_rows
from bert_lightning.errors import InputError
from bert_lightning.model import BertEncoder
from bert_lightning.runs.building import task_of
from bert_lightning.runs.starting_point import checkpoint_tokenizer
from bert_lightning.runs.trainer import quiet, share_out_cores
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.task import Task
from bert_lightning.text.wordpiece import WordPieceTokenizer

BATCH_SIZE = 64
# Rows that are sorted by length among themselves.
_BLOCK = 32 * BATCH_SIZE
FeatureForm = Literal["tokens", "cls", "mean", "max", "pooler"]


def load(path: str | Path, device: str | None = None) -> "Predictor":
    """A saved run, or a checkpoint of one, ready to predict.

    Args:
        path: run directory or checkpoint file.
        device: `cpu`, `cuda`, ...; CUDA where it is at hand unless given.

    Raises:
        InputError, CheckpointError: nothing there that can predict.
    """
    return Predictor(task_of(read_checkpoint(path)), device)


def chosen_device(device: str | None) -> torch.device:
    """Return the named device; without a name, CUDA if it is available, otherwise the processor.

    Raises:
        InputError: there is no such device, or it cannot be used on this machine.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Only an allocation shows that a device can be used.
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


class Predictor:
    """Predicts raw input with a saved model alone.

    Attributes:
        task: the model with its tokenizer and labels.
    """

    def __init__(self, task: Task, device: str | None = None) -> None:
        quiet()
        share_out_cores(1)
        self.task = task.eval().to(chosen_device(device))

    def predict(self, items: Iterable[Any], batch_size: int = BATCH_SIZE) -> list[dict[str, Any]]:
        """One prediction an item, in order.

        An item is a text; a list or tuple of what a line of input holds between tabs, such as two texts; or a
        dictionary with the model's columns, such as a list of words under `tokens`.

        Raises:
            InputError: an item lacks what the model needs; the message says which.
        """
        if isinstance(items, str):
            raise InputError("a list of texts is expected, not one text")
        rows = [self._row(number, item) for number, item in enumerate(items, 1)]
        return list(self.predict_rows(rows, batch_size))

    def predict_rows(self, rows: Iterable[Row], batch_size: int = BATCH_SIZE) -> Iterator[dict[str, Any]]:
        """Predictions as they come, some thousand rows at a time, batched by length."""
        for block in _blocks(rows):
            with torch.inference_mode():
                predictions = self.task.predict_rows(block, batch_size)
            yield from predictions

    def _row(self, number: int, item: Any) -> Row:
        location, names = f"item {number}", self.line_columns
        if isinstance(item, dict):
            return Row(location, item)
        if isinstance(item, str) and len(names) == 1:
            return Row(location, {names[0]: item})
        if isinstance(item, list | tuple) and len(item) == len(names) and all(isinstance(part, str) for part in item):
            return Row(location, dict(zip(names, item, strict=True)))
        wanted = f"{' and '.join(names)}, or " if names else ""
        raise InputError(f"{location}: this model takes {wanted}a dictionary of its columns, not {item!r}")

    @property
    def line_columns(self) -> Sequence[str]:
        """What the parts of a line of plain text are."""
        return self.task.line_columns if isinstance(self.task, FineTuningTask) else ("text",)

    def read(self, source: str) -> Iterator[Row]:
        """Rows of a table (TSV, CSV, JSONL, Parquet) or of a file in a format of the task's own, or the lines of any
        other file or of standard input (`-`).

        A line of plain text is the model's text; for a model of several texts tabs separate them. A line of standard
        input that starts with `{` is a JSON object.

        Raises:
            InputError: unreadable input; the message names file and line.
        """
        task, names = self.task, self.line_columns
        if isinstance(task, FineTuningTask):
            own = task.read_raw(source) if source != STANDARD_INPUT else None
            if own is not None:
                yield from own
                return
        if source != STANDARD_INPUT and is_table(source):
            settings = task.settings if isinstance(task, FineTuningTask) else None
            yield from read_rows(source, getattr(settings, "column_names", None))
            return
        refuse_other_table(source)
        for number, (location, line) in enumerate(read_lines(source)):
            if source == STANDARD_INPUT and line.startswith("{"):
                yield json_row(location, line)
                continue
            if not number:
                warn_of_json_row(location, line)
            parts = line.split("\t", len(names) - 1) if len(names) > 1 else [line]
            if len(parts) != len(names):
                raise InputError(
                    f"{location}: this model takes "
                    + (f"{' and '.join(names)}, separated by a tab" if names else "JSON lines, not plain text")
                )
            yield Row(location, dict(zip(names, parts, strict=True)))


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


class Features(NamedTuple):
    """Hidden states of a text."""

    tokens: list[str]
    """its word pieces, [CLS] and [SEP] included"""
    states: NDArray[np.float32]
    """(layers, S, H), or (layers, H) where a text is one vector"""


class FeatureExtractor:
    """Hidden states of any checkpoint's encoder.

    Args:
        checkpoint: with a vocabulary; of ours, of transformers, of TensorFlow.
        device: CUDA where it is at hand unless given.

    Raises:
        InputError: the checkpoint brings no vocabulary.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | None = None) -> None:
        quiet()
        share_out_cores(1)
        tokenizer = checkpoint_tokenizer(checkpoint)
        if tokenizer is None:
            raise InputError(f"{checkpoint.path} brings no vocabulary, which text needs to become tokens")
        self.tokenizer: WordPieceTokenizer = tokenizer
        self.path = checkpoint.path
        self.device = chosen_device(device)
        self.encoder = BertEncoder.from_checkpoint(checkpoint).eval().to(self.device)
        # A model that was trained without one gets one drawn by chance.
        self._has_pooler = "encoder.pooler.weight" in checkpoint.tensors

    def layers(self, wanted: Sequence[int]) -> list[int]:
        """Layers as numbers from 0, the embeddings; the first block is 1, and -1 the last.

        Raises:
            InputError: there is no such layer.
        """
        total = self.encoder.config.num_hidden_layers + 1
        for layer in wanted:
            if not -total <= layer < total:
                raise InputError(
                    f"layer is {layer}; {self.path} has 0 (embeddings) to {total - 1}, or -{total} to -1 from the top"
                )
        return [layer % total for layer in wanted]

    def extract(
        self,
        texts: Iterable[str],
        layers: Sequence[int] = (-1,),
        form: FeatureForm = "tokens",
        max_seq_length: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Features]:
        """States of each text in order: of every token, of [CLS], their mean or maximum, or the pooler's output.

        Raises:
            InputError: no such layer, or a pooler that the model lacks.
        """
        chosen = self.layers(layers)
        if form == "pooler" and not self._has_pooler:
            raise InputError(f"{self.path} has no pooler; features may be tokens, cls, mean or max")
        limit = max_seq_length or self.encoder.config.max_position_embeddings
        if not 3 <= limit <= self.encoder.config.max_position_embeddings:
            raise InputError(
                f"max_seq_length is {limit}; {self.path} allows 3 to {self.encoder.config.max_position_embeddings}"
            )
        for block in _blocks(Row("", {"text": text}) for text in texts):
            ids, _ = encode_texts(self.tokenizer, [str(row.values["text"]) for row in block], None, limit)
            order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
            found: dict[int, Features] = {}
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                found.update(zip(numbers, self._batch([ids[n] for n in numbers], chosen, form, limit), strict=True))
            yield from (found[number] for number in range(len(block)))

    def _batch(self, ids: list[list[int]], layers: list[int], form: FeatureForm, limit: int) -> Iterator[Features]:
        batch = text_batch(self.tokenizer, ids, None, limit)
        names = ("input_ids", "token_type_ids", "attention_mask")
        tensors = move_data_to_device({name: batch[name] for name in names}, self.device)
        with torch.inference_mode():
            output = self.encoder(**tensors, output_hidden_states=True)
        assert output.hidden_states is not None
        states = torch.stack([output.hidden_states[layer] for layer in layers], 1).float().cpu().numpy()
        pooled = output.pooler_output.float().cpu().numpy()
        for row, pieces in enumerate(ids):
            length = len(pieces) + 2
            own = states[row, :, :length]
            tokens = [self.tokenizer.entries[i] for i in batch["input_ids"][row, :length].tolist()]
            if form == "pooler":
                yield Features(tokens, pooled[row][None])
            elif form == "tokens":
                yield Features(tokens, own)
            else:
                yield Features(tokens, {"cls": own[:, 0], "mean": own.mean(1), "max": own.max(1)}[form])
