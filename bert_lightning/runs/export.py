"""`export`: a checkpoint as a folder for other tools."""

import importlib.util
import tempfile
from pathlib import Path

from bert_lightning.checkpoints.files import write_json
from bert_lightning.checkpoints.huggingface import CONFIG, huggingface_config
from bert_lightning.checkpoints.model_card import write_card
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizer_files import write_vocabulary
from bert_lightning.errors import InputError, WorkError
from bert_lightning.model import BertForRelationClassification
from bert_lightning.model.models import model_of
from bert_lightning.model.onnx_export import PACKAGES, export_onnx
from bert_lightning.model.pretrained import PretrainedModel

HUGGINGFACE, ONNX = FORMATS = ("huggingface", "onnx")
ONNX_FILE = "model.onnx"
# onnxruntime's float32 kernels sum in another order than PyTorch's.
ONNX_TOLERANCE = 1e-4


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
    model = model_of(read_checkpoint(source))
    if form == HUGGINGFACE and model.deviations:
        raise InputError(
            f"{source} has {', '.join(model.deviations)}, which transformers' {model.architecture} lacks: "
            "it would compute something else"
        )
    if form == ONNX and isinstance(model, BertForRelationClassification):
        raise InputError(
            f"{source} classifies relations, which an ONNX file of ids and masks cannot: it lacks places"
        )
    lines = [str(model.loading_report)] if model.loading_report else []
    # Complete or absent: a sibling takes the name when all is written.
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary) / output.absolute().name
        folder.mkdir()
        if form == HUGGINGFACE:
            model.save_pretrained(folder)
        else:
            lines += _export_onnx(model, folder)
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
    checkpoint, published = model.to_checkpoint(folder), not model.deviations
    write_card(checkpoint, model.architecture, folder, published=published)
    write_json(folder / CONFIG, huggingface_config(checkpoint, model.architecture, published=published))
    return [f"{name}: largest relative difference {value:.1e} in onnxruntime" for name, value in differences.items()]
