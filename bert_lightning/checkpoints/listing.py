"""Listing of folders and globs, without leftovers: files that other programs put there for themselves."""

import glob
import os
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

# Names that macOS, Windows, Synology, Linux and Python create. Names that begin with a dot need no entry.
_LEFT_BEHIND = {
    *("__macosx", "icon\r", "network trash folder", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"),
    *("system volume information", "@eadir", "lost+found", "__pycache__"),
}
# Backups and temporary files of editors and of `patch`, and unfinished downloads of browsers.
_BACKUP_ENDINGS = ("~", ".bak", ".orig", ".rej", ".swp", ".swo", ".tmp", ".crdownload", ".part", ".filepart")
# Windows notes where a download came from. Other systems show the note as a file: `a.txt:Zone.Identifier`.
_NOTE = "zone.identifier"
# Second copies of Syncthing, and of Dropbox, Nextcloud and their like: `a (Ann's conflicted copy 2024-05-01).txt`.
_CONFLICT = re.compile(r"\.sync-conflict-\d{8}-|\([^()]*conflicted copy[^()]*\)", re.IGNORECASE)


def is_leftover(name: str) -> bool:
    """Return whether a program left a file or folder of this name, so that it is not data.

    These are names that begin with a dot (`.DS_Store`, `._a.txt`, `.ipynb_checkpoints`), `__MACOSX`, `Thumbs.db`,
    `desktop.ini` and similar ones. Backups of editors (`a~`, `#a#`, `a.bak`, `a.orig`) and unfinished downloads count
    too. So do the second copies that file synchronisation makes in a conflict.
    """
    lowered = name.lower()
    return (
        name.startswith((".", "~$"))
        or lowered in _LEFT_BEHIND
        or lowered.endswith((*_BACKUP_ENDINGS, _NOTE))
        or _CONFLICT.search(name) is not None
        or (len(name) > 2 and name.startswith("#") and name.endswith("#"))
    )


def entries(folder: Path) -> list[Path]:
    """List the files and folders directly in `folder`, sorted, without leftovers of programs.

    Only names inside `folder` are checked. The path of `folder` itself may hold names that begin with a dot.
    """
    return sorted(path for path in folder.iterdir() if not is_leftover(path.name))


def files_below(folder: Path) -> list[Path]:
    """List all files below `folder`, sorted, without leftovers of programs and the content of leftover folders.

    Links to folders are followed, and no folder is listed twice.
    """
    paths: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        paths += [Path(parent, name) for name in files if not is_leftover(name)]
    return sorted(path for path in paths if path.is_file())


def matches(pattern: str | Path, folder: Path | None = None) -> list[Path]:
    """Return the sorted files and folders that match a glob, without leftovers of programs.

    If the pattern itself names a leftover, as `.*`, `*.bak` or `__MACOSX` do, it matches that leftover.

    Args:
        pattern: `**` stands for any number of folders.
        folder: the folder that the pattern is relative to; the working directory unless given.
    """
    root = "" if folder is None else glob.escape(str(folder)) + os.sep
    paths = sorted(map(Path, glob.glob(root + str(pattern), recursive=True, include_hidden=True)))
    names = Path(pattern).parts
    # The user wrote the names before the first wildcard, so they count in any case.
    first = next((number for number, name in enumerate(names) if glob.has_magic(name)), None)
    if first is None:
        return paths
    patterns = [name for name in names[first:] if is_leftover(name)]
    skipped = first + (0 if folder is None else len(folder.parts))
    return [path for path in paths if _are_data(path.parts[skipped:], patterns)]


def _are_data(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether no name is a leftover, except names that a pattern matches."""
    return all(not is_leftover(name) or any(fnmatchcase(name, each) for each in patterns) for name in names)
