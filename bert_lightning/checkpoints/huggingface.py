"""Folders as transformers writes them: `config.json`, weights, and tokenizer files."""

import json
import logging
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint, require_weights
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import refuse_pointer, write_json, write_safetensors
from bert_lightning.checkpoints.model_card import write_card
from bert_lightning.checkpoints.names import from_huggingface, to_huggingface, without_buffers
from bert_lightning.checkpoints.tokenizers.tokenizer_files import (
    read_json_object,
    read_vocabulary,
    with_casing,
    write_vocabulary,
)

log = logging.getLogger(__name__)

CONFIG = "config.json"
# The config of pytorch-pretrained-bert, the first version of transformers, next to `pytorch_model.bin`.
_EARLY_CONFIG = "bert_config.json"
PUBLISHED, OWN = "bert", "bert_lightning"
"""`model_type` of models that transformers can compute, and of models that only we can."""
# torch reads an entry of the archive that is marked as a folder as uninitialised memory.
_FOLDER_ATTRIBUTE, _ENCRYPTED = 0x10, 0x1
_WEIGHTS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_CHECKSUMS, _CONFIG_COPY = "crc32", "config"
# transformers' names of the activation functions that we have; `ACT2FN` in its `activations.py`.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Keys that change what some version of transformers' BERT computes, and the one value of each that is BERT's.
_FIXED: dict[str, object] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
}
# Settings that only our models have, with their defaults. They count only in folders that we wrote.
_OWN_SETTINGS: dict[str, object] = {
    "embedding_size": None,
    "position_embeddings": "learned",
    "pre_layer_norm": False,
    "pooling": "cls",
    "pooler": True,
    "norm_placement": "post",
    "attention": "dot_product",
    "init_args": {},
}
# Settings of a head in addition to its labels and weights. The last two are ours; the last one names a user's class.
_HEAD_SETTINGS = ("problem_type", "tag_scheme", "head")


def is_huggingface_folder(path: Path) -> bool:
    """Return whether `path` is a folder with a `config.json`."""
    return path.is_dir() and (path / CONFIG).is_file()


def is_early_folder(path: Path) -> bool:
    """Return whether `path` is a folder of pytorch-pretrained-bert, whose config has another name."""
    return (path / _EARLY_CONFIG).is_file() and (path / _PICKLED).is_file()


def read_huggingface(folder: Path) -> Checkpoint:
    """Read a folder of transformers' BERT, bare or with any head, or one that `write_huggingface` wrote.

    Label names and `problem_type` become `task_settings`.

    Raises:
        CheckpointError: the config is of another model family; a file is missing or damaged; or a tensor that BERT
            does not have would change the encoder's result.
    """
    config_file = folder / (CONFIG if is_huggingface_folder(folder) else _EARLY_CONFIG)
    settings = read_json_object(config_file)
    config = _architecture(settings, config_file)
    weights, theirs = _read_tensors(folder)
    copy = _config_copy(weights)
    if copy is not None:
        _warn_of_changes(config_file, settings, copy)
    elif config.get("model_type") != OWN:
        config = _without_own_settings(config, config_file)
    try:
        tied, own = bool(config.get("tie_word_embeddings", True)), config.get("model_type") == OWN
        tensors = from_huggingface(theirs, tied=tied, own=own)
    except ValueError as error:
        raise CheckpointError(f"{weights}: {error}") from None
    vocabulary = read_vocabulary(folder)
    if vocabulary is not None:
        vocabulary = with_casing(vocabulary, folder)
    architectures = config.get("architectures")
    return Checkpoint(
        folder,
        config,
        tensors,
        vocabulary,
        task_settings=_label_settings(config, folder),
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else None,
    )


