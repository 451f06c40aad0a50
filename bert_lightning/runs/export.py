"""The command `export`: write a checkpoint as a folder for other tools."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.files import write_json, write_text
from bert_lightning.checkpoints.huggingface import CONFIG, huggingface_config
from bert_lightning.checkpoints.model_card import write_card
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.serialized_tokenizer import SERIALIZED
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary, write_vocabulary
from bert_lightning.config.extensions import allowed_names
from bert_lightning.config.layers import override_layer
from bert_lightning.errors import InputError, WorkError
from bert_lightning.model.architectures import model_of
from bert_lightning.model.onnx_export import PACKAGES, export_onnx, onnx_obstacle
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.tuning import saved_tuning
from bert_lightning.runs.native_export import write_native
from bert_lightning.runs.own_code import import_code_of
from bert_lightning.runs.peft_export import write_peft
from bert_lightning.runs.rounded_export import (
    BFLOAT16,
    INT8,
    TOLERANCE,
    Measured,
    Rounding,
    data_for_int8,
    round_to_bfloat16,
    write_int8,
)
from bert_lightning.text.wordpiece import WordPieceTokenizer

HUGGINGFACE, ONNX, PEFT, NATIVE = ("huggingface", "onnx", "peft", "native")
ONNX_FILE = "model.onnx"
# Relative, because the float32 kernels of onnxruntime sum in another order than those of PyTorch.
ONNX_TOLERANCE = 1e-4
# The keys of a run's configuration that change what is measured.
_MEASURED_KEYS = ("data", "modules", "checkpoint.monitor", "checkpoint.mode")
_CRF_NOTE = (
    "Tags come from a CRF, not from the largest logit: the tags t_1 ... t_n of n words maximise crf_starts[t_1] + "
    "crf_ends[t_n] + sum of logits[p_i, t_i] + sum of crf_transitions[t_i, t_i+1] (Viterbi algorithm). "
    "p_i is the position of the first piece of word i."
)


def export(
    source: str,
    form: str,
    output: str | Path,
    base: str | None = None,
    allow_modules: Sequence[str] = (),
    *,
    merge: bool = False,
    dtype: Literal["bfloat16"] | None = None,
    quantize: Literal["int8"] | None = None,
    tolerance: float | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Write a checkpoint to `output`, and return lines that report what was written.

    Rounded weights are compared with those of float32 on the validation data of the run: score, outputs, time and
    size are written into the model card.

    Args:
        source: any checkpoint that `read_checkpoint` can read.
        form: huggingface, onnx, peft or native.
        output: a folder, missing or empty.
        base: the base of a checkpoint that holds only what was trained, if it has moved.
        allow_modules: the user's modules that may be imported for its model.
        merge: merge its tuning into the weights; `huggingface` and `onnx` do so in any case, if it can be merged.
        dtype: `bfloat16` halves the weights of a `huggingface` folder.
        quantize: `int8` gives an `onnx` file weights of eight bits.
        tolerance: the share of the validation score that these two may lose; by default 0.01.
        overrides: keys of the run's configuration for measuring, as on the command line, such as
            `["--data.validation", "dev.tsv"]`: keys under `data`, `modules`, `checkpoint.monitor`, `checkpoint.mode`.

    Raises:
        InputError: `output` is not empty, the format lacks a feature of the model, there is nothing to merge, a
            package is missing, or the loss of int8 cannot be measured.
        CheckpointError: the checkpoint cannot be read, or its tuning cannot be merged.
        WorkError: onnxruntime and the model compute different results, or rounded weights lose more than the
            tolerance allows. Then no file is written.

    Example:
        ::

            bert_lightning.export("runs/sst2", "onnx", "served", quantize="int8")
    """
    output = Path(output)
    _check_rounding(form, dtype, quantize, tolerance, overrides)
    rounding = Rounding(TOLERANCE if tolerance is None else tolerance, overrides, allow_modules)
    # `exists` would miss a broken link.
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not empty: choose another --output")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if form == ONNX and missing:
        raise InputError(f"--format onnx needs {', '.join(missing)}: pip install 'bert_lightning[onnx]'")
    checkpoint = read_checkpoint(source, base)
    import_code_of(checkpoint, allowed_names(allow_modules), needs_task=False)
    _check_merge(source, form, checkpoint, merge)
    model = model_of(checkpoint)
    lines = [str(model.loading_report)] if model.loading_report else []
    _check_form(source, form, model)
    with _complete(output) as folder:
        if form == NATIVE:
            lines += write_native(source, checkpoint, model.architecture, folder, merge=merge)
        elif form == PEFT:
            lines += write_peft(source, checkpoint, model.architecture, folder)
        else:
            rounded = dtype or quantize
            lines += _write_model(source, model, form, checkpoint, folder, rounding if rounded is not None else None)
            _write_serialized_tokenizer(model.vocabulary, folder)
    vocabulary = model.vocabulary
    if vocabulary is None:
        lines.append("no tokenizer is written, because the checkpoint has none")
    elif vocabulary.obstacle is not None:
        lines.append(f"the tokenizer files are copied unchanged: {vocabulary.obstacle}")
    return [*lines, f"{model.architecture} as {form}: {output}"]


