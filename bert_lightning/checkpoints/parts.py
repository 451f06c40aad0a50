"""A checkpoint as a folder of parts that several processes write: complete or absent, and verified when read.

    step-000000100.ckpt/
      part-00000.pt     the first process's rows of every shared tensor, and all that is not shared
      part-00001.pt     the second one's rows
      manifest.json     step, number of processes, and of each part its bytes and SHA-256
    step-000000100.ckpt.sha256    of manifest.json

The folder is filled under a temporary name beside it and renamed when everything is on the disk. A part is a file of
`torch.save` with plain values and tensors, read with `weights_only=True`: no pickled code is executed.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import (
    checksum_path,
    recorded_sha256,
    sha256,
    sync_folder,
    write_hashed,
    write_json,
    write_text,
)

MANIFEST = "manifest.json"
_FORMAT = 1
_MARK, _SHAPE = "rows of", "shape"


class Rows(NamedTuple):
    """The rows that one process has of a tensor; in the order of the processes they make up the whole.

    Where columns are shared out too, or rows in another order, it says where they stand.
    """

    rows: Tensor
    """(r, ...)"""
    shape: tuple[int, ...]
    """of the whole"""
    numbers: Tensor | None = None
    """(r,) of the rows in the whole"""
    columns: tuple[int, int] | None = None
    """the first, and the one behind the last; None: all"""


def is_parts(path: Path) -> bool:
    """Whether a path is such a folder, whole or not."""
    return bool(path.name) and path.is_dir() and (checksum_path(path).is_file() or (path / MANIFEST).is_file())


def write_parts(
    path: Path, content: dict[str, Any], step: int, rank: int, exchange: Callable[[Any], list[Any]]
) -> None:
    """Write a folder of parts, complete or not at all; called by all processes at once.

    Args:
        path: the folder.
        content: plain values and tensors, with `Rows` where a tensor is shared; the rest is the first process's.
        step: the optimiser step.
        rank: of this process.
        exchange: gives a value of each process to all of them, in their order.

    Raises:
        CheckpointError: a process could not write; on all of them, and nothing is left behind.
    """
    temporary = path.with_name(exchange(f".{path.name}.{os.getpid()}.tmp")[0])
    if rank == 0:
        _together(exchange, path, lambda: _fresh(temporary))
    else:
        _together(exchange, path, lambda: None)
    rows: dict[str, Rows] = {}
    rest = _without_rows(content, "", rows)
    name = part_name(rank)

    def write() -> dict[str, Any]:
        part = {
            "step": step,
            "rank": rank,
            "rows": {name: each.rows for name, each in rows.items()},
            "places": {name: (each.numbers, each.columns) for name, each in rows.items() if each.numbers is not None},
            "rest": rest if rank == 0 else None,
        }
        digest = write_hashed(temporary / name, lambda file: torch.save(part, file))
        return {"bytes": (temporary / name).stat().st_size, "sha256": digest}

    try:
        entries = _together(exchange, path, write)

        def commit() -> None:
            parts = {part_name(number): entry for number, entry in enumerate(entries)}
            manifest = {"format": _FORMAT, "step": step, "world_size": len(entries), "parts": parts}
            write_json(temporary / MANIFEST, manifest)
            sync_folder(temporary)
            if path.exists():
                remove(path)
            write_text(checksum_path(path), f"{sha256(temporary / MANIFEST)}  {path.name}/{MANIFEST}\n")
            os.replace(temporary, path)
            sync_folder(path.parent)

        _together(exchange, path, commit if rank == 0 else lambda: None)
    except BaseException:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def part_name(rank: int) -> str:
    """The file of one process."""
    return f"part-{rank:05d}.pt"


def parts_damage(path: Path) -> str | None:
    """Say what is wrong with a folder of parts; None when it is whole."""
    beside, manifest_path = checksum_path(path), path / MANIFEST
    if not beside.is_file():
        return f"has no checksum beside it ({beside.name})"
    if not manifest_path.is_file():
        return f"is torn: it has no {MANIFEST}"
    if sha256(manifest_path) != recorded_sha256(path):
        return f"is damaged: {MANIFEST} differs from the SHA-256 written with it"
    for name, entry in _manifest(path)["parts"].items():
        part = path / name
        if not part.is_file():
            return f"is torn: {name} is missing"
        if part.stat().st_size != entry["bytes"]:
            return f"is damaged: {name} has {part.stat().st_size:,} bytes, not {entry['bytes']:,}"
        if sha256(part) != entry["sha256"]:
            return f"is damaged: {name} differs from the SHA-256 written with it"
    return None


def load_parts(path: Path) -> dict[str, Any]:
    """The content that was written, with every tensor whole; `parts_damage` has been asked before."""
    manifest = _manifest(path)
    # Mapped, so that only what is put together takes memory.
    parts = [torch.load(path / name, map_location="cpu", weights_only=True, mmap=True) for name in manifest["parts"]]
    content = _with_rows(parts[0]["rest"], parts)
    assert isinstance(content, dict)
    return content


def step_of_parts(path: Path) -> int:
    """The optimiser step of a folder of parts."""
    return int(_manifest(path)["step"])


def remove(path: Path) -> None:
    """Remove a checkpoint, file or folder, under another name first, so that half a folder never bears its name."""
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
        raise CheckpointError(f"{path / MANIFEST} is of a format that this version does not read")
    return manifest


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _together(exchange: Callable[[Any], list[Any]], path: Path, act: Callable[[], Any]) -> list[Any]:
    """What each process's act gave; where one failed, all fail, so that none waits for it."""
    outcome: tuple[Any, str | None]
    try:
        outcome = (act(), None)
    except Exception as error:
        # Torch makes a RuntimeError of a disk that fills up inside a tensor. In no case may the others wait.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        outcome = (None, str(cause) if isinstance(cause, OSError) else repr(cause))
    outcomes = exchange(outcome)
    for rank, (_, fault) in enumerate(outcomes):
        if fault is not None:
            raise CheckpointError(f"{path} cannot be written (process {rank}): {fault}")
    return [given for given, _ in outcomes]


def _without_rows(content: Any, name: str, rows: dict[str, Rows]) -> Any:
    """The content with a mark in place of each `Rows`, which goes into `rows` under its name."""
    if isinstance(content, Rows):
        rows[name] = content
        return {_MARK: name, _SHAPE: list(content.shape)}
    if isinstance(content, dict):
        return {key: _without_rows(value, f"{name}/{key}", rows) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_rows(value, f"{name}/{number}", rows) for number, value in enumerate(content)]
    return content


def _with_rows(content: Any, parts: list[dict[str, Any]]) -> Any:
    if isinstance(content, dict) and content.keys() == {_MARK, _SHAPE}:
        return _whole(content[_MARK], content[_SHAPE], parts)
    if isinstance(content, dict):
        return {key: _with_rows(value, parts) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_rows(value, parts) for value in content]
    return content


def _whole(name: str, shape: list[int], parts: list[dict[str, Any]]) -> Tensor:
    rows = [part["rows"][name] for part in parts]
    # Absent in what was written before columns were shared out.
    places = [part.get("places", {}).get(name) for part in parts]
    if places[0] is None:
        whole = torch.cat(rows)
        assert list(whole.shape) == shape, "the manifest vouches for every part"
        return whole
    whole = rows[0].new_empty(shape)
    for own, (numbers, columns) in zip(rows, places, strict=True):
        if columns is None:
            whole[numbers] = own
        else:
            whole[numbers, slice(*columns)] = own
    assert sum(own.numel() for own in rows) == whole.numel(), "the manifest vouches for every part"
    return whole
