"""The format `native`: our checkpoint without the training state, with all weights or only with the trained ones."""

from pathlib import Path

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.digests import PREFIX
from bert_lightning.checkpoints.files import write_with_checksum
from bert_lightning.checkpoints.model_card import write_card
from bert_lightning.checkpoints.native import ENTRY, LAST, find_native, load_native, without_training_state
from bert_lightning.errors import InputError
from bert_lightning.model.merging import plain


def write_native(source: str, checkpoint: Checkpoint, architecture: str, folder: Path, *, merge: bool) -> list[str]:
    """Write `last.ckpt` and a model card, and return lines that report them.

    Args:
        source: the checkpoint's name.
        checkpoint: what it holds, with the tensors of its base.
        architecture: transformers' class of its model, for the card.
        folder: where to write; it exists.
        merge: write the weights of a plain model, with all tensors, instead of what is in the file.

    Raises:
        InputError: it is no checkpoint of ours.
        CheckpointError: its tuning cannot be merged.
    """
    path = find_native(Path(source))
    if path is None:
        raise InputError(f"--format native is for checkpoints of bert_lightning, and {source} is none")
    content = load_native(path, unverified=True)
    entry, state = dict(content[ENTRY]), dict(content["state_dict"])
    notes = []
    if merge:
        checkpoint = plain(checkpoint)
        others = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
        state = {**{f"{PREFIX}{name}": tensor for name, tensor in checkpoint.tensors.items()}, **others}
        entry = {name: value for name, value in entry.items() if name not in ("tuning", "base")}
    elif checkpoint.base is not None:
        base = checkpoint.base
        notes = [f"It holds what was trained. The other weights are those of {base.name} (SHA-256 {base.digest})."]
    written = without_training_state({**content, "state_dict": state, ENTRY: entry})
    # The arguments of a class of the user's are no part of what is published.
    written.pop("hyper_parameters", None)
    write_with_checksum(folder / LAST, lambda file: torch.save(written, file))
    write_card(checkpoint, architecture, folder, published=False, notes=notes)
    return notes
