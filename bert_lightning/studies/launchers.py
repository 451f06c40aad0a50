"""Launchers, which train the runs of a study: their protocol, and the launcher of this machine."""

import os
import queue
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bert_lightning.cores import usable_cores
from bert_lightning.errors import InputError
from bert_lightning.studies.processes import Processes, begin_log, lock_for_children, running_process, with_cores

# Seconds between two checks of a process of an earlier command.
_POLL = 0.5


@dataclass(frozen=True)
class Job:
    """One process of `fit` for a run of a study.

    Attributes:
        name: stage, arm and seed, for messages.
        arguments: the arguments of `fit`.
        directory: the run directory.
        log: the file for its output.
        num_processes: how many processes (ranks) train the run together.
        uses_gpu: whether it may use CUDA devices.
        environment: variables in addition to those of this process.
    """

    name: str
    arguments: Sequence[str]
    directory: Path
    log: Path
    num_processes: int = 1
    uses_gpu: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


class Launcher(Protocol):
    """A way to train runs. Each call of `run` has its own thread, and at most `num_jobs` run at the same time.

    Attributes:
        num_jobs: how many runs train at the same time.
        at_stop: message about the effect of `stop`. `{runs}` becomes their number with its noun, such as `2 runs`.
    """

    num_jobs: int
    at_stop: str

    def wait_for_earlier(self, job: Job, say: Callable[[str], None]) -> bool:
        """Wait while a process that an earlier command started still trains the run, or until `stop` is called.

        Args:
            job: the run.
            say: receives a message about the process.

        Returns:
            Whether there was such a process.
        """

    def run(self, job: Job) -> int | None:
        """Train, and return the exit status of `fit`, negative for a signal.

        It is None if `stop` came before the start. In a cluster, it is None also if `stop` came before the end.

        The output of `fit` is appended to the log of the job.
        """

    def stop(self) -> None:
        """Make `run` return, and start no further run. Runs end after a checkpoint, or stay queued in a cluster."""


class LocalLauncher:
    """The launcher of this machine. It divides the cores and CUDA devices among the runs.

    Each process of a run inherits a lock on the log of the run. So the lock is held until the last of them has ended,
    even if this command was killed, and a later command waits for it.

    Args:
        num_jobs: how many runs train at the same time.
        devices: the names of the CUDA devices to divide; empty to leave all devices to each run.
    """

    at_stop = "ending {runs}, after a checkpoint of each"

    def __init__(self, num_jobs: int = 1, devices: Sequence[str] = ()) -> None:
        self.num_jobs = num_jobs
        self._devices = list(devices)
        self._processes = Processes()
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(num_jobs):
            self._places.put(place)
        self._ports: set[int] = set()

    def wait_for_earlier(self, job: Job, say: Callable[[str], None]) -> bool:
        """Wait while another process holds the lock of the log, or that of the run directory."""
        return wait_while(lambda: None if self._processes.ended else running_process(job.directory), job, say)

    def run(self, job: Job) -> int | None:
        """Train in a process that leads its own session, which signals of the terminal do not reach."""
        place = self._places.get()
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.log, "ab") as log:
                lock_for_children(log)
                environment = self._environment(job, place)
                begin_log(log, job.arguments)
                try:
                    return self._processes.fit(job.arguments, environment, log, own_session=True)
                finally:
                    self._ports.discard(int(environment.get("MASTER_PORT", 0)))
        finally:
            self._places.put(place)

    def stop(self) -> None:
        """Send SIGTERM to the processes that run."""
        self._processes.end()

    def _environment(self, job: Job, place: int) -> dict[str, str]:
        """Return the variables of a process: its share of the cores and devices, and a port only for its ranks."""
        environment = {**os.environ, **job.environment}
        if self.num_jobs > 1:
            environment = with_cores(environment, max(1, usable_cores() // self.num_jobs), job.num_processes)
        if self._devices and job.uses_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._devices_of(place))
        if job.num_processes > 1 and (self.num_jobs > 1 or "MASTER_PORT" not in environment):
            environment["MASTER_PORT"] = str(self._free_port())
        return environment

    def _devices_of(self, place: int) -> list[str]:
        share = len(self._devices) // self.num_jobs
        if share == 0:
            return [self._devices[place % len(self._devices)]]
        return self._devices[place * share : (place + 1) * share]

    def _free_port(self) -> int:
        while True:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = int(free.getsockname()[1])
            if port not in self._ports:
                self._ports.add(port)
                return port


def wait_while(other: Callable[[], str | None], job: Job, say: Callable[[str], None]) -> bool:
    """Wait while another process trains a run, and return whether one did.

    Args:
        other: returns a description of that process, or None.
        job: the run.
        say: receives a message about the process, once.
    """
    has_waited = False
    while (process := other()) is not None:
        if not has_waited:
            say(f"{job.name}: {process} still trains it: waiting for its end")
            has_waited = True
        time.sleep(_POLL)
    return has_waited


def check_shares(num_jobs: int, devices: Sequence[str], num_processes: int) -> None:
    """Check that there are enough CUDA devices for some runs at the same time.

    Args:
        num_jobs: how many runs train at the same time.
        devices: the CUDA devices.
        num_processes: the processes of a run, each of which needs a device. Runs of one process may share devices.

    Raises:
        InputError: there are too few.
    """
    if devices and num_processes > 1 and num_processes * num_jobs > len(devices):
        raise InputError(
            f"--jobs is {num_jobs}, and a run trains on {num_processes} devices, but there are {len(devices)}: "
            f"at most {max(1, len(devices) // num_processes)} can train at the same time"
        )


def visible_devices() -> list[str]:
    """Return the names of the CUDA devices that this process may use, in the form of CUDA_VISIBLE_DEVICES."""
    import torch

    num = torch.cuda.device_count()
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names[:num] if names else [str(number) for number in range(num)]
