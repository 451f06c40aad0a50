"""Which of the processes that train together this one is, and who reads what it says."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def is_first_process() -> bool:
    """Whether this process is the one that writes; torchrun, Lightning and SLURM's srun number the others."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """What is printed in here, and later, goes nowhere once its reader is gone; the work goes on."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
