"""The launcher of a cluster: each run of a study is a SLURM job, submitted with submitit.

submitit only submits jobs and reads their state. This module decides whether a run is submitted again, by the exit
status of its `fit`. submitit's own requeueing is of no use here: it counts a job as timed out after
`min(0.8 t, t - 10 min)` of its time t, so always if t is below ten minutes, and it does not requeue a plain command.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError, WorkError
from bert_lightning.studies.cluster_job import train
from bert_lightning.studies.estimates import logged_step
from bert_lightning.studies.launchers import Job, wait_while
from bert_lightning.studies.processes import running_process
from bert_lightning.studies.record import SUBMITIT
from bert_lightning.studies.states import is_stopped

if TYPE_CHECKING:
    import submitit

# The default of --jobs: how many jobs are in the queue at the same time.
MOST_JOBS = 100
# Time limit of a job, in minutes. Any limit works, because a run that reaches it is submitted again.
_TIMEOUT = 240
# submitit's local executor would end its jobs after two minutes by default. This is a year.
_LOCAL_TIMEOUT = 366 * 24 * 60
# A run that ends this many times in a row without logging a new step is not submitted again.
_MOST_WITHOUT_STEP = 3
_STATUS = "status"
_SUBMITTED = "_submitted.pkl"
# Seconds between two checks of a job, and until a file written on another machine is visible here.
_POLL, _DELAY = 1.0, 20.0
_SHORT = {"timeout": "timeout_min"}
# Parameters that would start several tasks for one run.
_OF_SEVERAL = ("nodes", "tasks_per_node", "ntasks_per_node", "ntasks")
# States of SLURM after which a run is submitted again, although its job wrote no status.
_LOST = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REQUEUED")
_CANCELLED = "CANCELLED"
# How many of the last lines of a job's output are copied to the log of its run.
_NUM_LINES = 10


class SubmititLauncher:
    """The launcher of a cluster.

    Each submission of a run has its own folder, `submitit/<identity>/<number>` in the folder of the study. submitit
    writes the number of the job there. So a command that starts after a kill finds the jobs that are still queued.

    Args:
        num_jobs: how many jobs are in the queue at the same time.
        parameters: parameters of submitit's `AutoExecutor`. `timeout` is short for `timeout_min`. The prefix `slurm_`
            of SLURM's parameters may be left out. `cluster` is `slurm` or `local`; by default SLURM, if it is there.

    Raises:
        InputError: submitit is not installed, the cluster is not available, or a parameter is unknown or wrong.
    """

    at_stop = "left in the queue of the cluster: {runs}; the same command finds them again, and `scancel` ends them"

    def __init__(self, num_jobs: int = MOST_JOBS, parameters: Mapping[str, object] | None = None) -> None:
        if num_jobs < 1:
            raise InputError(f"--jobs is {num_jobs}; it must be at least 1")
        self.num_jobs = num_jobs
        values = dict(parameters or {})
        self._cluster = values.pop("cluster", None)
        with tempfile.TemporaryDirectory() as folder:
            executor = self._executor(Path(folder))
            self._cluster = executor.cluster
            self._parameters = _complete(values, executor.cluster)
            try:
                executor.update_parameters(**self._parameters)
            except (AssertionError, NameError, TypeError, ValueError) as error:
                raise InputError(f"--submitit: {error}") from None
        self._ended = threading.Event()
        # submitit asks SLURM about all jobs at once, and is not made for several threads.
        self._asking = threading.Lock()

    def wait_for_earlier(self, job: Job, say: Callable[[str], None]) -> bool:
        """Wait while a job of an earlier command, or another process, still trains the run."""
        earlier = self._earlier(job)
        if earlier is None:
            return wait_while(lambda: None if self._ended.is_set() else running_process(job.directory), job, say)
        say(f"{job.name}: the job {earlier.job_id} of an earlier command is still there: waiting for its end")
        self._wait(earlier, earlier.paths.folder)
        return True

    def run(self, job: Job) -> int | None:
        """Submit the run until it ends or is cancelled, or until three jobs in a row have logged no new step.

        Raises:
            WorkError: the cluster refuses the job.
        """
        num_without_step = 0
        while True:
            step = logged_step(job.directory)
            with self._asking:
                if self._ended.is_set():
                    return None
                submitted, folder = self._submit(job)
            status = self._wait(submitted, folder)
            if status is None or not is_stopped(status):
                self._explain(submitted, status, job.log)
                return status
            num_without_step = 0 if logged_step(job.directory) > step else num_without_step + 1
            if num_without_step == _MOST_WITHOUT_STEP or self._was_cancelled(submitted):
                return status

    def stop(self) -> None:
        """Submit no more jobs, and do not wait for any. Submitted jobs stay in the queue."""
        with self._asking:
            self._ended.set()

    def _executor(self, folder: Path) -> "submitit.AutoExecutor":
        try:
            import submitit
        except ModuleNotFoundError:
            raise InputError(
                "--launcher submitit needs the package submitit: pip install 'bert_lightning[studies]'"
            ) from None
        # submitit would replace a percent sign by the number of the job.
        try:
            return submitit.AutoExecutor(str(folder).replace("%", "%%"), cluster=self._cluster)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"--submitit.cluster: {error}") from None

    def _submit(self, job: Job) -> tuple["submitit.Job[None]", Path]:
        folder = _new_folder(_folder_of(job))
        executor = self._executor(folder)
        cores = {"cpus_per_task": job.num_processes} if self._cluster == "slurm" else {}
        executor.update_parameters(**{"name": job.name, **cores, **self._parameters})
        log, status = job.log.absolute(), folder / _STATUS
        try:
            return executor.submit(train, list(job.arguments), dict(job.environment), log, status), folder
        except (RuntimeError, OSError) as error:
            raise WorkError(f"{job.name}: the cluster refuses the job: {_last_line(str(error))}") from None

    def _earlier(self, job: Job) -> "submitit.Job[None] | None":
        """Return the newest job of a run, if it may still be queued or running."""
        folders = sorted(
            (each for each in _folder_of(job).glob("*") if each.name.isdigit()), key=lambda each: int(each.name)
        )
        if not folders or (folders[-1] / _STATUS).exists():
            return None
        submitted = next(folders[-1].glob(f"*{_SUBMITTED}"), None)
        if submitted is None:
            return None
        import submitit

        number = submitted.name.removesuffix(_SUBMITTED)
        made: submitit.Job[None] = (submitit.SlurmJob if self._cluster == "slurm" else submitit.LocalJob)(
            folders[-1], number
        )
        return None if self._is_over(made) else made

    def _is_over(self, submitted: "submitit.Job[None]") -> bool:
        """Return whether the cluster reports that a job has ended."""
        if self._cluster == "local" and getattr(submitted, "_process", None) is None:
            return not _is_local_job(submitted)
        with self._asking:
            return submitted.done()

    def _wait(self, submitted: "submitit.Job[None]", folder: Path) -> int | None:
        """Wait for a job, and return the exit status of its `fit`; None if `stop` was called."""
        over_since: float | None = None
        while not self._ended.wait(_POLL):
            if (folder / _STATUS).is_file():
                return int((folder / _STATUS).read_text())
            if over_since is None:
                over_since = time.monotonic() if self._is_over(submitted) else None
            elif self._cluster == "local" or time.monotonic() > over_since + _DELAY:
                return self._status_without_file(submitted)
        return None

    def _status_without_file(self, submitted: "submitit.Job[None]") -> int:
        """Return a status for a job that ended without writing one: that of a kill if it was lost, otherwise 1."""
        state = self._state(submitted)
        if state.startswith((*_LOST, _CANCELLED)) or self._cluster == "local":
            return -signal.SIGKILL
        return 1

    def _was_cancelled(self, submitted: "submitit.Job[None]") -> bool:
        """Return whether the user cancelled the job. The cluster may report this with a delay."""
        deadline = time.monotonic() + _DELAY
        while self._cluster != "local" and not self._ended.wait(_POLL) and time.monotonic() < deadline:
            state = self._state(submitted)
            if state not in ("RUNNING", "COMPLETING", "UNKNOWN"):
                return state.startswith(_CANCELLED)
        return False

    def _state(self, submitted: "submitit.Job[None]") -> str:
        if self._cluster == "local":
            return submitted.state.upper()
        with self._asking:
            return str(submitted.watcher.get_state(submitted.job_id, mode="force")).upper()

    def _explain(self, submitted: "submitit.Job[None]", status: int | None, log: Path) -> None:
        """Append the last lines of a job's output to the log of its run, if the job failed before `fit` started."""
        if status != 1 or (submitted.paths.folder / _STATUS).exists():
            return
        printed = (submitted.stderr() or "").strip().splitlines()[-_NUM_LINES:]
        end = f"the job {submitted.job_id} ended with {self._state(submitted)} and no exit status"
        with open(log, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in [*printed, end]))


