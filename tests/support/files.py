"""Checksums of folders."""

import hashlib
from pathlib import Path


def digest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder, by its path below the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
