"""Faults put into checkpoints, files and folders of parts, and whether a run found each of them."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

# Of the bytes of a file; and of a folder of parts, beside them.
DAMAGES = ("bit", "truncation", "zeros")
OF_FOLDERS = ("removal", "torn")


def damaged(content: bytes, how: str, generator: random.Random) -> bytes:
    """The bytes of a file with a fault in them that was not there before."""
    place = generator.randrange(len(content))
    if how == "bit":
        return content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]
    if how == "truncation":
        return content[:place]
    place = place // 4096 * 4096
    spoiled = content[:place] + bytes(len(content[place : place + 4096])) + content[place + 4096 :]
    return spoiled if spoiled != content else damaged(content, how, generator)


def spoil(checkpoint: Path, before: Path, generator: random.Random) -> str:
    """Put a fault into a checkpoint; what was done.

    Args:
        checkpoint: a file or folder of parts.
        before: one of another step.
        generator: decides on the fault, and in a folder on the part or the manifest that gets it.
    """
    file, how = checkpoint, generator.choice(DAMAGES)
    if checkpoint.is_dir():
        file = generator.choice(sorted(checkpoint.iterdir()))
        how = generator.choice(DAMAGES + OF_FOLDERS)
    if how == "removal":
        file.unlink()
    elif how == "torn":
        shutil.copyfile(before / file.name, file)
    else:
        file.write_bytes(damaged(file.read_bytes(), how, generator))
    return how if file == checkpoint else f"{how} of {file.name}"


class Faults:
    """One damaged checkpoint at a time, so that each has a good one before it.

    Attributes:
        num_damaged: checkpoints that were damaged.
        num_rejected: checkpoints that were refused, each damage once.
    """

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator
        self.num_damaged = self.num_rejected = 0
        self._pending: str | None = None
        self._refused = False

    def damage(self, checkpoints: Sequence[Path]) -> str | None:
        """Spoil the first of the checkpoints, newest first, where there is one to go back to; what was done."""
        if self._pending is not None or len(checkpoints) < 2:
            return None
        newest, before = checkpoints[:2]
        how = spoil(newest, before, self.generator)
        self._pending, self._refused = newest.name, False
        self.num_damaged += 1
        return f"{newest.name}: {how}"

    def found(self, refused: set[str], has_trained: bool) -> None:
        """Count what a session refused.

        A session that is killed between refusing a checkpoint and setting it aside leaves it to the next one, which
        refuses it again.

        Args:
            refused: names.
            has_trained: whether it took a step, and so had set aside what it refused.
        """
        again = {self._pending} if self._refused else set()
        self.num_rejected += len(refused - again)
        self._refused = self._refused or self._pending in refused
        if has_trained and self._refused:
            self._pending, self._refused = None, False