def _check_rounding(
    form: str, dtype: str | None, quantize: str | None, tolerance: float | None, overrides: Sequence[str]
) -> None:
    """Check that weights are rounded in a format that can hold them.

    Raises:
        InputError: they are not, or an option has a wrong value or does nothing.
    """
    for name, value, known, needed, reason in (
        ("--dtype", dtype, BFLOAT16, HUGGINGFACE, "onnxruntime has no products in bfloat16 for processors"),
        ("--quantize", quantize, INT8, ONNX, "onnxruntime computes with weights of eight bits"),
    ):
        if value not in (None, known):
            raise InputError(f"{name} is {value!r}; it must be {known}")
        if value is not None and form != needed:
            raise InputError(f"{name} {value} needs --format {needed}, not {form}: {reason}")
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise InputError(f"--tolerance is {tolerance:g}; it must be between 0 and 1, a share of the score")
    if dtype is None and quantize is None and (tolerance is not None or overrides):
        name = "--tolerance" if tolerance is not None else overrides[0].partition("=")[0]
        raise InputError(f"{name} does nothing without --quantize int8 or --dtype bfloat16, whose loss is measured")
    _, given = override_layer(overrides)
    for section, values in given.items():
        keys = [section]
        if section == "checkpoint" and isinstance(values, dict):
            keys = [f"checkpoint.{name}" for name in values]
        for key in keys:
            if key not in _MEASURED_KEYS:
                raise InputError(f"export reads the keys {', '.join(_MEASURED_KEYS)}, and {key!r} would do nothing")


def _check_merge(source: str, form: str, checkpoint: Checkpoint, merge: bool) -> None:
    """Check that a format can hold the tuning of a checkpoint, merged or not.

    Raises:
        InputError: it cannot, or there is nothing to merge.
    """
    tuning = (checkpoint.tuning or {}).get("name")
    if merge and tuning is None:
        raise InputError(f"--merge does nothing: {source} has no tuning, so its weights are plain")
    if merge and form == PEFT:
        raise InputError("--merge cannot be combined with --format peft, which holds what was added apart")
    needs_plain = form == HUGGINGFACE or merge
    if needs_plain and not saved_tuning(checkpoint).mergeable:
        own = " or --format onnx" if form != ONNX else ""
        raise InputError(
            f"{source} was tuned by {tuning}, which cannot be merged into the weights of a plain BERT: use --format "
            f"native without --merge{own or ', or leave --merge out'}"
        )


def _check_form(source: str, form: str, model: PretrainedModel) -> None:
    """Check that a format has all features of a model.

    Raises:
        InputError: it lacks one.
    """
    deviations = [name for name in model.deviations if name != "tuning"]
    if form in (HUGGINGFACE, PEFT) and deviations:
        raise InputError(
            f"{source} has {', '.join(deviations)}, which transformers' {model.architecture} lacks: "
            "it would compute different results"
        )
    obstacle = onnx_obstacle(model) if form == ONNX else None
    if obstacle is not None:
        raise InputError(f"{source} has {obstacle}")