def write_huggingface(checkpoint: Checkpoint, architecture: str, folder: Path, *, published: bool) -> None:
    """Write a folder that transformers' `from_pretrained` opens.

    The metadata of `model.safetensors` holds a CRC-32 of each tensor, which `read_huggingface` verifies, and a copy
    of the config, from which it detects changes. transformers ignores both. Equal checkpoints give identical files in
    every folder.

    Args:
        checkpoint: the model.
        architecture: transformers' class name.
        folder: where to write.
        published: whether transformers can compute the model. If not, the config names another model type, so
            that transformers refuses the folder instead of computing something else.

    Raises:
        CheckpointError: `folder` exists as a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} exists and is not a folder")
    # safetensors refuses tensors that share memory, as tied or sliced ones do.
    tensors = {name: t.detach().cpu().clone() for name, t in to_huggingface(checkpoint.tensors).items()}
    sums = {name: _crc32(tensor) for name, tensor in tensors.items()}
    config = huggingface_config(checkpoint, architecture, published=published)
    payload = save(tensors, metadata={"format": "pt", _CHECKSUMS: json.dumps(sums), _CONFIG_COPY: json.dumps(config)})
    write_safetensors(folder / _WEIGHTS, payload)
    if checkpoint.vocabulary is not None:
        write_vocabulary(checkpoint.vocabulary, folder, checkpoint.config.get("max_position_embeddings"))
    write_card(checkpoint, architecture, folder, published=published)
    # The config comes last, because a folder without one is not a checkpoint yet.
    write_json(folder / CONFIG, config)


def huggingface_config(checkpoint: Checkpoint, architecture: str, *, published: bool) -> dict[str, object]:
    """Return the content of `config.json` for a checkpoint."""
    config = {"architectures": [architecture], "model_type": PUBLISHED if published else OWN, **checkpoint.config}
    labels = checkpoint.task_settings.get("labels")
    if labels is not None:
        config["id2label"] = dict(enumerate(labels))
        config["label2id"] = {label: number for number, label in enumerate(labels)}
    return config | {key: value for key, value in checkpoint.task_settings.items() if key in _HEAD_SETTINGS}


def _config_copy(weights: Path) -> dict[str, object] | None:
    """Read the config that we write into the weights; return None for weights that others wrote."""
    if weights.name != _WEIGHTS:
        return None
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = file.metadata() or {}
        # An entry of this name without our checksums belongs to another program.
        copy = json.loads(metadata.get(_CONFIG_COPY, "null")) if _CHECKSUMS in metadata else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{weights} is damaged or missing: {error}") from None
    return copy if isinstance(copy, dict) else None


def _warn_of_changes(path: Path, config: Mapping[str, object], copy: Mapping[str, object]) -> None:
    """Warn if a `config.json` differs from its copy in weights that we wrote: it was edited or damaged."""
    for key in copy:
        if config.get(key) != copy[key]:
            log.warning("%s: %s is %r, but the weights were written with %r", path, key, config.get(key), copy[key])


def _without_own_settings(config: Mapping[str, object], path: Path) -> dict[str, object]:
    """Drop keys that only our own models use from a config that others wrote: transformers ignores them too."""
    # Some BERTs, such as MuRIL, repeat their width as ELECTRA's embedding_size.
    harmless = _OWN_SETTINGS | {"embedding_size": config.get("hidden_size")}
    for key, default in _OWN_SETTINGS.items():
        if config.get(key, default) not in (default, harmless[key]):
            log.warning(
                "%s: %s is %r; it is ignored, because transformers' BERT has no such setting", path, key, config[key]
            )
    return {key: value for key, value in config.items() if key not in _OWN_SETTINGS}


def _architecture(config: Mapping[str, object], path: Path) -> dict[str, object]:
    """Return the config with our name of the activation function, and with an id of [PAD].

    Raises:
        CheckpointError: the config is not that of a BERT model.
    """
    family = config.get("model_type") or (PUBLISHED if "hidden_size" in config else None)
    if family not in (PUBLISHED, OWN):
        raise CheckpointError(f"{path}: model_type is {family!r}, but only 'bert' can be read")
    # transformers wrote no model_type before 2.4, for any family.
    classes = config.get("architectures") if not config.get("model_type") else None
    if isinstance(classes, list) and classes and "Bert" not in str(classes[0]):
        raise CheckpointError(f"{path}: architectures is {classes!r} without a model_type; only BERT can be read")
    for key, value in _FIXED.items():
        if config.get(key) and config[key] != value:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; only BERT models with {value!r} can be read")
    # If the config has no hidden_act, transformers uses the erf form.
    activation = config.get("hidden_act", "gelu")
    # Our own models have our names, among them those of the user, which the model looks up.
    ours = {str(activation): str(activation)} if family == OWN else _ACTIVATIONS
    if not isinstance(activation, str) or activation not in ours:
        raise CheckpointError(f"{path}: hidden_act is {activation!r}; known: {', '.join(_ACTIVATIONS)}")
    # Only transformers uses the id. Without one, it treats [PAD] like any other token.
    pad = config.get("pad_token_id")
    return {
        **config,
        "hidden_act": ours[activation],
        "pad_token_id": 0 if pad is None else pad,
    }


def _label_settings(config: Mapping[str, object], folder: Path) -> dict[str, object]:
    settings: dict[str, object] = {}
    id2label = config.get("id2label")
    if isinstance(id2label, dict):
        try:
            names = {int(number): str(label) for number, label in id2label.items()}
            labels = [names[number] for number in range(len(id2label))]
        except (ValueError, KeyError):
            raise CheckpointError(f"{folder / CONFIG}: id2label does not number the labels from 0") from None
        if len(set(labels)) < len(labels):
            raise CheckpointError(f"{folder / CONFIG}: id2label holds a label twice")
        settings["labels"] = labels
    known = _HEAD_SETTINGS if config.get("model_type") == OWN else _HEAD_SETTINGS[:2]
    return settings | {key: config[key] for key in known if config.get(key) is not None}


# -- weights -----------------------------------------------------------------------------------------------------


def _read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Read a folder's weights; return the file, or the index of its shards, and the tensors by name."""
    for name, read in ((_WEIGHTS, _read_safetensors), (_PICKLED, _read_pickled)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return folder / name, _read_weights(folder / name, read)
        if index.is_file():
            return index, _read_shards(index, read)
    raise CheckpointError(
        f"{folder} has a {CONFIG} but none of {_WEIGHTS}, {_PICKLED}, or the .index.json of one in shards"
    )


def _read_weights(path: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Read one file of weights without its buffers; refuse a pointer of Git LFS instead of it."""
    refuse_pointer(path)
    tensors = without_buffers(read(path))
    require_weights(tensors, path)
    return tensors


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    shard_of = read_json_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    shards: dict[str, dict[str, Tensor]] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file in the same folder")
        shards[shard] = _read_weights(index.parent / shard, read)
    for name, shard in without_buffers(shard_of).items():
        if name not in shards[shard]:
            raise CheckpointError(f"{index.parent / shard} lacks {name}, which {index.name} lists")
    tensors: dict[str, Tensor] = {}
    for shard, content in shards.items():
        for name in content.keys() & tensors.keys():
            raise CheckpointError(f"{index.parent / shard} holds {name}, which another file of {index.name} has too")
        tensors |= content
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sums = json.loads(metadata.get(_CHECKSUMS, "{}"))
        sums = {name: int(value) for name, value in sums.items()}
    except (SafetensorError, OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or missing: {error}") from None
    for name in sums:
        if name not in tensors or _crc32(tensors[name]) != sums[name]:
            raise CheckpointError(f"{path} is damaged: {name} differs from what was written")
    return tensors


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        damaged = _damaged_entry(path) if zipfile.is_zipfile(path) else None
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: its entry {damaged} differs from what was written")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    # Reading a file of another program can fail in any way, and torch's message would advise the user to run it.
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than names and tensors, which is not executed: {type(error).__name__}"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a plain weights file: names and tensors are expected")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} is not a plain weights file: {name} is of type {type(value).__name__}, not a tensor"
            )
    return {str(name): tensor.detach() for name, tensor in content.items()}


def _damaged_entry(path: Path) -> str | None:
    """Return the first entry of a zip archive that torch did not write in this form, or that is damaged."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            is_folder = entry.is_dir() or entry.external_attr & _FOLDER_ATTRIBUTE
            if is_folder or entry.flag_bits & _ENCRYPTED or entry.compress_type != zipfile.ZIP_STORED:
                return entry.filename
        return archive.testzip()


def _crc32(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
