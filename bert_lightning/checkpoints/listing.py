"""List folders and expand globs without the files that other programs leave behind."""

import glob
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

# Names that macOS, Windows, Synology, Linux and Python create. Names that begin with a dot need no entry.
_LEFT_BEHIND = {
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "lost+found"),
    "__pycache__",
}
# Backups and temporary files of editors and of `patch`.
_BACKUP_ENDINGS = ("~", ".bak", ".orig", ".rej", ".swp", ".swo", ".tmp")


def is_left_behind(name: str) -> bool:
    """Return whether a program left a file or folder of this name, so that it is not data.

    True for names that begin with a dot (`.DS_Store`, `._a.txt`, `.ipynb_checkpoints`), for `__MACOSX`,
    `Thumbs.db`, `desktop.ini` and their like, and for backups of editors: `a~`, `#a#`, `a.bak`, `a.orig`.
    """
    lowered = name.lower()
    return (
        name.startswith((".", "~$"))
        or lowered in _LEFT_BEHIND
        or lowered.endswith(_BACKUP_ENDINGS)
        or (len(name) > 2 and name.startswith("#") and name.endswith("#"))
    )


def entries(folder: Path) -> list[Path]:
    """List the files and folders directly in `folder`, sorted, without what programs left behind.

    Only names below `folder` count: its own path may hold names that begin with a dot.
    """
    return sorted(path for path in folder.iterdir() if not is_left_behind(path.name))


def files_below(folder: Path) -> list[Path]:
    """List all files below `folder`, sorted, without what programs left behind and what lies in such folders."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_left_behind(name)]
        found += [Path(parent, name) for name in files if not is_left_behind(name)]
    return sorted(path for path in found if path.is_file())


def matches(pattern: str | Path, folder: Path | None = None) -> list[Path]:
    """Expand a glob, sorted, without what programs left behind.

    A pattern that contains such a name itself still matches it: `.*`, `*.bak`, `__MACOSX`.

    Args:
        pattern: `**` stands for any number of folders.
        folder: the folder that the pattern is relative to; the working directory unless given.
    """
    root = "" if folder is None else glob.escape(str(folder)) + os.sep
    found = sorted(map(Path, glob.glob(root + str(pattern), recursive=True, include_hidden=True)))
    parts = Path(pattern).parts
    # The user named the parts before the first wildcard.
    outright = next((number for number, part in enumerate(parts) if glob.has_magic(part)), None)
    if outright is None:
        return found
    wanted = [part for part in parts[outright:] if is_left_behind(part)]
    skipped = outright + (0 if folder is None else len(folder.parts))
    return [path for path in found if _all_wanted(path.parts[skipped:], wanted)]


def _all_wanted(parts: Iterable[str], wanted: Iterable[str]) -> bool:
    return all(not is_left_behind(part) or any(fnmatchcase(part, each) for each in wanted) for part in parts)
