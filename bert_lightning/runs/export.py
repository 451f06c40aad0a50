"""The command `export`: write a checkpoint as a folder for other tools."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.files import write_json
from bert_lightning.checkpoints.huggingface import CONFIG, huggingface_config
from bert_lightning.checkpoints.model_card import write_card
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import write_vocabulary
from bert_lightning.errors import InputError, WorkError
from bert_lightning.model.architectures import model_of
from bert_lightning.model.onnx_export import PACKAGES, export_onnx, onnx_obstacle
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.tuning import saved_tuning
from bert_lightning.runs.native_export import write_native
from bert_lightning.runs.own_code import import_code_of
from bert_lightning.runs.peft_export import write_peft

HUGGINGFACE, ONNX, PEFT, NATIVE = FORMATS = ("huggingface", "onnx", "peft", "native")
ONNX_FILE = "model.onnx"
# Relative, because the float32 kernels of onnxruntime sum in another order than those of PyTorch.
ONNX_TOLERANCE = 1e-4
_CRF_NOTE = (
    "Tags come from a CRF, not from the largest logit: the tags t_1 ... t_n of n words maximise crf_starts[t_1] + "
    "crf_ends[t_n] + sum of logits[p_i, t_i] + sum of crf_transitions[t_i, t_i+1] (Viterbi algorithm). "
    "p_i is the position of the first piece of word i."
)


def export(
    source: str,
    form: str,
    output: Path,
    base: str | None = None,
    allow_modules: Sequence[str] = (),
    *,
    merge: bool = False,
) -> list[str]:
    """Write a checkpoint to `output`, and return lines that report what was written.

    Args:
        source: any checkpoint that `read_checkpoint` can read.
        form: one of `FORMATS`.
        output: a folder, missing or empty.
        base: the base of a checkpoint that holds only what was trained, if it has moved.
        allow_modules: the user's modules that may be imported for its model.
        merge: merge its tuning into the weights; `huggingface` and `onnx` do so in any case, if it can be merged.

    Raises:
        InputError: `output` is not empty, the format lacks a feature of the model, there is nothing to merge, or a
            package is missing.
        CheckpointError: the checkpoint cannot be read, or its tuning cannot be merged.
        WorkError: onnxruntime and the model compute different results.
    """
    # `exists` would miss a broken link.
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not empty: choose another --output")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if form == ONNX and missing:
        raise InputError(f"--format onnx needs {', '.join(missing)}: pip install 'bert_lightning[onnx]'")
    checkpoint = read_checkpoint(source, base)
    import_code_of(checkpoint, allow_modules, needs_task=False)
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
            lines += _write_model(model, form, checkpoint, folder)
    vocabulary = model.vocabulary
    if vocabulary is None:
        lines.append("no tokenizer is written, because the checkpoint has none")
    elif vocabulary.obstacle is not None:
        lines.append(f"the tokenizer files are copied unchanged: {vocabulary.obstacle}")
    return [*lines, f"{model.architecture} as {form}: {output}"]


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


def _write_model(model: PretrainedModel, form: str, checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write a model as a Hugging Face folder or an ONNX file, and return lines that report it."""
    rule, lines = prediction_rule(checkpoint), []
    notes = [rule.sentence] if rule is not None else []
    if checkpoint.tuning is not None and model.tuning.mergeable:
        notes.append(f"The tuning {checkpoint.tuning['name']} is merged into the weights.")
    if form == HUGGINGFACE:
        model.save_pretrained(folder)
    else:
        lines += _export_onnx(model, folder)
        notes += [_CRF_NOTE] if getattr(model, "crf", None) is not None else []
    _describe(model, folder, rule, notes)
    return lines + notes


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


def _describe(model: PretrainedModel, folder: Path, rule: PredictionRule | None, notes: list[str]) -> None:
    """Write the model card and `config.json`. Both contain the prediction rule."""
    checkpoint, published = model.to_checkpoint(folder), not model.deviations
    write_card(checkpoint, model.architecture, folder, published=published, notes=notes)
    config = huggingface_config(checkpoint, model.architecture, published=published)
    write_json(folder / CONFIG, config | ({} if rule is None else {rule.key: rule.value}))
