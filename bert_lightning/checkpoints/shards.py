"""Checkpoints in shards: folders that several processes write, atomically, and that are verified when read.

    step-000000100.ckpt/
      part-00000.pt     shard of the first process: its slice of every sharded tensor, and everything else
      part-00001.pt     shard of the second process: its slices
      manifest.json     step, number of processes, and the bytes and SHA-256 of each shard
    step-000000100.ckpt.sha256    of manifest.json

The folder is filled under a temporary name and renamed when everything is on the disk. A shard is a file of
`torch.save` with plain values and tensors, read with `weights_only=True`: no pickled code is executed.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import (
    checksum_path,
    recorded_sums,
    sha256,
    sync_folder,
    write_hashed,
    write_json,
    write_text,
)

MANIFEST = "manifest.json"
_FORMAT = 1
# Keys of the format on disk. They stay as they are, so that old checkpoints can be read.
_MARK, _SHAPE = "rows of", "shape"
_SHARDS, _SLICES, _OFFSETS, _REST = "parts", "rows", "places", "rest"
Result = TypeVar("Result")


class Exchange(Protocol):
    """A collective operation that gives the values of all processes to each of them, in order of ranks."""

    def __call__(self, value: Result, /) -> list[Result]: ...


class TensorSlice(NamedTuple):
    """The slice of a tensor that one process holds. Slices in the order of the processes make up the whole.

    A slice holds rows of the tensor. `rows` and `columns` locate them, unless the slices follow one another by rows.
    """

    values: Tensor
    """(r, ...)"""
    shape: tuple[int, ...]
    """shape of the whole tensor"""
    rows: Tensor | None = None
    """(r,) index in the whole tensor of each row; None if the slices follow one another"""
    columns: tuple[int, int] | None = None
    """first column, and the one after the last; None if the slice has all columns"""


def is_sharded(path: Path) -> bool:
    """Return whether a path is a checkpoint in shards, complete or not."""
    return bool(path.name) and path.is_dir() and (checksum_path(path).is_file() or (path / MANIFEST).is_file())


def write_shards(path: Path, content: Mapping[str, object], step: int, rank: int, exchange: Exchange) -> None:
    """Write a checkpoint in shards, completely or not at all. All processes call this at the same time.

    Args:
        path: the folder.
        content: plain values and tensors, with a `TensorSlice` for each sharded tensor. Everything else is written
            by the first process alone.
        step: the optimiser step.
        rank: rank of this process.
        exchange: gathers a value of each process.

    Raises:
        CheckpointError: a process could not write. It is raised on all processes, and no file remains.
    """
    temporary = path.with_name(exchange(f".{path.name}.{os.getpid()}.tmp")[0])
    if rank == 0:
        _together(exchange, path, lambda: _fresh(temporary))
    else:
        _together(exchange, path, lambda: None)
    try:
        entries = _together(exchange, path, lambda: _write_shard(temporary, content, step, rank))
        _together(exchange, path, (lambda: _commit(path, temporary, step, entries)) if rank == 0 else lambda: None)
    except BaseException:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_shard(folder: Path, content: Mapping[str, object], step: int, rank: int) -> dict[str, object]:
    """Write the shard of this process, and return its entry of the manifest."""
    slices: dict[str, TensorSlice] = {}
    rest = _without_slices(content, "", slices)
    shard = {
        "step": step,
        "rank": rank,
        _SLICES: {name: each.values for name, each in slices.items()},
        _OFFSETS: {name: (each.rows, each.columns) for name, each in slices.items() if each.rows is not None},
        _REST: rest if rank == 0 else None,
    }
    path = folder / shard_name(rank)
    digest = write_hashed(path, lambda file: torch.save(shard, file))
    return {"bytes": path.stat().st_size, "sha256": digest}


def _commit(path: Path, temporary: Path, step: int, entries: Sequence[Mapping[str, object]]) -> None:
    """Write the manifest and its checksum, and give the folder its name."""
    shards = {shard_name(rank): entry for rank, entry in enumerate(entries)}
    write_json(temporary / MANIFEST, {"format": _FORMAT, "step": step, "world_size": len(entries), _SHARDS: shards})
    sync_folder(temporary)
    if path.exists():
        remove(path)
    write_text(checksum_path(path), f"{sha256(temporary / MANIFEST)}  {path.name}/{MANIFEST}\n")
    os.replace(temporary, path)
    sync_folder(path.parent)


def shard_name(rank: int) -> str:
    """Return the file name of one process's shard."""
    return f"part-{rank:05d}.pt"


