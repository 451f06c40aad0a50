"""Atomic writing of files (temporary name in the same folder, fsync, rename), and their checksums."""

import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from bert_lightning.checkpoints.errors import CheckpointError

_BLOCK = 1 << 22
# A safetensors file holds the length of its header, the header in JSON (metadata under this key), and the values.
_LENGTH, _METADATA = struct.Struct("<Q"), "__metadata__"
# The first bytes of every pointer of Git LFS: github.com/git-lfs/git-lfs, docs/spec.md.
_POINTER = b"version https://git-lfs"


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file in the folder of `path`, flush it to the disk and rename it to `path`.

    At every moment `path` holds either its old content or the complete new one. If `path` is a link, its target is
    replaced; a device or a pipe is written to directly. If the write fails, folders that were made for it are
    removed.

    Raises:
        OSError: `path` is a folder or a link to itself, or the write fails; the error names `path`.
    """
    # Check before following links, because the target of /dev/stdout may have a name that cannot be opened.
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as file:
            write(file)
        return
    # Not `Path.resolve`, which raises RuntimeError for a link to itself.
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    for number, wrong in ((errno.EISDIR, path.is_dir()), (errno.ELOOP, path.is_symlink())):
        if wrong:
            raise OSError(number, os.strerror(number), str(path))
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            # A full disk is reported without a name, and the temporary name is useless to the user.
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, complete or not at all."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, complete or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON to `path`, complete or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_safetensors(path: Path, content: bytes) -> None:
    """Write the bytes that safetensors' `save` returned to `path`, complete or not at all, with sorted metadata.

    safetensors writes the metadata in a random order. Sorting makes files of equal tensors and metadata identical.
    """
    start = _LENGTH.size + _LENGTH.unpack_from(content)[0]
    header = json.loads(content[_LENGTH.size : start])
    if _METADATA in header:
        header = {_METADATA: dict(sorted(header.pop(_METADATA).items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # safetensors itself aligns the values in this way.
    text += b" " * (-len(text) % _LENGTH.size)

    def write(file: IO[bytes]) -> None:
        for piece in (_LENGTH.pack(len(text)), text, memoryview(content)[start:]):
            file.write(piece)

    write_atomically(path, write)


def refuse_pointer(path: Path) -> None:
    """Refuse the pointer that replaces a large file in a repository that was cloned without Git LFS.

    Raises:
        CheckpointError: `path` is such a pointer.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(f"{path} is a pointer of Git LFS, not the file itself: `git lfs pull` fetches it")


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_atomically(link: Path, target_name: str) -> None:
    """Point the symbolic link `link` at its sibling `target_name`.

    The link exists at every moment, unless a folder has its name: a rename cannot replace a folder.
    """
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target_name)
    if link.is_dir() and not link.is_symlink():
        # A copy of the run turned the link into a folder.
        gone = link.with_name(f".{link.name}.{os.getpid()}.gone.tmp")
        os.replace(link, gone)
        shutil.rmtree(gone)
    os.replace(temporary, link)
    sync_folder(link.parent)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def checksum_path(path: Path) -> Path:
    """Return the path of the checksum of `path`."""
    return path.with_name(path.name + ".sha256")


def recorded_sums(path: Path) -> list[str]:
    """Read the SHA-256 that was written next to `path`, in hexadecimal; empty if there is none.

    There are two if a process was killed while it replaced the file: that of the new content, and of the old one.
    """
    beside = checksum_path(path)
    lines = beside.read_bytes().decode("ascii", "replace").splitlines() if beside.is_file() else []
    return [line.split()[0] for line in lines if line.strip()]


class _HashedFile:
    """A file that hashes its content while it is written, so that nothing has to be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _filled(file: IO[bytes], write: Callable[[IO[bytes]], object]) -> str:
    hashed = _HashedFile(file)
    write(cast(IO[bytes], hashed))
    file.flush()
    return hashed.digest.hexdigest()


def write_hashed(path: Path, write: Callable[[IO[bytes]], object]) -> str:
    """Write `path` atomically and in order; return the SHA-256 of the content, in hexadecimal."""
    digests: list[str] = []
    write_atomically(path, lambda file: digests.append(_filled(file, write)))
    return digests[0]


def write_with_checksum(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write `path` atomically and in order, with the SHA-256 of the content in a file next to it.

    The checksum is written before the file gets its name, so that no file ever lacks one. If the file replaces an
    older one, the older checksum stays until the older file is gone.
    """
    lines: list[str] = []
    before = [f"{old}  {path.name}\n" for old in recorded_sums(path)] if path.exists() else []

    def write_both(file: IO[bytes]) -> None:
        lines.append(f"{_filled(file, write)}  {path.name}\n")
        # The new file must be on the disk before its checksum is.
        os.fsync(file.fileno())
        write_text(checksum_path(path), "".join([*lines, *before]))

    try:
        write_atomically(path, write_both)
        if before:
            write_text(checksum_path(path), lines[0])
    except BaseException:
        if not path.exists():
            with suppress(OSError):
                checksum_path(path).unlink(missing_ok=True)
        raise


def damage(path: Path) -> str | None:
    """Describe what is wrong with a file that `write_with_checksum` wrote; None if it is complete."""
    if not path.is_file():
        return "is missing"
    beside = checksum_path(path)
    if not beside.is_file():
        return f"has no checksum next to it ({beside.name})"
    # Another process may replace the file meanwhile, so its checksum may be the one before or the one after.
    before = recorded_sums(path)
    if sha256(path) not in (*before, *recorded_sums(path)):
        return "is damaged: its SHA-256 differs from the one written with it"
    return None
