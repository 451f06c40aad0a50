"""Reader of checkpoints of every form, from a path or a hub name."""

import dataclasses
import json
from pathlib import Path

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.delta import with_base
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.huggingface import is_early_folder, is_huggingface_folder, read_huggingface
from bert_lightning.checkpoints.native import find_native, read_native, refuse_url
from bert_lightning.checkpoints.provenance import provenance_of
from bert_lightning.checkpoints.tensorflow import find_tensorflow, read_tensorflow
from bert_lightning.checkpoints.tokenizers.tokenizer_files import read_json_object

# PEFT and `adapters` write the first file next to an adapter; sentence-transformers writes the second one.
_ADAPTER, _STEPS = "adapter_config.json", "modules.json"


def read_checkpoint(path: str | Path, base: str | Path | None = None) -> Checkpoint:
    """Read any checkpoint: a file or run directory of ours, a Hugging Face folder, a TensorFlow 1 checkpoint.

    A path that does not exist and can be a hub name (`NAME`, `OWNER/NAME`, `hub:OWNER/NAME@REVISION`) is downloaded
    from the hub. A checkpoint that holds only what was trained gets the other tensors from its base.

    Args:
        path: path or hub name.
        base: path of that base, or its hub name with `hub:`, if it is no longer where it was when training began.

    Raises:
        CheckpointError: there is no readable checkpoint; the message lists the expected forms. Or there is no base
            with the right weights. Or `base` is given for a checkpoint that has all of its weights.
    """
    checkpoint, revision = _read(path)
    if checkpoint.base is not None:
        checkpoint = with_base(checkpoint, base, _read_base)
    elif base is not None:
        raise CheckpointError(f"{path} has all of its weights, so it needs no base, but {base} is given as its base")
    return _with_origin(checkpoint, revision, str(path))


def read_over(path: str | Path, base: Checkpoint) -> Checkpoint:
    """Read a checkpoint that holds only what was trained, over a base that has been read; they share its tensors.

    Raises:
        CheckpointError: there is no readable checkpoint, it has all of its weights, or it has another base.
    """
    checkpoint, revision = _read(path)
    if base.base is not None:
        raise CheckpointError(f"{base.path} holds only what was trained; a base must hold all weights")
    if checkpoint.base is None:
        raise CheckpointError(f"{path} has all of its weights, so it shares none with the base {base.path}")
    return _with_origin(with_base(checkpoint, base.path, lambda _: base), revision, str(path))


def _read_base(path: str | Path) -> Checkpoint:
    """Read the base of another checkpoint. It must be whole, so that no file can refer to itself.

    Raises:
        CheckpointError: it cannot be read, or it holds only what was trained.
    """
    is_here = Path(path).exists() or find_tensorflow(Path(path)) is not None
    if not is_here and not str(path).startswith(hub.PREFIX):
        # A checkpoint names its base. It must not make any word in it a download.
        raise CheckpointError(f"{path} does not exist")
    checkpoint, revision = _read(path)
    if checkpoint.base is not None:
        raise CheckpointError(f"{path} holds only what was trained; a base must hold all weights")
    return _with_origin(checkpoint, revision, str(path))


def _with_origin(checkpoint: Checkpoint, revision: str | None, name: str) -> Checkpoint:
    _check_rows(checkpoint)
    origin = provenance_of(checkpoint.path.absolute(), checkpoint.tensors, revision, name)
    return dataclasses.replace(checkpoint, provenance=origin)


def _read(path: str | Path) -> tuple[Checkpoint, str | None]:
    """Return what a path or hub name holds, and the commit of a hub model."""
    name, path = str(path), Path(path)
    refuse_url(path)
    revision, tensorflow = None, find_tensorflow(path)
    if not path.exists() and tensorflow is None:
        path, revision = _download(name)
    path = _encoder_folder(path)
    _refuse_adapter(path)
    if is_huggingface_folder(path):
        checkpoint = read_huggingface(path)
    elif tensorflow is not None:
        checkpoint = read_tensorflow(tensorflow)
    elif is_early_folder(path):
        checkpoint = read_huggingface(path)
    else:
        native = find_native(path)
        if native is None:
            raise CheckpointError(
                f"{path} is not a checkpoint: expected a run directory with checkpoints/, a .ckpt file, a folder "
                "with config.json and model.safetensors, or one with bert_config.json and bert_model.ckpt.index"
            )
        checkpoint = read_native(native, unverified=True)
    return checkpoint, revision


def _refuse_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter, because the adapter needs the weights of its base model.

    transformers loads both the adapter and its base model, even if the folder also holds the weights of a model.

    Raises:
        CheckpointError: the folder holds an adapter; the message names the file and the base model.
    """
    file = folder / _ADAPTER
    if file.is_file():
        settings = read_json_object(file)
        base = settings.get("base_model_name_or_path") or settings.get("model_name")
        raise CheckpointError(
            f"{file}: the folder holds an adapter of {base!r}, which cannot be read: merge it into that model first "
            "(PEFT's merge_and_unload) and save the result; if you have done so already, delete this file"
        )


def _encoder_folder(folder: Path) -> Path:
    """Find the encoder in a folder of sentence-transformers: early releases put it into a subfolder."""
    try:
        steps = json.loads((folder / _STEPS).read_text(encoding="utf-8"))
        name = steps[0]["path"]
        inside = folder / name
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return folder
    return inside if name not in ("", "..") and Path(name).name == name and inside.is_dir() else folder


def _check_rows(checkpoint: Checkpoint) -> None:
    """Refuse a vocabulary with more entries than the model has rows; more rows than entries are allowed.

    Published models round `vocab_size` up to a multiple of 8 or 64, which makes matrix products faster.
    """
    size, vocabulary = checkpoint.config.get("vocab_size"), checkpoint.vocabulary
    if vocabulary is None or vocabulary.obstacle is not None or not isinstance(size, int):
        return
    if len(vocabulary.entries) > size:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {len(vocabulary.entries)} entries, more than the vocab_size {size}"
        )


def _download(name: str) -> tuple[Path, str]:
    if not hub.is_hub_name(name):
        raise CheckpointError(f"{name} does not exist")
    try:
        return hub.download(name)
    except CheckpointError as error:
        raise CheckpointError(
            str(error) if name.startswith(hub.PREFIX) else f"{name} does not exist; {error}"
        ) from None
