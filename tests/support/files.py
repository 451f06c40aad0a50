"""Files that several tests write, compress, compare or read."""

import hashlib
from pathlib import Path

import pyarrow as pa

# Runs of an earlier version.
SAVED_RUNS = Path(__file__).parents[1] / "data/run_directories"


def write(path: Path, content: str | bytes) -> str:
    """Write a file and return its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def zstandard(content: bytes) -> bytes:
    """Compress into one frame of Zstandard."""
    return pa.compress(content, codec="zstd", asbytes=True)


def digest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder, by its path below the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
