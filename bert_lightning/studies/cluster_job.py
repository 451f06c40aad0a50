"""A job of a cluster: it trains one run of a study with a plain `fit`, and records how that ended."""

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
# Variables by which Lightning would take the job's single task for one of its ranks. It starts its ranks by itself.
_OF_TASKS = (
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
    *("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)
# Seconds between two looks at the lock of the log.
_POLL = 1.0


def train(arguments: Sequence[str], environment: Mapping[str, str], log: Path, status: Path) -> None:
    """Train a run in a process of its own, and write its exit status as text to a file.

    A warning of the cluster ends the training with a checkpoint. submitit's own handlers are replaced, because they
    would requeue or fail the job by the clock. Whoever submitted the job reads the status and decides.

    Args:
        arguments: those after `fit`.
        environment: variables in addition to those of the job.
        log: gets what the training prints.
        status: the file of the exit status, negative for the signal that killed the training.
    """
    processes = Processes()
    for number in _WARNINGS:
        # Ending takes a lock that this thread may hold.
        signal.signal(number, lambda *_: threading.Thread(target=processes.end).start())
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        # A job that was submitted twice waits for the other one. Then it finds a finished run, or resumes it.
        while not lock_for_children(output) and not processes.ended:
            time.sleep(_POLL)
        begin_log(output, arguments)
        own = {name: value for name, value in os.environ.items() if name not in _OF_TASKS}
        ended = processes.fit(arguments, {**own, **environment}, output, own_session=True)
    write_text(status, f"{STOPPED if ended is None else ended}\n")
