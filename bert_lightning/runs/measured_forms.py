"""The forms in which a model can be shipped, scored and timed on the validation data of its run."""

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.errors import InputError
from bert_lightning.model.onnx_export import INPUTS
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.quantization import OnnxForward, computed_by
from bert_lightning.runs.building import build_scoring
from bert_lightning.runs.scoring import run_directory_of
from bert_lightning.runs.trainer import build_trainer
from bert_lightning.tasks.inference import evaluating
from bert_lightning.tasks.task import Task

# Sequences of the validation data, spread evenly over their lengths, on which forms are timed and outputs compared.
NUM_TIMED = 256
# How often each form computes them. The forms take turns, so that a busy moment of the machine slows all of them.
NUM_ROUNDS = 3


class Form(NamedTuple):
    """A way to compute a model."""

    name: str
    num_bytes: int
    """size of its weights, or of its file"""
    precision: Literal["32", "bf16-mixed", "bf16-true"] = "32"
    forward: OnnxForward | None = None
    """computes in place of the model, if a runtime does"""


class Cost(NamedTuple):
    """How a form differs from float32 on the timed sequences, and how long it takes."""

    mean_difference: float
    """mean absolute difference of the outputs"""
    largest_difference: float
    milliseconds: float
    """per sequence"""


class Tolerance(NamedTuple):
    """The part of a score that a form may lose."""

    share: float
    """of the score in float32"""
    mode: str
    """`max` if large scores are good, `min` if small ones are"""

    def loss(self, before: float, after: float) -> float:
        """Return how much worse the second score is, negative if it is better."""
        return (before - after) * (1 if self.mode == "max" else -1)

    def limit(self, before: float) -> float:
        """Return the largest loss that is allowed."""
        return self.share * abs(before)

    def allows(self, before: float, after: float) -> bool:
        """Return whether the loss is allowed. A score that is not a number is never allowed.

        >>> Tolerance(0.01, "max").allows(0.9, 0.892), Tolerance(0.01, "min").allows(0.9, 0.91)
        (True, False)
        """
        # A rounding error of a score is no loss.
        return self.loss(before, after) <= self.limit(before) + 1e-9


