"""Prediction from raw input with a saved model, by the command `predict` or, with `load`, in Python."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Unpack, overload

from torch import Tensor

from bert_lightning.checkpoints.files import write_atomically
from bert_lightning.checkpoints.reading import read_checkpoint, read_over
from bert_lightning.checks import nearest
from bert_lightning.config.extensions import allowed_names
from bert_lightning.config.settings import as_one_message
from bert_lightning.data.reading.lines import STANDARD_INPUT, read_lines
from bert_lightning.data.reading.sources import refuse_other_table, refuse_to_replace, warn_of_json_row
from bert_lightning.data.reading.tables import Row, is_table, json_row, read_rows
from bert_lightning.errors import InputError
from bert_lightning.lazy import imported
from bert_lightning.runs.blocks import in_blocks, without_warnings
from bert_lightning.runs.explanation import Explanation
from bert_lightning.runs.inference_device import InferencePrecision, chosen_device, inference, uses_bfloat16
from bert_lightning.runs.own_code import import_code_of
from bert_lightning.runs.trainer import prepare_gpu, quiet, share_out_cores
from bert_lightning.runs.tuned_runs import Tunings, named_runs, share_base
from bert_lightning.runs.zero_shot import HowToAsk, ZeroShot
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.inference import PREDICTION_BATCH_SIZE as BATCH_SIZE
from bert_lightning.tasks.rebuilding import task_of
from bert_lightning.tasks.task import Task

# Faults of a file that one message names.
_MOST_NAMED = 5


@overload
def load(
    path: str | Path,
    device: str | None = None,
    *,
    precision: InferencePrecision = "32",
    base: str | Path | None = None,
    tuning: None = None,
    allow_modules: Sequence[str] = (),
) -> "Predictor": ...


@overload
def load(
    path: str | Path,
    device: str | None = None,
    *,
    precision: InferencePrecision = "32",
    tuning: Tunings,
    allow_modules: Sequence[str] = (),
) -> "TunedPredictor": ...


def load(
    path: str | Path,
    device: str | None = None,
    *,
    precision: InferencePrecision = "32",
    base: str | Path | None = None,
    tuning: Tunings | None = None,
    allow_modules: Sequence[str] = (),
) -> "Predictor":
    """Load a saved run, or a checkpoint of one, to predict with it; or several tuned runs over one base.

    Args:
        path: run directory or checkpoint file; with `tuning`, the base.
        device: `cpu`, `cuda`, ...; by default CUDA if it is available.
        precision: `32`, `bf16-mixed` (bfloat16 products, as `fit` has them) or `auto`, the faster one on this device.
        base: the pre-trained model that a tuned run started from, if it is no longer where it was.
        tuning: tuned runs that share the base. The last part of each path is its name, unless you give a mapping from
            names to paths. The first one predicts until another one is chosen.
        allow_modules: your modules that may be imported, for a custom task or a custom part of the model.

    Raises:
        InputError: no run wrote the checkpoint, it needs a module that is not allowed, there is no such precision, or
            the device cannot be used; or two tuned runs have the same name.
        CheckpointError: there is no readable checkpoint at the path, or a tuned run has another base.

    Example:
        ::

            model = bert_lightning.load("runs/sst2")
            [prediction] = model.predict(["a gripping film"])

            model = bert_lightning.load("bert-base-uncased", tuning=["runs/sst2", "runs/rte"])
            model.switch("rte")
            model.predict([("A cat sleeps.", "An animal sleeps.")])
            model.predict(["a gripping film"], tuning="sst2")
    """
    allowed = allowed_names(allow_modules)
    if tuning is None:
        checkpoint = read_checkpoint(path, base)
        import_code_of(checkpoint, allowed)
        return Predictor(task_of(checkpoint), device, precision)
    if base is not None:
        raise InputError(f"base is {base}, which does nothing with tuning: the first argument names the base")
    runs, tasks = named_runs(tuning), {}
    place, origin = chosen_device(device), read_checkpoint(path)
    shared: dict[str, Tensor] = {}
    for name, run in runs.items():
        checkpoint = read_over(run, origin)
        import_code_of(checkpoint, allowed)
        tasks[name] = task_of(checkpoint)
        share_base(tasks[name].model, checkpoint, shared, place)
    return TunedPredictor(tasks, device, precision)


class Predictor:
    """A saved model that predicts from raw input.

    Attributes:
        task: the model with its tokenizer and labels.
    """

    def __init__(self, task: Task, device: str | None = None, precision: InferencePrecision = "32") -> None:
        quiet()
        share_out_cores(1)
        prepare_gpu()
        self.task = task.eval().to(chosen_device(device))
        self._bfloat16 = uses_bfloat16(precision, self.task.device)

    def predict(self, items: Iterable[object], batch_size: int = BATCH_SIZE) -> list[dict[str, Any]]:
        """Return one prediction per item, in order.

        An item is a text, or a list or tuple of texts if the model reads several. It may also be a dictionary with
        the model's columns, such as a list of words under `tokens`.

        Raises:
            InputError: an item lacks what the model needs, and the message names the item; or `batch_size` is less
                than 1.
        """
        rows = self._rows_of(items)
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        return list(self.predict_rows(rows, batch_size))

    def explain(
        self,
        items: Iterable[object],
        method: str = "integrated-gradients",
        *,
        target: str | None = None,
        num_points: int | None = None,
        replacement: str | None = None,
        maps: bool = False,
    ) -> list[Explanation]:
        """Return how much each word of each item counts for a prediction.

        Everything is computed with the weights as they are, without autocast.

        Args:
            items: inputs, as for `predict`.
            method: `attention`, `rollout`, `gradient-x-input`, `integrated-gradients` or `occlusion`.
            target: what is explained: a label, a relation, the number of a choice, an answer, a word by its number as
                in `3` or `3=B-LOC`, or an entry of the vocabulary. By default it is the prediction.
            num_points: integrated gradients: the points of the path from the baseline. They are doubled up to 1,024
                while the values miss more than 5 % of the difference of scores. 64 by default.
            replacement: integrated gradients and occlusion: the token that stands for an absent word: `[MASK]` (the
                default), `[PAD]` or `[UNK]`.
            maps: attention and rollout: whether explanations hold the weights between all words, which may be large.

        Returns:
            The explanations in order: one per item, or one per predicted entity or mask.

        Raises:
            InputError: an item has no words, or the task, target or method does not fit. Integrated gradients miss
                more than 5 % of the difference of scores.
            RefusedValue: an option is not allowed, or the method does not use it.

        Example:
            ::

                [explanation] = bert_lightning.load("runs/sst2").explain(["a gripping film"])
                for word in explanation.words:
                    print(word.text, word.value)
        """
        room = "bert_lightning.interpretability.explaining"
        explain, chosen_settings = imported(room, "explain"), imported(room, "chosen_settings")
        options = {"num_points": num_points, "replacement": replacement, "maps": maps or None}
        settings = chosen_settings(method, target, **options)
        return [found for row in self._rows_of(items) for found in explain(self.task, row, settings)]

    def _rows_of(self, items: Iterable[object]) -> list[Row]:
        """Return raw inputs as rows.

        Raises:
            InputError: `items` is one input and no list, or one of them is no input of this model.
        """
        if isinstance(items, str | Mapping):
            kind = "text" if isinstance(items, str) else "dictionary"
            raise InputError(f"a list of inputs is expected, not one {kind}")
        return [self.task.row_of(f"item {number}", item) for number, item in enumerate(items, 1)]

    def predict_rows(self, rows: Iterable[Row], batch_size: int = BATCH_SIZE) -> Iterator[dict[str, Any]]:
        """Predict rows in blocks of about two thousand, batched by length, and yield the predictions in order."""
        for block in in_blocks(rows):
            with inference(self.task.device, self._bfloat16):
                predictions = self.task.predict_rows(block, batch_size)
            yield from predictions

    def classify(self, texts: Iterable[str], labels: Iterable[str], **how: Unpack[HowToAsk]) -> list[dict[str, Any]]:
        """Sort texts into labels that the model was not trained for, as `ZeroShot.classify` does.

        Args:
            texts: the texts.
            labels: the labels, at least two.
            how: `by`, `pattern`, `verbalizer`, `calibration` and `batch_size` of `ZeroShot.classify`.

        Raises:
            InputError: the model has no head for this, or the labels or the pattern cannot be used.
        """
        zero_shot = ZeroShot(self.task.model, self.task.tokenizer)
        with inference(self.task.device, self._bfloat16):
            return zero_shot.classify(texts, labels, **how)

    def predict_file(
        self,
        source: str | Path,
        output: str | Path,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[Iterable[dict[str, Any]], int | None], Iterable[dict[str, Any]]] | None = None,
    ) -> int:
        """Predict from a file, and write one JSON object per input, in order; return their number.

        The output is complete or absent. The whole file is checked before the first prediction, so that a wrong line
        at its end costs no hours. Memory does not grow with the file.

        Args:
            source: as for `read`.
            output: the file to write.
            batch_size: how many inputs are computed at once.
            progress: function of the predictions and their number (None if unknown), which yields the predictions
                and shows how many are done.

        Raises:
            InputError: the input cannot be read or is also the output, or rows lack what the model needs; the message
                names file and line.

        Example:
            ::

                bert_lightning.load("runs/sst2", precision="auto").predict_file("reviews.txt", "predictions.jsonl")
        """
        refuse_to_replace(str(source), output)
        total, rows = self.checked_rows(str(source))
        predictions: Iterable[dict[str, Any]] = self.predict_rows(rows, batch_size)
        number = 0

        def write(file: IO[bytes]) -> None:
            nonlocal number
            for prediction in predictions if progress is None else progress(predictions, total):
                file.write(json_line(prediction).encode())
                number += 1

        write_atomically(Path(output), write)
        return number

    def checked_rows(self, source: str) -> tuple[int | None, Iterator[Row]]:
        """Check every row of a file, and return their number and the rows of a second reading.

        What can be read only once, such as a pipe, is not checked, and the number is None.

        Raises:
            InputError: rows cannot be read or lack what the model needs. The message names up to five of them.
                A row that cannot be read is the last one that is checked.
        """
        if not os.path.isfile(source):
            return None, self.read(source)
        check = self.task.example_of if isinstance(self.task, FineTuningTask) else None
        number, faults = 0, []
        try:
            for row in self.read(source):
                number += 1
                try:
                    if check is not None:
                        check(row)
                except InputError as error:
                    faults.append(str(error))
        except InputError as error:
            faults.append(str(error))
        if faults:
            raise InputError(as_one_message(faults, _MOST_NAMED))
        return number, without_warnings(self.read(source))

    @property
    def line_columns(self) -> Sequence[str]:
        """Names of the texts on a line of plain text, which tabs separate."""
        return self.task.line_columns

    def read(self, source: str) -> Iterator[Row]:
        """Read raw input, row by row.

        A table (TSV, CSV, JSONL, Parquet) or a file in a format of the task already has rows. In any other file, and
        in standard input (`-`), each line of plain text becomes a row. If the model reads several texts, tabs
        separate them. A line of standard input that starts with `{` is a JSON object.

        Raises:
            InputError: the input cannot be read; the message names file and line.
        """
        task, names = self.task, self.line_columns
        if isinstance(task, FineTuningTask):
            rows = task.read_raw(source) if source != STANDARD_INPUT else None
            if rows is not None:
                yield from rows
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
            texts = line.split("\t", len(names) - 1) if len(names) > 1 else [line]
            if len(texts) != len(names):
                raise InputError(
                    f"{location}: this model takes "
                    + (f"{' and '.join(names)}, separated by a tab" if names else "JSON lines, not plain text")
                )
            yield Row(location, dict(zip(names, texts, strict=True)))


def json_line(prediction: Mapping[str, object]) -> str:
    """Return a prediction as a line of JSON."""
    return json.dumps(prediction, ensure_ascii=False) + "\n"


class TunedPredictor(Predictor):
    """Several tuned runs over one base, whose memory they share; one at a time predicts.

    Attributes:
        names: the names of the runs.
        name: that of the one that predicts.
        task: its model, with its head, tokenizer and labels.
    """

    def __init__(
        self, tasks: Mapping[str, Task], device: str | None = None, precision: InferencePrecision = "32"
    ) -> None:
        self._tasks = {name: task.eval().to(chosen_device(device)) for name, task in tasks.items()}
        self.names = list(self._tasks)
        self.name = self.names[0]
        super().__init__(self._tasks[self.name], device, precision)

    def switch(self, name: str) -> None:
        """Let another run predict, with its head and labels. Nothing is computed or copied.

        Raises:
            InputError: there is no run of that name.
        """
        if name not in self._tasks:
            raise InputError(f"there is no tuned run {name!r}{nearest(name, self.names)}")
        self.name, self.task = name, self._tasks[name]

    def predict(
        self, items: Iterable[object], batch_size: int = BATCH_SIZE, tuning: str | None = None
    ) -> list[dict[str, Any]]:
        """Return one prediction per item, in order, as `Predictor.predict` does.

        Args:
            items: the inputs.
            batch_size: how many are computed at once.
            tuning: the run that predicts these items, if not the one that was switched to.

        Raises:
            InputError: an item does not fit, or there is no run of that name.
        """
        before = self.name
        self.switch(before if tuning is None else tuning)
        try:
            return super().predict(items, batch_size)
        finally:
            self.switch(before)
