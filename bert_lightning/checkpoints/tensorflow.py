"""Reader of TensorFlow 1 checkpoints, as released with the original BERT. It does not need TensorFlow.

A checkpoint is a tensor bundle (`tensorflow/core/util/tensor_bundle`): `PREFIX.index`, a sorted string table
(`core/lib/io/table_format.txt`) from variable names to protocol-buffer entries (`core/protobuf/tensor_bundle.proto`),
and `PREFIX.data-*`, the raw little-endian tensors. Both carry CRC-32C sums, which are verified.
"""

import dataclasses
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint, require_weights
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.listing import matches
from bert_lightning.checkpoints.names import from_huggingface, from_tensorflow
from bert_lightning.checkpoints.tokenizers.tokenizer_files import read_json_object, read_vocabulary

CONFIG = "bert_config.json"
_INDEX = ".index"
# `core/lib/io/format.h`: the footer holds two block handles, padded, and the magic number.
_FOOTER_SIZE, _MAGIC = 48, 0xDB4775248B80FB57
# The ending of every variable that TensorFlow 2 saved from a tree of Python objects.
_SECOND_VERSION = "/.ATTRIBUTES/VARIABLE_VALUE"
# After each block: one byte for the compression (0 is none) and the checksum.
_TRAILER_SIZE, _UNCOMPRESSED = 5, 0
_MASK_DELTA = 0xA282EAD8
# A variable-length number of 64 bits has ten bytes of seven bits each.
_MAX_SHIFT = 63
# `core/framework/types.proto`.
_DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    9: torch.int64,
    14: torch.bfloat16,
    19: torch.float16,
}
# If `bert_config.json` says gelu, the original code computes the tanh form; `modeling.py: get_activation`.
_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu"}
# `modeling.py: BertConfig` reads these keys alone, with the same defaults as ours.
_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "intermediate_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
)
_DEFAULT_TYPE_VOCAB_SIZE = 16