class ValidationData:
    """The validation data of a run, with its model in float32 on the processor.

    Args:
        path: run directory or checkpoint file.
        checkpoint: what it holds.
        overrides: keys of the run's configuration, as on the command line.
        allowed: modules that a `class_path` may name.

    Raises:
        InputError: no run wrote the checkpoint, or its validation data are missing.
    """

    def __init__(
        self, path: Path, checkpoint: Checkpoint, overrides: Sequence[str] = (), allowed: Sequence[str] = ()
    ) -> None:
        directory = run_directory_of(path)
        if directory is None:
            raise InputError(f"{path} is not part of a run directory, so there are no validation data to measure on")
        saved = directory.read_config()
        experiment = load_experiment([], list(overrides), saved, allowed)
        trainer = dataclasses.replace(
            experiment.trainer,
            accelerator="cpu",
            precision="32",
            devices=1,
            num_nodes=1,
            strategy="auto",
            tensor_parallel_size=1,
        )
        self.experiment: Experiment = dataclasses.replace(experiment, trainer=trainer)
        self._folder = directory.path
        if checkpoint.task != self.experiment.task:
            raise InputError(
                f"{path} is a checkpoint of {checkpoint.task}, and its run of {self.experiment.task}: nothing can be "
                "measured"
            )
        setup = build_scoring(self.experiment, checkpoint, "validation")
        self.task: Task = setup.task.eval()
        self._data = setup.data
        if not self.num_sequences:
            raise InputError(f"{path} has no validation data (data.validation), so no loss of score can be measured")
        monitor = self.experiment.checkpoint.monitor
        self.metric: str = monitor or self.task.monitor
        self.mode: str = self.experiment.checkpoint.mode or self.task.monitor_mode
        self._rounded: PretrainedModel | None = None

    @property
    def num_sequences(self) -> int:
        """The number of sequences of the split."""
        return self._data.num_evaluation_samples("validation")

    def takes_ids_alone(self) -> bool:
        """Return whether the task gives its model only ids, segments and a mask, as an ONNX file takes them."""
        model, forward = self.task.model, self.task.model.forward
        others: list[object] = []

        def recorded(*given: object, **named: object) -> object:
            others.extend(each for each in (*given[len(INPUTS) :], *named.values()) if each is not None)
            return forward(*given, **named)

        [batch, *_] = self._batches()
        with computed_by(model, recorded), evaluating(self.task):
            self.task.compute(batch)
        return not others

    def score(self, form: Form) -> float:
        """Return the metric that chose the run's best checkpoint, over the whole split.

        Raises:
            InputError: the validation data have no labels, so that there is no such metric.
        """
        settings = dataclasses.replace(self.experiment.trainer, precision=form.precision)
        trainer = build_trainer(dataclasses.replace(self.experiment, trainer=settings), self._folder, [])
        with self._computing(form):
            trainer.validate(self.task, self._data, verbose=False)
        if self.metric not in trainer.callback_metrics:
            raise InputError(f"the validation data have no {self.metric}, so no loss of score can be measured")
        return float(trainer.callback_metrics[self.metric])

    def costs(self, forms: Sequence[Form], num_rounds: int = NUM_ROUNDS) -> list[Cost]:
        """Compare outputs and time of several forms, the first of which is float32.

        Each computes `NUM_TIMED` sequences, in batches as validation has them. The time is the median of
        the rounds, in which the forms take turns after a first round that is not timed.
        """
        batches = self._batches()
        num_sequences = sum(len(batch["input_ids"]) for batch in batches)
        outputs: list[list[list[Tensor]]] = [[] for _ in forms]
        seconds: list[list[float]] = [[] for _ in forms]
        for turn in range(num_rounds + 1):
            for number, form in enumerate(forms):
                with self._computing(form), _autocast(form), evaluating(self.task):
                    began = perf_counter()
                    computed = [self.task.compute(batch) for batch in batches]
                    seconds[number].append(perf_counter() - began)
                if not turn:
                    outputs[number] = [_tensors(each) for each in computed]
        costs = []
        for of_form, times in zip(outputs, seconds, strict=True):
            found = np.concatenate(
                [
                    differences(batch, *pair)
                    for batch, ours, theirs in zip(batches, outputs[0], of_form, strict=True)
                    for pair in zip(ours, theirs, strict=True)
                ]
            )
            milliseconds = median(times[1:]) / num_sequences * 1000
            costs.append(Cost(float(found.mean()), float(found.max()), milliseconds))
        return costs

    def _batches(self) -> list[Any]:
        ranks = np.unique(np.linspace(0, self.num_sequences - 1, NUM_TIMED).astype(np.int64))
        size = self._data.evaluation_batch_size
        return [
            self._data.evaluation_batch("validation", ranks[start : start + size])
            for start in range(0, len(ranks), size)
        ]

    @contextmanager
    def _computing(self, form: Form) -> Iterator[None]:
        """Let the task compute in a form."""
        model = self.task.model
        if form.precision == "bf16-true":
            self._rounded = self._rounded or copy.deepcopy(model).bfloat16()
            self.task.model = self._rounded
        try:
            with computed_by(self.task.model, form.forward):
                yield
        finally:
            self.task.model = model


def model_bytes(model: PretrainedModel, bytes_per_value: int = 4) -> int:
    """Return the size of the weights of a model, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters()) * bytes_per_value


def _autocast(form: Form) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if form.precision == "bf16-mixed" else nullcontext()


def _tensors(computed: object) -> list[Tensor]:
    """Return the tensors of an output, in float32."""
    tensors: list[Tensor] = []
    apply_to_collection(computed, Tensor, lambda tensor: tensors.append(tensor.float()))
    return tensors


def differences(batch: Mapping[str, Any], ours: Tensor, theirs: Tensor) -> Any:
    """Return the absolute differences of two outputs of a batch, without those at padding."""
    mask = batch["attention_mask"]
    if mask is not None and ours.shape[: mask.dim()] == mask.shape:
        ours, theirs = ours[mask.bool()], theirs[mask.bool()]
    # Scores of missing choices are minus infinity in all forms.
    equal = ours == theirs
    return torch.where(equal, 0.0, (ours - theirs).abs()).flatten().double().numpy()


class FormRow(NamedTuple):
    """A row of the table that compares forms."""

    form: Form
    cost: Cost
    score: float | None
    """None if it was not scored, because another form is nearer to float32"""


def form_table(rows: Sequence[FormRow], metric: str) -> Iterable[str]:
    """Return the lines of a Markdown table that compares forms; the first is float32."""
    yield f"| form | {metric} | outputs differ by (mean, largest) | ms per sequence | times as fast | MB |"
    yield "|---|---|---|---|---|---|"
    of_float32 = rows[0].cost.milliseconds
    for form, cost, score in rows:
        value = "not scored" if score is None or math.isnan(score) else f"{score:.4f}"
        yield (
            f"| {form.name} | {value} | {cost.mean_difference:.4f}, {cost.largest_difference:.4f} | "
            f"{cost.milliseconds:.2f} | {of_float32 / cost.milliseconds:.2f} | {form.num_bytes / 1e6:.1f} |"
        )
