"""What became of the runs of a study, read from their directories: no record of the study is needed for it."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.digests import current_form
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory, equal_run, is_run_of
from bert_lightning.runs.record import FINISHED
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.processes import running_process
from bert_lightning.studies.record import RecordedRun
from bert_lightning.training.signals import EXIT_STATUS

# A process that ended with one of these was stopped from outside, and its run resumes.
_STOPPED = {
    *EXIT_STATUS.values(),
    *(-number for number in (*EXIT_STATUS, signal.SIGKILL, signal.SIGQUIT, signal.SIGALRM, signal.SIGXCPU)),
}
# Key that gets an upstream run -> name of its weights in the manifest of the run that starts from it.
_FINGERPRINTS = {"model.pretrained": "model", "distillation.teacher": "teacher"}


def directory_of(run: PlannedRun, folder: Path, directories: Mapping[str, str]) -> str:
    """Return the directory of a run, relative to the folder of the study.

    A version that computes identities in another way may have given it another name. Its settings tell.

    Args:
        run: the run.
        folder: the folder of the study.
        directories: planned directory -> the one that a run has, for upstreams that have another one.
    """
    if (folder / run.directory).exists():
        return run.directory
    moved = {
        key: Path(directories.get(upstream.directory, upstream.directory)).name
        for key, upstream in run.upstreams.items()
    }
    found = equal_run(folder / run.directory, run.experiment, moved)
    return run.directory if found is None else str(found.relative_to(folder))


def current(run: PlannedRun, folder: Path, directory: str, before: RecordedRun | None) -> RecordedRun:
    """Return a run with its present state.

    Args:
        run: the run.
        folder: the folder of the study.
        directory: its directory, relative to that folder.
        before: the run as it was recorded last, if it was.
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
        message = manifest["sessions"][-1].get("error") or recorded.message
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
    """Return a run after a process of it has ended.

    Args:
        recorded: its present state, as its directory has it.
        status: exit status of the process, negative for the signal that killed it.
        printed: the last lines that the process printed.
    """
    recorded = replace(recorded, status=status)
    if recorded.state == "finished":
        # A signal at the very end may have changed the status.
        return replace(recorded, message=None)
    killed = f"killed by {signal.Signals(-status).name}" if status < 0 else None
    if is_stopped(status):
        return replace(recorded, state="interrupted", message=killed or recorded.message or "stopped")
    last = printed[-1].removeprefix("bert-lightning: ") if printed else f"ended with status {status}"
    return replace(recorded, state="failed", message=killed or last)


def session_seconds(manifest: Mapping[str, Any]) -> list[float]:
    """Return the time that each session of a run took, without those that were killed."""
    return [
        (datetime.fromisoformat(session["finished"]) - datetime.fromisoformat(session["started"])).total_seconds()
        for session in manifest.get("sessions", [])
        if "finished" in session
    ]


def is_other_run(run: PlannedRun, folder: Path, directory: str, directories: Mapping[str, str]) -> bool:
    """Return whether a directory holds a run with other settings than the plan has."""
    path = RunDirectory(folder / directory)
    moved = {
        key: Path(directories.get(upstream.directory, upstream.directory)).name
        for key, upstream in run.upstreams.items()
    }
    return path.exists and not is_run_of(path, run.experiment, moved)


def has_other_start(run: PlannedRun, folder: Path, directory: str, directories: Mapping[str, str]) -> bool:
    """Return whether a run started from other weights than its upstream runs have now.

    They were trained again since. Upstreams that cannot be read any more, or never were, are not compared.
    """
    fingerprints = RunDirectory(folder / directory).read_manifest().get("data", {})
    for key, upstream in run.upstreams.items():
        recorded = fingerprints.get(_FINGERPRINTS.get(key, ""))
        path = folder / directories.get(upstream.directory, upstream.directory)
        if recorded is None or recorded == RunDirectory(path).read_manifest().get("weights"):
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