@contextmanager
def _complete(output: Path) -> Iterator[Path]:
    """Write into a sibling of a folder and rename it at the end, so that the folder is complete or absent."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary) / output.absolute().name
        folder.mkdir()
        yield folder
        if output.is_dir():
            output.rmdir()
        folder.rename(output)


def _write_model(
    source: str, model: PretrainedModel, form: str, checkpoint: Checkpoint, folder: Path, rounding: Rounding | None
) -> list[str]:
    """Write a model as a Hugging Face folder or an ONNX file, and return lines that report it."""
    rule, lines = prediction_rule(checkpoint), []
    notes = [rule.sentence] if rule is not None else []
    if checkpoint.tuning is not None and model.tuning.mergeable:
        notes.append(f"The tuning {checkpoint.tuning['name']} is merged into the weights.")
    measured = Measured([], [])
    if form == HUGGINGFACE:
        if rounding is not None:
            measured = round_to_bfloat16(source, model, checkpoint, rounding)
        model.save_pretrained(folder)
    else:
        # Missing data are reported before the export, which takes a while.
        data = data_for_int8(source, checkpoint, rounding) if rounding is not None else None
        lines += _export_onnx(model, folder)
        if rounding is not None and data is not None:
            measured = write_int8(folder / ONNX_FILE, model, data, rounding)
        notes += [_CRF_NOTE] if getattr(model, "crf", None) is not None else []
    _describe(model, folder, rule, notes, measured.card)
    return lines + measured.lines + notes


def _write_serialized_tokenizer(vocabulary: Vocabulary | None, folder: Path) -> None:
    """Write `tokenizer.json`, the one file that programs without Python read, such as text-embeddings-inference."""
    if vocabulary is None or vocabulary.obstacle is not None:
        return
    try:
        tokenizer = WordPieceTokenizer(vocabulary)
    except InputError:
        # A vocabulary without BERT's special tokens encodes no text here either.
        return
    write_text(folder / SERIALIZED, tokenizer.backend.to_str(pretty=True))


def _export_onnx(model: PretrainedModel, folder: Path) -> list[str]:
    try:
        differences = export_onnx(model.float(), folder / ONNX_FILE)
    except ValueError as error:
        raise InputError(str(error)) from None
    for name, difference in differences.items():
        if not difference <= ONNX_TOLERANCE:
            raise WorkError(f"onnxruntime gives another {name}: relative difference {difference:.1e}")
    if model.vocabulary is not None:
        write_vocabulary(model.vocabulary, folder, model.config.max_position_embeddings)
    return [f"{name}: largest relative difference {value:.1e} in onnxruntime" for name, value in differences.items()]


class PredictionRule(NamedTuple):
    """A setting of a run that decides how predictions follow from a model's outputs."""

    key: str
    """its key in `config.json`"""
    value: float
    sentence: str
    """the rule in words, for the model card"""


def prediction_rule(checkpoint: Checkpoint) -> PredictionRule | None:
    """Return the threshold with which a checkpoint's run predicts; None if it has none, or no run wrote it."""
    settings = checkpoint.task_settings
    data = settings.get("data", {})
    if settings.get("problem_type") == "multi_label_classification" and "threshold" in data:
        value = float(data["threshold"])
        sentence = f"A label is predicted if the sigmoid of its logit is at least {value:g} (threshold)."
        return PredictionRule("threshold", value, sentence)
    if settings.get("no_answer"):
        configured = data.get("null_threshold")
        value = float(configured if configured is not None else settings.get("null_threshold") or 0.0)
        score = (
            "the negative of answerable_logits"
            if "answer_head.weight" in checkpoint.tensors
            else "the start and end logit at [CLS], minus the best start and end logit of an answer,"
        )
        sentence = f"No answer is predicted if {score} is more than {value:g} (null_threshold)."
        return PredictionRule("null_threshold", value, sentence)
    return None


def _describe(
    model: PretrainedModel, folder: Path, rule: PredictionRule | None, notes: list[str], measured: list[str]
) -> None:
    """Write the model card and `config.json`. Both contain the prediction rule."""
    checkpoint, published = model.to_checkpoint(folder), not model.deviations
    write_card(checkpoint, model.architecture, folder, published=published, notes=notes, measured=measured)
    config = huggingface_config(checkpoint, model.architecture, published=published)
    if next(model.parameters()).dtype == torch.bfloat16:
        # transformers then computes in bfloat16; without this key, its earlier versions would in float32.
        config["dtype"] = BFLOAT16
    write_json(folder / CONFIG, config | ({} if rule is None else {rule.key: rule.value}))