def submitit_parameters(words: Sequence[str]) -> dict[str, object]:
    """Parse the options `--submitit.KEY VALUE` and `--submitit.KEY=VALUE` of a command line.

    Raises:
        InputError: a word is not such an option, has no value, or is given twice.

    >>> submitit_parameters(["--submitit.timeout", "240", "--submitit.partition=gpu"])
    {'timeout': 240, 'partition': 'gpu'}
    """
    values: dict[str, object] = {}
    rest = list(words)
    while rest:
        word, has_value, value = rest.pop(0).partition("=")
        key = word.removeprefix("--submitit.")
        if key == word or not key:
            raise InputError(f"unexpected argument {word!r}: parameters of submitit are --submitit.KEY VALUE")
        if not has_value:
            if not rest:
                raise InputError(f"{word} has no value")
            value = rest.pop(0)
        if key in values:
            raise InputError(f"{word} is given twice")
        values[key] = _value(value)
    return values


def _value(text: str) -> object:
    """Parse a number, truth value, list or mapping. Everything else stays text, such as 1-12:00:00."""
    if text.startswith(("{", "[")):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--submitit: {text!r} is not YAML: {_last_line(str(error))}") from None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _complete(values: Mapping[str, object], cluster: str) -> dict[str, Any]:
    """Return parameters under submitit's names, with our defaults.

    Raises:
        InputError: a name is unknown, or the parameter would start several tasks for one run.
    """
    from submitit import AutoExecutor, SlurmExecutor

    shared, of_slurm = AutoExecutor._valid_parameters(), SlurmExecutor._valid_parameters()
    complete: dict[str, Any] = {"timeout_min": _LOCAL_TIMEOUT if cluster == "local" else _TIMEOUT}
    for key, value in values.items():
        name = _SHORT.get(key, key)
        if name.removeprefix("slurm_") in _OF_SEVERAL and value != 1:
            raise InputError(f"--submitit.{key} is {value}; it must be 1, because a job trains its run in one task")
        if name in shared or name.startswith(("slurm_", "local_", "debug_")):
            complete[name] = value
        elif name in of_slurm:
            complete[f"slurm_{name}"] = value
        else:
            known = sorted({*shared, *of_slurm, *_SHORT, "cluster"})
            raise InputError(f"--submitit.{key}: submitit has no such parameter{nearest(key, known)}")
    if cluster == "slurm":
        # A job that SLURM requeued and the one that we submit would train the same run.
        more = {"no_requeue": True, **complete.get("slurm_additional_parameters", {})}
        complete["slurm_additional_parameters"] = more
    return complete


def _folder_of(job: Job) -> Path:
    """Return the folder of all submissions of a run, whose directory is `STUDY/runs/<experiment>/<identity>`."""
    return job.directory.absolute().parents[2] / SUBMITIT / job.directory.name


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(each.name) for each in parent.iterdir() if each.name.isdigit()), default=0) + 1
    folder = parent / str(number)
    folder.mkdir()
    return folder


def _is_local_job(submitted: "submitit.Job[None]") -> bool:
    """Return whether submitit's process of a local job, which an earlier command submitted, is still alive."""
    try:
        words = Path(f"/proc/{submitted.job_id}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(submitted.paths.folder) in words


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), text)
