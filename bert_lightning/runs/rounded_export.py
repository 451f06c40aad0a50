"""Exports with rounded weights, bfloat16 and int8. Loss and gain are measured, and too great a loss is refused."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.errors import InputError, WorkError
from bert_lightning.model.merging import plain
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.quantization import QUANTIZATIONS, OnnxForward, quantize
from bert_lightning.model.tuning import saved_tuning
from bert_lightning.runs.auto_settings import has_fast_bfloat16
from bert_lightning.runs.directory import processor_name
from bert_lightning.runs.measured_forms import (
    NUM_TIMED,
    Form,
    FormRow,
    Tolerance,
    ValidationData,
    form_table,
    model_bytes,
)
from bert_lightning.runs.trainer import share_out_cores
from bert_lightning.tasks.pretraining.spec import PRETRAINING
from bert_lightning.tasks.prompting.spec import CLOZE
from bert_lightning.wording import count

BFLOAT16, INT8 = "bfloat16", "int8"
TOLERANCE = 0.01
"""The share of the score that rounded weights may lose by default: the bound of MLPerf Inference for BERT, which asks
for at least 99 % of the F1 of float32 (`language/bert` in `mlcommons/inference`)."""
# These tasks also give their model the positions of masks. The data of another task show what it gives.
_GIVE_MORE_THAN_IDS = (PRETRAINING.name, CLOZE.name)
_FLOAT32, _MIXED = "float32, PyTorch", "bf16-mixed, PyTorch"
_BATCH_NOTE = (
    "An int8 file gives the activations of a product one scale for the whole batch. So its outputs for a text depend "
    "a little on the other texts of the batch."
)


class Rounding(NamedTuple):
    """How the weights of an export are rounded, and what may be lost.

    Attributes:
        tolerance: the share of the score that may be lost.
        overrides: keys of the run's configuration for measuring, such as other validation data.
        allow_modules: the user's modules that may be imported for its model.
    """

    tolerance: float = TOLERANCE
    overrides: Sequence[str] = ()
    allow_modules: Sequence[str] = ()


class Measured(NamedTuple):
    """The results of a measurement, as lines for the terminal and for the model card."""

    lines: list[str]
    card: list[str]


def validation_data(source: str, checkpoint: Checkpoint, rounding: Rounding) -> ValidationData:
    """Return the validation data of a run.

    Raises:
        InputError: there are none, or a key of the configuration is wrong.
    """
    share_out_cores(1)
    # A folder holds the merged weights of a tuned model, and rounding loses another part of them than of the factors.
    written = plain(checkpoint) if saved_tuning(checkpoint).mergeable else checkpoint
    return ValidationData(Path(source), written, rounding.overrides, rounding.allow_modules)


def round_to_bfloat16(source: str, model: PretrainedModel, checkpoint: Checkpoint, rounding: Rounding) -> Measured:
    """Round the weights of a model to bfloat16, and measure the loss if its run has validation data.

    Raises:
        WorkError: more is lost than the tolerance allows.
        InputError: a key of the configuration is wrong.
    """
    try:
        data = validation_data(source, checkpoint, rounding)
    except InputError as error:
        if rounding.overrides:
            raise
        line = f"the loss of bfloat16 is not measured: {error}"
        model.bfloat16()
        return Measured([line], [f"{line[0].upper()}{line[1:]}."])
    plain = Form(_FLOAT32, model_bytes(model))
    rounded = Form("bfloat16, PyTorch", model_bytes(model, 2), "bf16-true")
    rows = _measured(data, [plain, rounded])
    _check(data, rounding, rows[0], rows[1])
    model.bfloat16()
    return _report(data, rounding, rows, rows[1])


def data_for_int8(source: str, checkpoint: Checkpoint, rounding: Rounding) -> ValidationData:
    """Return the validation data of a run on which int8 can be measured.

    Raises:
        InputError: there are none, or an ONNX file cannot compute what the task asks of its model.
    """
    # The task is checked first. Otherwise a user might fetch missing data only to learn that the task is refused.
    data = None if checkpoint.task in _GIVE_MORE_THAN_IDS else validation_data(source, checkpoint, rounding)
    if data is None or not data.takes_ids_alone():
        raise InputError(
            f"--quantize int8 cannot be measured on {source}: {checkpoint.task} gives its model more than ids, "
            "segments and a mask, which is all that an ONNX file takes"
        )
    return data


def write_int8(path: Path, model: PretrainedModel, data: ValidationData, rounding: Rounding) -> Measured:
    """Replace an ONNX file by the quantised one that is nearest to it and whose score is within tolerance.

    All of `QUANTIZATIONS` are tried. The nearest one is that whose outputs differ least on average. The score of a
    few hundred examples does not decide, because its differences are mostly chance.

    Args:
        path: the ONNX file in float32.
        model: the model it was made from.
        data: the data on which the loss is measured.
        rounding: has the tolerance of the loss.

    Raises:
        WorkError: each of them loses more than the tolerance allows.
    """
    threads = torch.get_num_threads()

    def form(name: str, file: Path) -> Form:
        return Form(f"{name}, onnxruntime", file.stat().st_size, forward=OnnxForward(file, model, threads))

    files = {each: path.with_name(f"{number}.onnx") for number, each in enumerate(QUANTIZATIONS)}
    for quantization, file in files.items():
        quantize(path, file, quantization)
    references = [Form(_FLOAT32, model_bytes(model)), form("float32", path)]
    if has_fast_bfloat16("cpu"):
        references.insert(1, Form(_MIXED, model_bytes(model), "bf16-mixed"))
    candidates = [form(str(quantization), file) for quantization, file in files.items()]
    rows = _measured(data, references, candidates)
    tried = rows[len(references) :]
    nearest = sorted(range(len(tried)), key=lambda number: tried[number].cost.mean_difference)
    for number in nearest:
        tried[number] = tried[number]._replace(score=data.score(tried[number].form))
        if _is_allowed(data, rounding, rows[0], tried[number]):
            break
    else:
        _check(data, rounding, rows[0], tried[nearest[0]])
    chosen = list(files.values())[number]
    os.replace(chosen, path)
    for file in files.values():
        file.unlink(missing_ok=True)
    report = _report(data, rounding, [*rows[: len(references)], *tried], tried[number])
    lines, card = report
    mixed = next((row for row in rows if row.form.name == _MIXED), None)
    if mixed is not None:
        lines.append(_comparison_with_bfloat16(data, rows[0], mixed))
    return Measured(lines, [*card, "", _BATCH_NOTE])


def _measured(data: ValidationData, scored: Sequence[Form], others: Sequence[Form] = ()) -> list[FormRow]:
    """Return the costs of forms, and the scores of the first ones."""
    forms = [*scored, *others]
    costs = data.costs(forms)
    scores: dict[str, float] = {}
    for form in scored:
        # onnxruntime's float32 was compared with the model when the file was written.
        if form.precision not in scores:
            scores[form.precision] = data.score(form)
    return [
        FormRow(form, cost, scores[form.precision] if number < len(scored) else None)
        for number, (form, cost) in enumerate(zip(forms, costs, strict=True))
    ]


def _is_allowed(data: ValidationData, rounding: Rounding, before: FormRow, after: FormRow) -> bool:
    assert before.score is not None
    assert after.score is not None
    return Tolerance(rounding.tolerance, data.mode).allows(before.score, after.score)


def _check(data: ValidationData, rounding: Rounding, before: FormRow, after: FormRow) -> None:
    """Refuse a form that loses too much.

    Raises:
        WorkError: it does.
    """
    if not _is_allowed(data, rounding, before, after):
        raise WorkError(
            f"{_loss_of(data, rounding, before, after)}: nothing is written; a larger --tolerance allows it"
        )


def _loss_of(data: ValidationData, rounding: Rounding, before: FormRow, after: FormRow) -> str:
    assert before.score is not None
    assert after.score is not None
    tolerance, name = Tolerance(rounding.tolerance, data.mode), after.form.name.partition(",")[0]
    # Adding 0 makes a negative zero positive.
    loss, limit = round(tolerance.loss(before.score, after.score), 4) + 0.0, f"{tolerance.limit(before.score):.4f}"
    change = f"{-loss:.4f} is gained, and a loss of {limit}" if loss < 0 else f"{loss:.4f} is lost, and {limit}"
    return (
        f"{data.metric} is {after.score:.4f} in {name} and {before.score:.4f} in float32: "
        f"{change} is allowed (tolerance {rounding.tolerance:g} of the score)"
    )


def _report(data: ValidationData, rounding: Rounding, rows: Sequence[FormRow], after: FormRow) -> Measured:
    """Return what is printed and written about the form that is exported; the first row is float32."""
    before = rows[0]
    loss = _loss_of(data, rounding, before, after)
    gain = (
        f"{after.form.name}: {_speed(before, after)}, {after.form.num_bytes / 1e6:.1f} MB in place of "
        f"{before.form.num_bytes / 1e6:.1f}"
    )
    setting = (
        f"Scores are of the validation data of the run ({count(data.num_sequences, 'sequence')}). Outputs and times "
        f"are of {min(data.num_sequences, NUM_TIMED)} of them, with {count(torch.get_num_threads(), 'thread')} of "
        f"{processor_name()}."
    )
    doubts = []
    if data.num_sequences * TOLERANCE < 1:
        # One wrong prediction more or less is a larger share than the default tolerance.
        doubts.append(
            f"only {count(data.num_sequences, 'sequence')} of validation data, so a change of the score may be "
            "chance: measure on more with --data.validation"
        )
    card = [setting, "", *form_table(rows, data.metric), "", *(f"{line[0].upper()}{line[1:]}." for line in doubts)]
    return Measured([loss, *doubts, gain], [*card, f"{loss}."])


def _speed(before: FormRow, after: FormRow) -> str:
    """Compare the times of a form and of float32, as the table of the card does."""
    return f"{before.cost.milliseconds / after.cost.milliseconds:.2f} times as fast as {before.form.name}"


def _comparison_with_bfloat16(data: ValidationData, before: FormRow, mixed: FormRow) -> str:
    assert mixed.score is not None
    return (
        f"for comparison, bf16-mixed in PyTorch (predict --precision bf16-mixed): {data.metric} {mixed.score:.4f}, "
        f"{_speed(before, mixed)}"
    )
