"""The git state of the working directory, from which the code of a run can be restored.

It includes a patch of what is not committed, which applies to the recorded commit with `git apply`. The patch holds
changes of tracked files and small untracked text files. Files that git ignores, outputs of runs and files that hold a
secret of the environment are left out.
"""

import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bert_lightning.checkpoints.files import write_atomically
from bert_lightning.checkpoints.run_files import MANIFEST, SETTINGS
from bert_lightning.runs.lock import NAME as LOCK

# Bytes of a whole patch, and of one untracked file.
LARGEST_PATCH, LARGEST_FILE = 1 << 20, 1 << 17
# Seconds for one call of git. A slow disk must not delay training for long.
_PATIENCE = 5.0
_MOST_NAMED = 20
_STUDY = "study.json"
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
# Settings of the user that would change the form of a patch.
_PLAIN = ("-c", "core.quotePath=true", "-c", "diff.submodule=short", "--literal-pathspecs")
_ESCAPES = {ord(char): f"\\{name}" for char, name in zip('\a\b\t\n\v\f\r"\\', 'abtnvfr"\\', strict=True)}


class GitState(NamedTuple):
    """Commit of the working directory, and what differs from it."""

    commit: str
    modified: bool
    """True if a file differs or is untracked; outputs of runs do not count"""
    patch: bytes
    """empty if nothing differs or nothing can be kept"""
    left_out: dict[str, str]
    """path of a file that differs and is not in the patch -> the reason"""


def recorded_git_state(folder: Path) -> dict[str, object] | None:
    """Write the patch of uncommitted files into a run directory, and return the entry of the manifest.

    The file's name holds its digest, so that each session of a run keeps its own patch. If there is no
    git state (see `git_state`), nothing is written and the result is None.
    """
    state = git_state()
    if state is None:
        return None
    entry: dict[str, object] = {"commit": state.commit, "modified": state.modified, "patch": None}
    if state.patch:
        digest = hashlib.sha256(state.patch).hexdigest()
        name = f"uncommitted-{digest[:12]}.patch"
        if not (folder / name).exists():
            write_atomically(folder / name, lambda file: file.write(state.patch))
        entry |= {"patch": name, "patch_sha256": digest}
    if state.left_out:
        named = dict(sorted(state.left_out.items())[:_MOST_NAMED])
        entry |= {"not_in_patch": named, "num_not_in_patch": len(state.left_out)}
    return entry


def git_state() -> GitState | None:
    """Return the git state of the working directory.

    It is None outside a repository, without a commit, without git, and if a call of git fails or takes too long.
    """
    try:
        answer = os.fsdecode(_git("rev-parse", "HEAD", "--show-toplevel")).split("\n")
        commit, top = answer[0], Path(answer[1])
        tracked, untracked = _changed_files(top)
        sections, left_out = _tracked_sections(top, tracked)
        own, refused = _untracked_sections(top, untracked)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
    sections, left_out = sections | own, left_out | refused
    secrets = [value.encode() for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= 8]
    kept, size = set(), 0
    for name in sorted(sections, key=lambda name: len(sections[name])):
        if any(secret in sections[name] for secret in secrets):
            left_out[_text(name)] = "it holds a secret of the environment"
        elif size + len(sections[name]) > LARGEST_PATCH:
            left_out[_text(name)] = f"a patch has at most {LARGEST_PATCH:,} bytes"
        else:
            kept.add(name)
            size += len(sections[name])
    patch = b"".join(sections[name] for name in sorted(kept))
    return GitState(commit, bool(tracked or untracked), patch, left_out)


def _changed_files(top: Path) -> tuple[list[bytes], list[bytes]]:
    """Return the tracked files that differ from the commit, and the untracked ones that are no outputs of runs."""
    arguments = ("status", "--porcelain", "-z", "--no-renames", "--ignore-submodules=dirty")
    try:
        answer = _git(*arguments, "--untracked-files=all", folder=top)
    except subprocess.TimeoutExpired:
        # A large folder of data that git does not ignore takes long to list.
        answer = _git(*arguments, "--untracked-files=no", folder=top)
    entries = [entry for entry in answer.split(b"\0") if entry]
    tracked = [entry[3:] for entry in entries if entry[:2] != b"??"]
    is_output: dict[Path, bool] = {}
    names = (entry[3:] for entry in entries if entry[:2] == b"??")
    return tracked, [name for name in names if not _is_of_a_run(top / _text(name), top, is_output)]


def _is_of_a_run(path: Path, top: Path, known: dict[Path, bool]) -> bool:
    """Return whether a run or a study wrote a file: it is in such a directory, or is the log beside one."""
    folder = path.parent
    if folder not in known:
        known[folder] = _is_directory_of_a_run(folder) or (folder != top and _is_of_a_run(folder, top, known))
    return known[folder] or (path.suffix == ".log" and _is_directory_of_a_run(path.with_suffix("")))


def _is_directory_of_a_run(folder: Path) -> bool:
    # A run that begins has a lock, and no manifest yet.
    begun = (folder / MANIFEST).is_file() or (folder / LOCK).is_file()
    return (folder / _STUDY).is_file() or (begun and (folder / SETTINGS).is_file())


