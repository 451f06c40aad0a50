"""Any path that holds a checkpoint -> `Checkpoint`."""

from pathlib import Path

from bert_lightning.checkpoints.checkpoint import Checkpoint, CheckpointError
from bert_lightning.checkpoints.huggingface import is_huggingface_folder, read_huggingface
from bert_lightning.checkpoints.native import find_native, read_native


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read any checkpoint: one of our files or run directories, or a Hugging Face folder.

    Raises:
        CheckpointError: nothing readable lies there; the message says what was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if is_huggingface_folder(path):
        return read_huggingface(path)
    native = find_native(path)
    if native is not None:
        return read_native(native)
    raise CheckpointError(
        f"{path} is no checkpoint: expected a run directory with checkpoints/, a .ckpt file, "
        "or a folder with config.json and model.safetensors"
    )
