"""`export`: a checkpoint as a folder for other tools, with a card that says where it came from."""

import dataclasses
import importlib.util
import re
import tempfile
from pathlib import Path
from typing import Any

import jinja2
import yaml

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.files import write_json, write_text
from bert_lightning.checkpoints.huggingface import CONFIG, huggingface_config
from bert_lightning.checkpoints.native import find_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizer_files import write_vocabulary
from bert_lightning.errors import InputError, WorkError
from bert_lightning.model.models import model_of
from bert_lightning.model.onnx_export import PACKAGES, export_onnx
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.runs.building import weights_digest
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.version import __version__

HUGGINGFACE, ONNX = FORMATS = ("huggingface", "onnx")
CARD, ONNX_FILE = "README.md", "model.onnx"
# onnxruntime's float32 kernels sum in another order than PyTorch's.
ONNX_TOLERANCE = 1e-4
# transformers class -> what the hub calls its task.
_PIPELINES = {
    "BertForPreTraining": "fill-mask",
    "BertForMaskedLM": "fill-mask",
    "BertForSequenceClassification": "text-classification",
    "BertForTokenClassification": "token-classification",
    "BertForQuestionAnswering": "question-answering",
    "BertForMultipleChoice": "multiple-choice",
    "BertModel": "feature-extraction",
}


def export(source: str, form: str, output: Path) -> list[str]:
    """Write a checkpoint to `output` in one of `FORMATS`; lines that say what was written.

    Raises:
        InputError: `output` holds something, or the format lacks what the model has, or its packages are missing.
        CheckpointError: the checkpoint cannot be read.
        WorkError: onnxruntime computes something else than the model.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not empty: choose another --output")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if form == ONNX and missing:
        raise InputError(f"--format onnx needs {', '.join(missing)}: pip install 'bert_lightning[onnx]'")
    checkpoint = read_checkpoint(source)
    model = model_of(checkpoint)
    if form == HUGGINGFACE and model.deviations:
        raise InputError(
            f"{source} has {', '.join(model.deviations)}, which transformers' {model.architecture} lacks: "
            "it would compute something else"
        )
    lines = [str(model.loading_report)] if model.loading_report else []
    # Complete or absent: a sibling takes the name when all is written.
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        if form == HUGGINGFACE:
            model.save_pretrained(folder)
        else:
            lines += _export_onnx(model, folder)
        _write_card(checkpoint, model, source, output.absolute().name, folder)
        if output.is_dir():
            output.rmdir()
        folder.rename(output)
    vocabulary = model.vocabulary
    if vocabulary is None:
        lines.append("no tokenizer, since the checkpoint carries none")
    elif vocabulary.obstacle is not None:
        lines.append(f"the tokenizer files as they were: {vocabulary.obstacle}")
    return [*lines, f"{model.architecture} as {form}: {output}"]


def _export_onnx(model: PretrainedModel, folder: Path) -> list[str]:
    differences = export_onnx(model.float(), folder / ONNX_FILE)
    for name, difference in differences.items():
        if not difference <= ONNX_TOLERANCE:
            raise WorkError(f"onnxruntime gives another {name}: relative difference {difference:.1e}")
    if model.vocabulary is not None:
        write_vocabulary(model.vocabulary, folder, model.config.max_position_embeddings)
    config = huggingface_config(model.to_checkpoint(folder), model.architecture, published=not model.deviations)
    write_json(folder / CONFIG, config)
    return [f"{name}: largest relative difference {value:.1e} in onnxruntime" for name, value in differences.items()]


def _write_card(checkpoint: Checkpoint, model: PretrainedModel, source: str, name: str, folder: Path) -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bert_lightning.runs", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    file = find_native(Path(source))
    directory = RunDirectory(file.parent.parent) if file is not None else None
    is_run = directory is not None and directory.exists
    manifest, settings = None, None
    if is_run and directory is not None:
        manifest = directory.read_manifest()
        settings = yaml.safe_dump(directory.read_config(), sort_keys=False, allow_unicode=True)
    template = environment.get_template("model_card.md.jinja")
    facts = {
        "model": model,
        "config": {name: value for name, value in dataclasses.asdict(model.config).items() if value is not None},
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "pipeline": _PIPELINES.get(model.architecture),
        "source": Path(source).name if checkpoint.revision is None else source,
        "revision": checkpoint.revision,
        "digest": weights_digest(checkpoint),
        "version": __version__,
        "name": name,
        "checkpoint": file.name if file is not None else None,
        "manifest": manifest,
        "settings": settings,
        "metrics": _metrics(directory, checkpoint) if is_run and directory else {},
    }
    try:
        text = template.render(facts)
    except jinja2.UndefinedError as error:
        raise InputError(f"{source}: the manifest of the run is damaged: {error}") from None
    # A path may hold what is not Unicode.
    write_text(folder / CARD, text.encode(errors="replace").decode())


def _metrics(directory: RunDirectory, checkpoint: Checkpoint) -> dict[str, Any]:
    """The validation and test scores that the run logged of this checkpoint's step, the latest of each."""
    number = re.fullmatch(r"step-(\d+)", checkpoint.path.stem)
    step = int(number[1]) if number else None
    scores: dict[str, Any] = {}
    for row in directory.read_metrics():
        if step is not None and row.get("step") == step:
            scores |= {name: value for name, value in row.items() if name.startswith(("val/", "test/"))}
    return scores