def _tracked_sections(top: Path, names: Iterable[bytes]) -> tuple[dict[bytes, bytes], dict[str, str]]:
    """Return each changed file's section of the patch, and the files that are left out with the reason."""
    left_out, wanted = {}, []
    for name in names:
        if _size(top / _text(name)) > LARGEST_PATCH:
            left_out[_text(name)] = f"it has more than {LARGEST_PATCH:,} bytes"
        else:
            wanted.append(name)
    if not wanted:
        return {}, left_out
    form = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative")
    prefixes = ("--ignore-submodules=dirty", "--src-prefix=a/", "--dst-prefix=b/")
    # A command line has room for some thousand names. More changed files than that are compared without naming them.
    chosen = [_text(name) for name in wanted] if left_out and len(wanted) < 1000 else []
    text, complete = _bounded("diff", "HEAD", *form, *prefixes, "--", *chosen, folder=top)
    sections: dict[bytes, bytes] = {}
    headers = {_header(name): name for name in wanted}
    found = re.split(rb"^(?=diff --git )", text, flags=re.MULTILINE)[1:]
    for section in found if complete else found[:-1]:
        changed = headers.get(section.partition(b"\n")[0])
        if changed is not None:
            # A file that became a link has two sections. What follows a section is a note on the next file.
            section = re.sub(rb"^\* Unmerged path .*\n", b"", section, flags=re.MULTILINE)
            sections[changed] = sections.get(changed, b"") + section
    reason = "git gave no patch of it"
    return sections, left_out | {_text(name): reason for name in wanted if name not in sections}


def _untracked_sections(top: Path, names: Iterable[bytes]) -> tuple[dict[bytes, bytes], dict[str, str]]:
    """Return a section of the patch that creates each untracked text file, and the files that are left out."""
    sections: dict[bytes, bytes] = {}
    left_out: dict[str, str] = {}
    total = 0
    for size, name in sorted((_size(top / _text(name)), name) for name in names):
        path, text = top / _text(name), _text(name)
        try:
            if size > LARGEST_FILE:
                left_out[text] = f"it is untracked and has more than {LARGEST_FILE:,} bytes"
            elif total > LARGEST_PATCH:
                left_out[text] = f"a patch has at most {LARGEST_PATCH:,} bytes"
            elif path.is_symlink():
                sections[name] = _creation(name, b"120000", os.fsencode(path.readlink()))
            elif not path.is_file():
                left_out[text] = "it is not a file"
            elif _is_text(content := path.read_bytes()):
                mode = b"100755" if os.access(path, os.X_OK) else b"100644"
                sections[name] = _creation(name, mode, content)
                total += len(content)
            else:
                left_out[text] = "it is untracked and not text"
        except OSError as error:
            left_out[text] = f"it cannot be read: {error.strerror or error}"
    return sections, left_out


def _creation(name: bytes, mode: bytes, content: bytes) -> bytes:
    """Return the section of a patch that creates a file."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest().encode()
    section = _header(name) + b"\nnew file mode %b\nindex %b..%b\n" % (mode, b"0" * 40, blob)
    if not content:
        return section
    lines = content.split(b"\n")
    ending = b"" if lines[-1] == b"" else b"\n\\ No newline at end of file\n"
    lines = lines if ending else lines[:-1]
    # A tab marks the end of a name with spaces, as git writes it.
    path = _quoted(b"b/" + name) + (b"\t" if b" " in name and _quoted(name) == name else b"")
    section += b"--- /dev/null\n+++ %b\n@@ -0,0 +1,%d @@\n" % (path, len(lines))
    return section + b"\n".join(b"+" + line for line in lines) + (ending or b"\n")


def _header(name: bytes) -> bytes:
    return b"diff --git %b %b" % (_quoted(b"a/" + name), _quoted(b"b/" + name))


def _quoted(name: bytes) -> bytes:
    """Quote a name as git does with `core.quotePath`: like a string in C, if it has any unusual character."""
    text = "".join(
        _ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}") for byte in name
    ).encode()
    return name if text == name else b'"%b"' % text


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _size(path: Path) -> int:
    """Return the size of a file; 0 of one that was removed."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _text(name: bytes) -> str:
    return os.fsdecode(name)


def _command(arguments: Iterable[str], folder: Path | None) -> tuple[list[str], Mapping[str, str]]:
    where = ["-C", str(folder)] if folder is not None else []
    # Without this variable `status` rewrites the index, for which commands that start together would wait.
    return ["git", *where, *_PLAIN, *arguments], {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}


def _git(*arguments: str, folder: Path | None = None) -> bytes:
    command, environment = _command(arguments, folder)
    return subprocess.run(command, capture_output=True, check=True, timeout=_PATIENCE, env=environment).stdout


def _bounded(*arguments: str, folder: Path) -> tuple[bytes, bool]:
    """Return the first bytes that git prints, several times as many as a patch holds, and whether these are all."""
    command, environment = _command(arguments, folder)
    most = 8 * LARGEST_PATCH
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        timer = threading.Timer(_PATIENCE, process.kill)
        timer.start()
        try:
            # If git has more to print, it ends when the pipe is closed.
            text = process.stdout.read(most)
        finally:
            process.stdout.close()
            process.wait()
            timer.cancel()
    return text, process.returncode == 0
