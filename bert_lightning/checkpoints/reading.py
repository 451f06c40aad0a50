"""Any path that holds a checkpoint, or a hub name -> `Checkpoint`."""

import dataclasses
from pathlib import Path

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.huggingface import is_huggingface_folder, read_huggingface
from bert_lightning.checkpoints.native import find_native, read_native, refuse_url
from bert_lightning.checkpoints.provenance import provenance_of
from bert_lightning.checkpoints.tensorflow import find_tensorflow, read_tensorflow


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read any checkpoint: a file or run directory of ours, a Hugging Face folder, a TensorFlow 1 checkpoint.

    What does not exist as a path and can be a hub name (`NAME`, `OWNER/NAME`, `hub:OWNER/NAME@REVISION`) is taken
    from the hub.

    Raises:
        CheckpointError: nothing readable lies there; the message says what was looked for.
    """
    name, path = str(path), Path(path)
    refuse_url(path)
    revision, tensorflow = None, find_tensorflow(path)
    if not path.exists() and tensorflow is None:
        path, revision = _download(name)
    if is_huggingface_folder(path):
        checkpoint = read_huggingface(path)
    elif tensorflow is not None:
        checkpoint = read_tensorflow(tensorflow)
    else:
        native = find_native(path)
        if native is None:
            raise CheckpointError(
                f"{path} is no checkpoint: expected a run directory with checkpoints/, a .ckpt file, a folder with "
                "config.json and model.safetensors, or one with bert_config.json and bert_model.ckpt.index"
            )
        checkpoint = read_native(native)
    _check_rows(checkpoint)
    origin = provenance_of(checkpoint.path.absolute(), checkpoint.tensors, revision, name)
    return dataclasses.replace(checkpoint, provenance=origin)


def _check_rows(checkpoint: Checkpoint) -> None:
    """Refuse a vocabulary that gives ids for which the model has no row; more rows than entries are sound.

    Published models round `vocab_size` up to a multiple of 8 or 64, which makes products of matrices faster.
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
