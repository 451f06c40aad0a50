"""Our own checkpoints: one file or folder of shards per step, written by Lightning's Trainer, with a checksum.

Besides Lightning's entries, a checkpoint has the entry `bert_lightning`: configuration, vocabulary and task settings.
It can therefore be used without any other file.
"""

import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bert_lightning.checkpoints import files
from bert_lightning.checkpoints.checkpoint import Base, Checkpoint, require_weights
from bert_lightning.checkpoints.digests import PREFIX
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.names import without_buffers
from bert_lightning.checkpoints.shards import MANIFEST, is_sharded, load_shards, shards_damage, step_of_shards
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary

log = logging.getLogger(__name__)

SUFFIX = ".ckpt"
BEST, LAST = f"best{SUFFIX}", f"last{SUFFIX}"
ENTRY = "bert_lightning"
# Lightning's entries besides the weights; all others are the state of the training.
_DESCRIBING = ("epoch", "global_step", "pytorch-lightning_version", "hyper_parameters")
TRAINING_MODULES = "training_modules"
"""Key of the entry that lists the modules which only training needs."""
# Those of checkpoints that do not list them: projections of distillation, and SMART's momentum weights.
_TRAINING_MODULES = ("beside_model.", "momentum_weights.")
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
# In bytes. Every checkpoint is larger, so a smaller file may be the text of a link.
_LONGEST_LINK = 256
_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def step_name(step: int) -> str:
    """Return the file name of the checkpoint of an optimiser step. Names sort by step.

    >>> step_name(100)
    'step-000000100.ckpt'
    """
    return f"step-{step:09d}{SUFFIX}"


def step_in_name(path: Path) -> int:
    """Return the optimiser step in the file name of a checkpoint."""
    return int(path.name.removeprefix("step-").removesuffix(SUFFIX))


def step_checkpoints(folder: Path) -> list[Path]:
    """List the step checkpoints in a folder, newest first."""
    return sorted(folder.glob(f"step-{'[0-9]' * 9}{SUFFIX}"), reverse=True)


def refuse_url(path: Path) -> None:
    """Refuse a URL, because torch and other libraries would download it and trust it like a local file.

    Raises:
        CheckpointError: `path` is a URL.
    """
    if _URL.match(str(path)) and not path.exists():
        raise CheckpointError(f"{path} is a URL: checkpoints are read from the disk, or by their name on the hub")


def find_native(path: Path, names: Sequence[str] = (BEST, LAST)) -> Path | None:
    """Find the checkpoint that `path` names: a file or folder of shards itself, or the first of `names` in a run.

    Raises:
        CheckpointError: a link has no target, a folder has step checkpoints but no link to one, or `path` is a URL.
    """
    refuse_url(path)
    if _is_native(path) and path.name.endswith(SUFFIX):
        return _followed(path)
    for folder in (path / "checkpoints", path):
        for name in names:
            if (folder / name).is_symlink() and not (folder / name).exists():
                raise CheckpointError(f"{folder / name} points to {(folder / name).readlink()}, which is missing")
            if _is_native(folder / name):
                return _followed(folder / name)
        steps = step_checkpoints(folder)
        if steps:
            raise CheckpointError(
                f"{folder} has no {' or '.join(names)}, which a copy may have left out: name one of its checkpoints, "
                f"such as {steps[0]}"
            )
    return None


def _followed(path: Path) -> Path:
    """Follow a link to its checkpoint, even if a copy of the run turned the link into a file or folder.

    `cp -rL`, `scp -r` and archives replace the link by a copy of the checkpoint, which has no checksum. In this case,
    return the step checkpoint in the same folder that has the same recorded SHA-256. The reader then verifies it.
    """
    real = Path(os.path.realpath(path))
    if real.name not in (BEST, LAST) or files.checksum_path(real).exists():
        return real
    steps = step_checkpoints(real.parent)
    if real.is_file() and real.stat().st_size < _LONGEST_LINK:
        # Git without symbolic links, and some archives, write the target of the link as text.
        name = real.read_bytes().decode("ascii", "replace").strip()
        return next((step for step in steps if step.name == name), real)
    digest = files.sha256(real / MANIFEST if real.is_dir() else real)
    same = (step for step in steps if step.is_dir() == real.is_dir() and digest in files.recorded_sums(step))
    return next(same, real)


def _is_native(path: Path) -> bool:
    # Follow a link, because the checksum is next to its target.
    return path.is_file() or is_sharded(Path(os.path.realpath(path)))


def damage(path: Path) -> str | None:
    """Describe what is wrong with a checkpoint, file or folder of shards; None if it is complete."""
    return shards_damage(path) if path.is_dir() else files.damage(path)


