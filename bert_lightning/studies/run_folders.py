"""The studies and run directories below a folder. This module imports nothing heavy."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from bert_lightning.checkpoints.listing import is_leftover
from bert_lightning.checkpoints.run_files import MANIFEST, SETTINGS
from bert_lightning.studies.record import NAME as STUDY


def run_folders(folder: Path, problems: list[str], above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the studies and run directories in a folder, at any depth and in natural order.

    A run directory that lacks its configuration is yielded too.

    Args:
        folder: the folder, which may itself be a study or run directory.
        problems: receives a sentence about each folder that cannot be read.
        above: the folders that contain this one, so that a link to one of them is not followed.
    """
    if any((folder / name).is_file() for name in (STUDY, SETTINGS)) or _may_be_a_run(folder):
        yield folder
        return
    place = os.path.realpath(folder)
    if place in above:
        return
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not is_leftover(entry.name) and _is_folder(entry)]
    except OSError as error:
        problems.append(f"{folder}: cannot be read: {error.strerror or error}")
        return
    for name in sorted(names, key=_natural):
        yield from run_folders(folder / name, problems, above | {place})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself.
        return False


def _may_be_a_run(folder: Path) -> bool:
    """Return whether a folder has a manifest and checkpoints. A manifest alone may be that of a token store."""
    return (folder / MANIFEST).is_file() and (folder / "checkpoints").is_dir()


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that puts `seed-2` before `seed-10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