def shards_damage(path: Path) -> str | None:
    """Describe what is wrong with a checkpoint in shards; None if it is complete."""
    beside, manifest_path = checksum_path(path), path / MANIFEST
    if not beside.is_file():
        return f"has no checksum next to it ({beside.name})"
    if not manifest_path.is_file():
        return f"is incomplete: it has no {MANIFEST}"
    if sha256(manifest_path) not in recorded_sums(path):
        return f"is damaged: {MANIFEST} differs from the SHA-256 written with it"
    for name, entry in _manifest(path)[_SHARDS].items():
        shard = path / name
        if not shard.is_file():
            return f"is incomplete: {name} is missing"
        if shard.stat().st_size != entry["bytes"]:
            return f"is damaged: {name} has {shard.stat().st_size:,} bytes, not {entry['bytes']:,}"
        if sha256(shard) != entry["sha256"]:
            return f"is damaged: {name} differs from the SHA-256 written with it"
    return None


def load_shards(path: Path) -> dict[str, Any]:
    """Load the content that was written, with every tensor whole. Call `shards_damage` first."""
    names = _manifest(path)[_SHARDS]
    # Memory-mapped, so that only the whole tensors take memory.
    shards = [torch.load(path / name, map_location="cpu", weights_only=True, mmap=True) for name in names]
    content = _with_whole_tensors(shards[0][_REST], shards)
    assert isinstance(content, dict)
    return content


def step_of_shards(path: Path) -> int:
    """Return the optimiser step of a checkpoint in shards."""
    return int(_manifest(path)["step"])


def remove(path: Path) -> None:
    """Remove a checkpoint, file or folder. A folder is renamed first, so that no partial checkpoint has its name."""
    if path.is_dir():
        gone = path.with_name(f".{path.name}.{os.getpid()}.gone.tmp")
        os.replace(path, gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)
    checksum_path(path).unlink(missing_ok=True)


def _manifest(path: Path) -> dict[str, Any]:
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise CheckpointError(f"{path / MANIFEST} has a format that this version does not read")
    return manifest


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _together(exchange: Exchange, path: Path, act: Callable[[], Result]) -> list[Result]:
    """Call `act` on each process and return all results. If it fails on one, all raise, so that none waits."""
    outcome: tuple[Result | None, str | None]
    try:
        outcome = (act(), None)
    except Exception as error:
        # If the disk fills up inside a tensor, torch raises a RuntimeError. The others must not wait in any case.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        outcome = (None, str(cause) if isinstance(cause, OSError) else repr(cause))
    outcomes = exchange(outcome)
    for rank, (_, fault) in enumerate(outcomes):
        if fault is not None:
            raise CheckpointError(f"{path} cannot be written (process {rank}): {fault}")
    return [cast(Result, result) for result, _ in outcomes]


def _without_slices(content: object, name: str, slices: dict[str, TensorSlice]) -> object:
    """Replace each `TensorSlice` in the content by a mark, and add it to `slices` under its name."""
    if isinstance(content, TensorSlice):
        slices[name] = content
        return {_MARK: name, _SHAPE: list(content.shape)}
    if isinstance(content, dict):
        return {key: _without_slices(value, f"{name}/{key}", slices) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_slices(value, f"{name}/{number}", slices) for number, value in enumerate(content)]
    return content


def _with_whole_tensors(content: object, shards: list[dict[str, Any]]) -> object:
    """Replace each mark in the content by the whole tensor."""
    if isinstance(content, dict) and content.keys() == {_MARK, _SHAPE}:
        return _whole(content[_MARK], content[_SHAPE], shards)
    if isinstance(content, dict):
        return {key: _with_whole_tensors(value, shards) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_whole_tensors(value, shards) for value in content]
    return content


def _whole(name: str, shape: list[int], shards: list[dict[str, Any]]) -> Tensor:
    slices = [shard[_SLICES][name] for shard in shards]
    # Absent in checkpoints that were written before there was tensor parallelism.
    offsets = [shard.get(_OFFSETS, {}).get(name) for shard in shards]
    if offsets[0] is None:
        whole = torch.cat(slices)
        assert list(whole.shape) == shape, "the shards were compared with the manifest"
        return whole
    whole = slices[0].new_empty(shape)
    for values, (rows, columns) in zip(slices, offsets, strict=True):
        if columns is None:
            whole[rows] = values
        else:
            whole[rows, slice(*columns)] = values
    assert sum(values.numel() for values in slices) == whole.numel(), "the shards were compared with the manifest"
    return whole