def step_of(path: Path) -> int:
    """Return the optimiser step of a checkpoint that has been verified."""
    if path.is_dir():
        return step_of_shards(path)
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def has_training_state(path: Path) -> bool:
    """Return whether a file holds more than weights, without verifying it; true if it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return True
    return len(without_training_state(content)) < len(content)


def hyper_parameters_of(path: Path) -> dict[str, Any]:
    """Return what `save_hyperparameters` of a task has put into a verified checkpoint.

    A folder of shards has none.
    """
    if path.is_dir():
        return {}
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("hyper_parameters", {}))


def load_native(path: Path, *, unverified: bool = False) -> dict[str, Any]:
    """Verify a checkpoint and load it as plain values and whole tensors; no pickled code is executed.

    Args:
        path: file or folder of shards.
        unverified: also load a file of another writer that has no checksum, such as one of a plain Lightning
            Trainer, with a warning.

    Raises:
        CheckpointError: it is missing, damaged, or not a checkpoint of this package.
    """
    if os.environ.get(_UNSAFE):
        raise CheckpointError(f"{path} is not loaded while the environment variable {_UNSAFE} is set: unset it")
    fault = _fault_of_others(path) if unverified and _is_of_others(path) else damage(path)
    if fault:
        raise CheckpointError(f"{path} {fault}")
    # The file is as it was written, according to its SHA-256. So if loading fails, another program wrote it.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = load_shards(path) if path.is_dir() else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is not a checkpoint of bert_lightning: it holds objects that only running code could load. If "
            "save_hyperparameters put them there, leave them out with its `ignore`"
        ) from None
    except Exception as error:
        raise CheckpointError(f"{path} is not a checkpoint of bert_lightning: {type(error).__name__}") from None
    if not isinstance(content, dict) or ENTRY not in content:
        raise CheckpointError(f"{path} is not a checkpoint of bert_lightning: it has no entry '{ENTRY}'")
    return content


def without_training_state(content: dict[str, Any]) -> dict[str, Any]:
    """Return what the model of a checkpoint needs.

    The state of optimisers, random numbers and data is left out, and so are modules that only training needs.
    """
    kept = {name: content[name] for name in (*_DESCRIBING, ENTRY) if name in content}
    if "state_dict" in content:
        entry = content.get(ENTRY)
        own = entry.get(TRAINING_MODULES, ()) if isinstance(entry, dict) else ()
        prefixes = (*_TRAINING_MODULES, *(f"{name}." for name in own))
        kept["state_dict"] = {
            name: each for name, each in content["state_dict"].items() if not name.startswith(prefixes)
        }
    return kept


def _is_of_others(path: Path) -> bool:
    """Return whether another program wrote a file that has no checksum. Our runs write one for each checkpoint."""
    if not path.is_file() or files.checksum_path(path).exists():
        return False
    among_ours = path.name in (BEST, LAST) and bool(step_checkpoints(path.parent))
    return not among_ours and path not in step_checkpoints(path.parent)


def _fault_of_others(path: Path) -> str | None:
    """Describe what is wrong with a file without a checksum, as far as the CRC-32 sums inside it show."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        return f"has no checksum next to it ({files.checksum_path(path).name}), and is not a whole file of torch"
    if damaged is not None:
        return f"is damaged: the CRC-32 of {damaged} differs"
    log.warning(
        "%s has no checksum next to it, so its bytes could not be verified, except by the sums inside the file; "
        "Trainer(plugins=[VerifiedCheckpointIO()]) writes one", path,
    )  # fmt: skip
    return None


def read_native(path: Path, *, unverified: bool = False) -> Checkpoint:
    """Read one of our checkpoints as a `Checkpoint`. If it has a `base`, it holds only what was trained.

    Args:
        path: file or folder of shards.
        unverified: as in `load_native`.
    """
    content = load_native(path, unverified=unverified)
    try:
        checkpoint = _from_entry(path, content, content[ENTRY])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of bert_lightning: its entry '{ENTRY}' lacks {error}"
        ) from None
    require_weights(checkpoint.tensors, path)
    return checkpoint


def _from_entry(path: Path, content: dict[str, Any], entry: dict[str, Any]) -> Checkpoint:
    tensors = without_buffers(
        {name.removeprefix(PREFIX): value for name, value in content["state_dict"].items() if name.startswith(PREFIX)}
    )
    return Checkpoint(
        path=path,
        config=entry["config"],
        tensors=tensors,
        vocabulary=Vocabulary(
            tuple(entry["vocabulary"].split("\n")),
            entry["lowercase"],
            entry.get("strip_accents"),
            entry.get("tokenize_chinese_chars", True),
            tuple(entry.get("special_tokens", ())),
        ),
        task=entry["task"],
        module=entry.get("module"),
        architecture=entry["architecture"],
        task_settings=dict(entry["task_settings"]),
        tuning=entry.get("tuning"),
        base=_base_from(entry.get("base")),
    )


def _base_from(entry: Any) -> Base | None:
    """Return the base that a checkpoint names, if it does.

    Raises:
        TypeError: the entry is not of its form.
    """
    if entry is None:
        return None
    base = Base(**entry)
    texts = (base.name, base.path, base.digest, base.dtype, *base.names)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text in the entry of its base")
    return base
