"""A job of a cluster: it trains one run of a study with a plain `fit`, and records the exit status."""

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bert_lightning.checkpoints.files import write_text
from bert_lightning.studies.processes import Processes, begin_log, lock_for_children

STOPPED = 143
# Signals with which SLURM and submitit warn: at the time limit, at preemption, and on `scancel`.
_WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# With these variables, Lightning would take the single task of the job for one of several ranks. It starts its ranks
# by itself.
_OF_TASKS = (
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
    *("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)
# Seconds between two attempts to lock the log.
_POLL = 1.0


def train(arguments: Sequence[str], environment: Mapping[str, str], log: Path, status: Path) -> None:
    """Train a run in a separate process, and write its exit status as text to a file.

    When the cluster warns the job, training ends with a checkpoint. submitit's signal handlers are replaced, because
    they would requeue the job or let it fail, depending on the time it took. The process that submitted the job reads
    the status and decides whether to submit the run again.

    Args:
        arguments: the arguments of `fit`.
        environment: variables in addition to those of the job.
        log: the file to which the output of the training is appended.
        status: the file for the exit status, which is negative if a signal killed the training.
    """
    processes = Processes()
    for number in _WARNINGS:
        # `end` takes a lock that this thread may hold, so it needs another thread.
        signal.signal(number, lambda *_: threading.Thread(target=processes.end).start())
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        # If the run was submitted twice, wait for the other job. Then `fit` finds a finished run, or resumes it.
        while not lock_for_children(output) and not processes.ended:
            time.sleep(_POLL)
        begin_log(output, arguments)
        own = {name: value for name, value in os.environ.items() if name not in _OF_TASKS}
        ended = processes.fit(arguments, {**own, **environment}, output, own_session=True)
    write_text(status, f"{STOPPED if ended is None else ended}\n")
