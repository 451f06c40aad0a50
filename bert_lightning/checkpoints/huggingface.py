"""Folders as transformers writes them: `config.json`, `model.safetensors`, `vocab.txt`, `tokenizer_config.json`."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint, CheckpointError
from bert_lightning.checkpoints.files import write_atomically, write_json, write_text
from bert_lightning.checkpoints.names import from_huggingface, to_huggingface

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = "pytorch_model.bin"


def is_huggingface_folder(path: Path) -> bool:
    """Whether `path` is a folder with a `config.json`."""
    return path.is_dir() and (path / "config.json").is_file()


def read_huggingface(folder: Path) -> Checkpoint:
    """Read a folder of transformers' BERT.

    Raises:
        CheckpointError: the config is of another model family, or a file is missing or damaged.
    """
    config = _read_json(folder / "config.json")
    if config.get("model_type", "bert") != "bert":
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type is {config['model_type']!r}, but only 'bert' can be read"
        )
    try:
        tensors = from_huggingface(_read_tensors(folder))
    except KeyError as error:
        raise CheckpointError(f"{folder}: {error.args[0]}") from None
    vocabulary = None
    if (folder / "vocab.txt").is_file():
        # Not splitlines(): a vocabulary may hold other line separators as entries.
        text = (folder / "vocab.txt").read_bytes().decode("utf-8").replace("\r\n", "\n")
        vocabulary = text.removesuffix("\n").split("\n")
    lowercase = None
    if (folder / "tokenizer_config.json").is_file():
        lowercase = _read_json(folder / "tokenizer_config.json").get("do_lower_case")
    return Checkpoint(folder, config, tensors, vocabulary, lowercase)


def write_huggingface(checkpoint: Checkpoint, architecture: str, folder: Path) -> None:
    """Write a folder that transformers' `from_pretrained` opens; `architecture` is transformers' class name.

    Raises:
        CheckpointError: `folder` exists as a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} exists and is not a folder")
    # safetensors refuses tensors that share memory, as tied or sliced ones do.
    tensors = {name: t.detach().cpu().clone() for name, t in to_huggingface(checkpoint.tensors).items()}
    payload = save(tensors, metadata={"format": "pt"})
    write_atomically(folder / _WEIGHTS, lambda file: file.write(payload))
    if checkpoint.vocabulary is not None:
        write_text(folder / "vocab.txt", "".join(f"{entry}\n" for entry in checkpoint.vocabulary))
        write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "BertTokenizer", "do_lower_case": bool(checkpoint.lowercase)},
        )
    # The config last: a folder without one is not taken for a checkpoint.
    write_json(folder / "config.json", {"architectures": [architecture], "model_type": "bert", **checkpoint.config})


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / _WEIGHTS).is_file():
        return _read_safetensors(folder / _WEIGHTS)
    if (folder / _INDEX).is_file():
        tensors: dict[str, Tensor] = {}
        for shard in sorted(set(_read_json(folder / _INDEX)["weight_map"].values())):
            tensors.update(_read_safetensors(folder / shard))
        return tensors
    if (folder / _PICKLED).is_file():
        try:
            return torch.load(folder / _PICKLED, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{folder / _PICKLED} is damaged or not a plain weights file: {reason}") from None
    raise CheckpointError(f"{folder} has a config.json but none of {_WEIGHTS}, {_INDEX}, {_PICKLED}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or missing: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is expected")
    return value
