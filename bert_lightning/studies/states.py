"""States of the runs of a study, read from their directories, so that a lost record of the study can be replaced."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.digests import current_form
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.saved import Difference
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory, equal_run, is_run_of, named_by_hash
from bert_lightning.runs.record import FINISHED
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.processes import running_process
from bert_lightning.studies.record import RecordedRun
from bert_lightning.training.signals import EXIT_STATUS, signal_name

# Exit statuses of a process that was stopped from outside. Its run resumes.
_STOPPED = {
    *EXIT_STATUS.values(),
    *(-number for number in (*EXIT_STATUS, signal.SIGKILL, signal.SIGQUIT, signal.SIGALRM, signal.SIGXCPU)),
}
# Settings that do not change the result, besides those of W&B. If one of them changes, the run is not repeated.
_WITHOUT_EFFECT = {
    *("published", "loggers", "data.num_workers", "trainer.timeout_seconds"),
    *("checkpoint.asynchronous", "checkpoint.keep_last", "checkpoint.keep_training_state"),
}
# Key that names an upstream run -> name of the fingerprint of its weights in the manifest of the run.
_FINGERPRINTS = {"model.pretrained": "model", "distillation.teacher": "teacher", "sequence.previous": "previous"}
# The same for keys that name several runs, without the name of each.
_SEVERAL = {"distillation.teachers": "teacher", "pseudo_labels.teachers": "labeller"}


def _fingerprint_of(key: str) -> str:
    """Return the entry of the manifest that identifies the model which a key names; empty if there is none.

    >>> _fingerprint_of("distillation.teachers.first"), _fingerprint_of("model.pretrained")
    ('teacher first', 'model')
    """
    section, _, name = key.rpartition(".")
    return f"{_SEVERAL[section]} {name}" if section in _SEVERAL else _FINGERPRINTS.get(key, "")


class Directories:
    """The directories of the runs of a study, relative to its folder.

    Usually the hash of the settings names the directory of a run. But a run with equal settings may exist under
    another name: an earlier version computed the hash in another way, or a setting without effect has changed since.
    Then that directory is used.

    Args:
        folder: the folder of the study.
        plan: all runs.
    """

    def __init__(self, folder: Path, plan: Sequence[PlannedRun]) -> None:
        self.folder = folder
        self._planned = {run.directory for run in plan}
        # Directory by the hash of the settings -> existing directory of a run with equal settings.
        self._found: dict[str, str] = {}
        for run in plan:
            if not (folder / run.directory).exists() and (other := self._other(run)) is not None:
                self._found[run.directory] = other

    def __ior__(self, others: "Directories") -> "Directories":
        """Add the directories of other runs of the study."""
        self._planned |= others._planned
        self._found |= others._found
        return self

    def __getitem__(self, run: PlannedRun) -> str:
        return self._found.get(run.directory, run.directory)

    def start_over(self, run: PlannedRun) -> None:
        """Let a run train in the directory that its settings name, even if another one was found."""
        self._found.pop(run.directory, None)

    def path(self, run: PlannedRun) -> Path:
        """Return the path of the directory of a run."""
        return self.folder / self[run]

    def is_other_run(self, run: PlannedRun) -> bool:
        """Return whether the directory of a run holds one with other settings than the plan has."""
        directory = RunDirectory(self.path(run))
        return directory.exists and not is_run_of(directory, run.experiment, self._may_differ(run))

    def _other(self, run: PlannedRun) -> str | None:
        """Return a directory with the same settings that belongs to no other run; None if there is none."""
        taken = {*self._planned, *self._found.values()}
        beside = named_by_hash((self.folder / run.directory).parent)
        free = [each for each in beside if str(each.path.relative_to(self.folder)) not in taken]
        found = equal_run(free, run.experiment, self._may_differ(run))
        return None if found is None else str(found.path.relative_to(self.folder))

    def _may_differ(self, run: PlannedRun) -> Callable[[Difference], bool]:
        def may_differ(difference: Difference) -> bool:
            key = difference.key
            if key in run.upstreams:
                return Path(str(difference.old)).name == self.path(run.upstreams[key]).name
            # Arms that differ in such a key are runs of their own.
            return (key in _WITHOUT_EFFECT or key.startswith("wandb.")) and key not in run.arm.settings

        return may_differ


def current(run: PlannedRun, folder: Path, directory: str, before: RecordedRun | None) -> RecordedRun:
    """Return the entry of a run for the record, with its present state.

    Args:
        run: the run.
        folder: the folder of the study.
        directory: the run directory, relative to that folder.
        before: the last entry of the run; None if there is none.
    """
    recorded = replace(run.recorded(), directory=directory)
    if before is not None:
        known = ("status", "message", "seconds", "attempts")
        recorded = replace(recorded, **{name: getattr(before, name) for name in known})
    path = RunDirectory(folder / directory)
    try:
        manifest = path.read_manifest()
    except InputError as error:
        return replace(recorded, state="failed", message=str(error))
    if running_process(path.path) is not None:
        return replace(recorded, state="running", message=None)
    seconds = max(recorded.seconds, sum(session_seconds(manifest)))
    recorded = replace(recorded, seconds=round(seconds, 1))
    ended = manifest.get("ended")
    if ended == FINISHED:
        return replace(recorded, state="finished", status=0, message=None)
    if ended == "failed":
        message = (manifest.get("sessions") or [{}])[-1].get("error") or recorded.message
        return replace(recorded, state="failed", message=message)
    if before is not None and before.state in ("failed", "pruned"):
        return replace(recorded, state=before.state)
    if path.exists or recorded.attempts:
        return replace(recorded, state="interrupted", message=ended or recorded.message)
    return replace(recorded, state="waiting", message=None)


def is_stopped(status: int) -> bool:
    """Return whether a process with this exit status was stopped from outside, so that its run resumes.

    >>> is_stopped(143), is_stopped(-9), is_stopped(1)
    (True, True, False)
    """
    return status in _STOPPED


def after_process(recorded: RecordedRun, status: int, printed: Sequence[str]) -> RecordedRun:
    """Return the entry of a run after its process has ended.

    Args:
        recorded: the entry with the state that the run directory shows.
        status: exit status of the process, negative for the signal that killed it.
        printed: the last lines of its output.
    """
    recorded = replace(recorded, status=status)
    if recorded.state == "finished":
        # A signal at the very end may have changed the status.
        return replace(recorded, message=None)
    killed = f"killed by {signal_name(-status)}" if status < 0 else None
    if is_stopped(status):
        return replace(recorded, state="interrupted", message=killed or recorded.message or "stopped")
    last = printed[-1].removeprefix("bert-lightning: ") if printed else f"ended with status {status}"
    return replace(recorded, state="failed", message=killed or last)


def session_seconds(manifest: Mapping[str, Any]) -> list[float]:
    """Return the seconds that each session of a run took, without sessions whose end is not recorded."""
    return [
        (datetime.fromisoformat(session["finished"]) - datetime.fromisoformat(session["started"])).total_seconds()
        for session in manifest.get("sessions", [])
        if "finished" in session
    ]


def has_other_start(run: PlannedRun, directories: Directories) -> bool:
    """Return whether a run started from other weights than its upstream runs have now.

    This is so if an upstream run was trained again. Upstream runs whose weights cannot be read, or were not recorded,
    are not compared.
    """
    manifest = RunDirectory(directories.path(run)).read_manifest()
    for key, upstream in run.upstreams.items():
        recorded = manifest.get("data", {}).get(_fingerprint_of(key))
        path = directories.path(upstream)
        of_upstream = RunDirectory(path).read_manifest()
        if recorded is None or recorded == of_upstream.get("weights") or _ended_before(of_upstream, manifest):
            continue
        # The run may have started from the best checkpoint, and the manifest has the SHA-256 of the last one.
        try:
            checkpoint = read_checkpoint(path)
        except (CheckpointError, InputError, OSError):
            continue
        assert checkpoint.provenance is not None
        if current_form(recorded, checkpoint.tensors) != checkpoint.provenance.digest:
            return True
    return False


def _ended_before(upstream: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Return whether the last session of an upstream run ended before another run began. Times are ISO 8601 texts."""
    sessions, started = upstream.get("sessions", []), manifest.get("started")
    return bool(sessions) and started is not None and sessions[-1].get("finished", "~") <= started
