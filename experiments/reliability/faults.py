"""Faults in checkpoints (files and folders of shards), and a count of those that a run rejected."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

# Kinds of damage to the bytes of a file, and further kinds in a folder of shards.
DAMAGES = ("bit", "truncation", "zeros")
OF_FOLDERS = ("removal", "torn")


def damaged(content: bytes, how: str, generator: random.Random) -> bytes:
    """Return the bytes of a file with a new fault in them."""
    offset = generator.randrange(len(content))
    if how == "bit":
        return content[:offset] + bytes([content[offset] ^ 1 << generator.randrange(8)]) + content[offset + 1 :]
    if how == "truncation":
        return content[:offset]
    offset = offset // 4096 * 4096
    spoiled = content[:offset] + bytes(len(content[offset : offset + 4096])) + content[offset + 4096 :]
    return spoiled if spoiled != content else damaged(content, how, generator)


def spoil(checkpoint: Path, before: Path, generator: random.Random) -> str:
    """Damage a checkpoint.

    Args:
        checkpoint: a file or a folder of shards.
        before: a checkpoint of another step.
        generator: chooses the kind of damage, and in a folder the shard or the manifest.

    Returns:
        A description of the damage.
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
    """Damage to one checkpoint at a time, so that a good one always precedes it.

    Attributes:
        num_damaged: number of damaged checkpoints.
        num_rejected: number of rejected checkpoints; each damage counts once.
    """

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator
        self.num_damaged = self.num_rejected = 0
        self._pending: str | None = None
        self._is_rejected = False

    def damage(self, checkpoints: Sequence[Path]) -> str | None:
        """Damage the newest checkpoint if there is an older one to fall back on.

        Args:
            checkpoints: the checkpoints of a run, newest first.

        Returns:
            A description of the damage, or None if nothing was damaged.
        """
        if self._pending is not None or len(checkpoints) < 2:
            return None
        newest, before = checkpoints[:2]
        how = spoil(newest, before, self.generator)
        self._pending, self._is_rejected = newest.name, False
        self.num_damaged += 1
        return f"{newest.name}: {how}"

    def count_rejected(self, rejected: set[str], has_trained: bool) -> None:
        """Count the checkpoints that a session rejected.

        A session may be killed after it rejected a checkpoint and before it moved it away. The next session then
        rejects the same checkpoint again, which is not counted twice.

        Args:
            rejected: names of the checkpoints.
            has_trained: whether the session took a step. It has then moved away all that it rejected.
        """
        again = {self._pending} if self._is_rejected else set()
        self.num_rejected += len(rejected - again)
        self._is_rejected = self._is_rejected or self._pending in rejected
        if has_trained and self._is_rejected:
            self._pending, self._is_rejected = None, False
