"""The checkpoints in the folder of a run: the newest valid one, those that a resume sets aside, and weights alone."""

import logging
import os
import shutil
from pathlib import Path

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import checksum_path, link_atomically
from bert_lightning.checkpoints.native import (
    BEST,
    LAST,
    damage,
    has_training_state,
    load_native,
    step_checkpoints,
    step_in_name,
    step_name,
    without_training_state,
)
from bert_lightning.checkpoints.shards import remove
from bert_lightning.training.checkpointing import CheckpointSettings, write_checkpoint
from bert_lightning.wording import count

log = logging.getLogger(__name__)
SET_ASIDE = "set-aside"


def keep_weights_alone(folder: Path, settings: CheckpointSettings) -> None:
    """Reduce the checkpoints of a finished run to their weights, and remove those that no link and no setting names.

    Everything is verified before anything is changed. Each file is replaced atomically under its name, so this may be
    called again after a kill. A folder with shards, or whose links a copy has turned into files, stays as it is.

    Raises:
        CheckpointError: a checkpoint is damaged.
        WorkError: one cannot be written.
    """
    links = [link for link in (folder / LAST, folder / BEST) if link.is_symlink()]
    steps = step_checkpoints(folder)
    if folder / LAST not in links or any(path.is_dir() for path in steps):
        return
    named, interval = {link.resolve().name for link in links}, settings.keep_every_n_steps
    kept = [path for path in steps if path.name in named or (interval and step_in_name(path) % interval == 0)]
    whole = [path for path in kept if has_training_state(path)]
    for path in whole:
        if fault := damage(path):
            raise CheckpointError(f"{path} {fault}")
    _remove_half_written(folder)
    for path in whole:
        write_checkpoint(without_training_state(load_native(path)), path)
    for path in steps:
        if path not in kept:
            remove(path)


def newest_valid(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, or None if there are no checkpoints; warn about damaged ones.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged.
    """
    candidates = step_checkpoints(folder)
    for path in candidates:
        fault = damage(path)
        if fault is None:
            return path
        log.warning("%s %s; trying the previous one", path, fault)
    if candidates:
        raise CheckpointError(f"{folder}: damaged: {count(len(candidates), 'checkpoint')}, and there is no other")
    return None


def _remove_half_written(folder: Path) -> None:
    """Remove what killed processes left. A kill may also have interrupted a removal from `set-aside/`."""
    for path in (*folder.glob(".*.tmp"), *folder.glob(f"{SET_ASIDE}/.*.tmp")):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def set_aside(folder: Path, step: int) -> None:
    """Move the checkpoints after `step` to `set-aside/`, because a run that resumes from `step` will write its own.

    Also remove the files that killed processes left: half-written ones, and checksums without their file.
    """
    _remove_half_written(folder)
    for path in folder.glob("step-*.sha256"):
        if not path.with_suffix("").exists():
            path.unlink()
    for path in step_checkpoints(folder):
        if path.name > step_name(step):
            (folder / SET_ASIDE).mkdir(exist_ok=True)
            target = folder / SET_ASIDE / path.name
            if target.exists():
                remove(target)
            os.replace(path, target)
            if checksum_path(path).exists():
                os.replace(checksum_path(path), checksum_path(target))
    for link in (folder / BEST, folder / LAST):
        if link.is_symlink() and not link.exists():
            link.unlink()
    if (folder / step_name(step)).exists():
        link_atomically(folder / LAST, step_name(step))