class _Entry(NamedTuple):
    """`BundleEntryProto`: type, shape and location of one tensor."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def find_tensorflow(path: Path) -> Path | None:
    """Return the prefix of the checkpoint that `path` names: a prefix itself, its index file, or a folder with one.

    In a folder `bert_model.ckpt` comes first, as in the releases, then the highest step.
    """
    if not path.name:
        path = path.absolute()
    if path.name.endswith(_INDEX) and path.is_file():
        return path.with_name(path.name.removesuffix(_INDEX))
    if path.name and path.with_name(path.name + _INDEX).is_file():
        return path
    if not (path / CONFIG).is_file():
        return None
    prefixes = [file.with_name(file.name.removesuffix(_INDEX)) for file in matches(f"*{_INDEX}", path)]

    def rank(prefix: Path) -> tuple[bool, int, str]:
        step = re.search(r"-(\d+)$", prefix.name)
        return prefix.name == "bert_model.ckpt", int(step[1]) if step else -1, prefix.name

    return max(prefixes, key=rank, default=None)


def read_tensorflow(prefix: Path) -> Checkpoint:
    """Read a checkpoint of google-research/bert: the encoder, and the heads that it holds.

    `bert_config.json` and `vocab.txt` are in the same folder. The files do not say whether the model is cased. It
    counts as cased if the vocabulary has capital letters.

    Raises:
        CheckpointError: a file is missing or damaged, or the variables are not BERT's.
    """
    config_file = prefix.parent / CONFIG
    settings = read_json_object(config_file)
    config: dict[str, object] = {"type_vocab_size": _DEFAULT_TYPE_VOCAB_SIZE}
    config |= {key: settings[key] for key in _SETTINGS if key in settings}
    activation = config.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise CheckpointError(f"{config_file}: hidden_act is {activation!r}; known: {', '.join(_ACTIVATIONS)}")
    config["hidden_act"] = _ACTIVATIONS[activation]
    variables = read_bundle(prefix)
    try:
        theirs = from_tensorflow(variables)
        require_weights(theirs, prefix)
        tensors = from_huggingface(theirs)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{prefix}: {error}") from None
    if not any(name.startswith("encoder.") for name in tensors):
        is_second = any(name.endswith(_SECOND_VERSION) for name in variables)
        raise CheckpointError(
            f"{prefix}{_INDEX} holds no BERT: none of its variables is under bert/"
            + (" (TensorFlow 2 wrote it; only the names of TensorFlow 1 can be read)" if is_second else "")
        )
    vocabulary = read_vocabulary(prefix.parent)
    if vocabulary is not None and vocabulary.lowercase is None:
        vocabulary = dataclasses.replace(vocabulary, lowercase=not vocabulary.looks_cased())
    return Checkpoint(prefix, config, tensors, vocabulary)


def read_bundle(prefix: Path) -> dict[str, Tensor]:
    """Return all variables of a tensor bundle by name, except those without a tensor type, such as text.

    Raises:
        CheckpointError: a file is missing or damaged; the message names it, and the variable.
    """
    index = prefix.with_name(prefix.name + _INDEX)
    try:
        table = dict(_read_table(index.read_bytes(), index))
        header = _numbers(table.pop(b""), 1, 2)
        if any(key.startswith(b"\0") for key in table):
            # `tensor_bundle/naming.h` and `saved_tensor_slice_util.cc`: the slices of a variable have coded names.
            raise CheckpointError(f"{index}: partitioned variables cannot be read")
        entries = {key.decode(): _read_entry(value) for key, value in table.items()}
    except OSError as error:
        raise CheckpointError(f"{index}: {error.strerror}") from None
    except (IndexError, struct.error, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{index} is damaged or not the index of a TensorFlow checkpoint") from None
    num_shards = header.get(1, 0)
    if header.get(2, 0) != 0:
        raise CheckpointError(f"{index}: big-endian checkpoints cannot be read")
    contents: dict[int, np.ndarray] = {}
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype not in _DTYPES:
            continue
        if entry.shard >= num_shards:
            raise CheckpointError(f"{index}: {name} is in shard {entry.shard}, but there are {num_shards} shards")
        shard = prefix.with_name(f"{prefix.name}.data-{entry.shard:05d}-of-{num_shards:05d}")
        if entry.shard not in contents:
            try:
                contents[entry.shard] = np.memmap(shard, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{shard} is missing or empty: {error}") from None
        tensors[name] = _read_tensor(name, entry, contents[entry.shard], shard)
    return tensors


def _read_tensor(name: str, entry: _Entry, content: np.ndarray, shard: Path) -> Tensor:
    dtype = _DTYPES[entry.dtype]
    if math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise CheckpointError(f"{shard}: {name} has {entry.size} bytes, which do not fill the shape {entry.shape}")
    raw = content[entry.offset : entry.offset + entry.size]
    if len(raw) != entry.size:
        raise CheckpointError(f"{shard} is truncated: {name} ends at byte {entry.offset + entry.size}")
    if _masked_crc32c(raw.tobytes()) != entry.checksum:
        raise CheckpointError(f"{shard} is damaged: {name} differs from what was written")
    if entry.size == 0:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.from_numpy(raw.copy()).view(dtype).reshape(entry.shape)


# -- the sorted string table -------------------------------------------------------------------------------------


def _read_table(content: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    footer = content[-_FOOTER_SIZE:]
    if len(footer) < _FOOTER_SIZE or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise CheckpointError(f"{path} is damaged or not the index of a TensorFlow checkpoint: no magic number")
    _, at = _handle(footer, 0)
    (offset, size), _ = _handle(footer, at)
    for _, handle in _read_block(content, offset, size, path):
        (offset, size), _ = _handle(handle, 0)
        yield from _read_block(content, offset, size, path)


def _handle(buffer: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(buffer, at)
    size, at = _varint(buffer, at)
    return (offset, size), at


def _read_block(content: bytes, offset: int, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of one block. A key is stored as its difference from the key before it."""
    block, trailer = content[offset : offset + size], content[offset + size : offset + size + _TRAILER_SIZE]
    compression, checksum = struct.unpack("<BI", trailer)
    if _masked_crc32c(block + trailer[:1]) != checksum:
        raise CheckpointError(f"{path} is damaged: the block at byte {offset} differs from what was written")
    if compression != _UNCOMPRESSED:
        raise CheckpointError(f"{path}: compressed indices cannot be read")
    (num_restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = size - 4 * (num_restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        yield key, block[at + unshared : at + unshared + length]
        at += unshared + length


# -- protocol buffers --------------------------------------------------------------------------------------------


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if shift > _MAX_SHIFT:
            raise ValueError("a number of more than 64 bits")
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield field numbers and values: integers, or bytes if the field has a length."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        value: Any
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 1:
            value, at = struct.unpack_from("<Q", message, at)[0], at + 8
        elif kind == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind == 5:
            value, at = struct.unpack_from("<I", message, at)[0], at + 4
        else:
            raise ValueError(f"wire type {kind}")
        yield number, value


def _numbers(message: bytes, *numbers: int) -> dict[int, int]:
    """Return the integer fields that have these numbers."""
    values = {number: value for number, value in _fields(message) if number in numbers}
    if not all(isinstance(value, int) for value in values.values()):
        raise ValueError("a field has another type than its description says")
    return values


def _read_entry(message: bytes) -> _Entry:
    """Read a `BundleEntryProto`: dtype 1, shape 2 (dim 2 (size 1)), shard 3, offset 4, size 5, crc32c 6, slices 7."""
    shape = tuple(
        _numbers(dim, 1).get(1, 0)
        for number, field in _fields(message)
        if number == 2
        for inner, dim in _fields(field)
        if inner == 2
    )
    values = _numbers(message, 1, 3, 4, 5, 6)
    return _Entry(values.get(1, 0), shape, values.get(3, 0), values.get(4, 0), values.get(5, 0), values.get(6, 0))


def _masked_crc32c(content: bytes) -> int:
    """Return the CRC-32C as it is stored with data, rotated and shifted (`core/lib/hash/crc32c.h: Mask`)."""
    import google_crc32c

    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
