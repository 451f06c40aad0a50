"""The runs below a folder with their states, for the command `runs`. This module imports nothing heavy."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_lightning.errors import InputError
from bert_lightning.runs.lock import lock_holder
from bert_lightning.runs.status import RunStatus, read_status
from bert_lightning.studies.record import NAME as STUDY
from bert_lightning.studies.record import OTHER_SETTINGS, STALE, SWEEP, RecordedRun, StudyRecord
from bert_lightning.studies.run_folders import run_folders

DEFAULT_FOLDERS = (Path("runs"), Path("studies"))
# Runs in these states do not change by themselves.
ENDED = ("finished", "failed", "interrupted", "killed", "damaged", "blocked", "pruned")
FAILED = ("failed", "killed", "damaged")


@dataclass(frozen=True)
class Overview:
    """The runs below some folders.

    Attributes:
        runs: all of them, those of a study in the order of its record.
        problems: sentences about folders and records that could not be read.
        is_over: whether no run will change by itself.
    """

    runs: list[RunStatus]
    problems: list[str]
    is_over: bool

    def failed(self) -> list[RunStatus]:
        """Return the runs that ended without a result: failed, killed and damaged ones."""
        return [run for run in self.runs if run.state in FAILED]


def overview(paths: Sequence[Path]) -> Overview:
    """Read the states of all runs below some folders. A run that several paths lead to counts once.

    Raises:
        InputError: a path is missing or is a file.
    """
    runs: list[RunStatus] = []
    problems: list[str] = []
    seen: set[str] = set()
    is_over = True
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is a file: name its folder" if path.exists() else f"{path} does not exist")
        for folder in run_folders(path, problems):
            is_study = (folder / STUDY).is_file()
            works = is_study and _works_on_study(folder)
            for run in _runs_of_study(folder, works, problems) if is_study else [read_status(folder)]:
                # A run waits for the process that works on its study, or for the agents of a sweep. Without them, it
                # waits for a command.
                waits = run.state == "waiting" and not works and not (folder / SWEEP).is_file()
                is_over &= run.state in ENDED or waits
                place = os.path.realpath(run.directory)
                if place not in seen:
                    seen.add(place)
                    runs.append(run)
    return Overview(runs, problems, is_over)


def _works_on_study(folder: Path) -> bool:
    """Return whether a process works on a study. If the file system cannot say, one may."""
    try:
        return lock_holder(folder) is not None
    except OSError:
        return True


def _runs_of_study(folder: Path, works: bool, problems: list[str]) -> list[RunStatus]:
    """Return the runs of a study. If its record cannot be read, return the runs that are on the disk."""
    try:
        record = StudyRecord.read(folder)
    except InputError as error:
        problems.append(str(error))
        return [read_status(run) for run in run_folders(folder / "runs", problems)]
    return [_recorded_status(folder, run, works) for run in record.runs]


def _recorded_status(folder: Path, run: RecordedRun, works: bool) -> RunStatus:
    """Return the state of a run of a study: that of its directory, unless the record of the study knows more."""
    directory, message = folder / run.directory, " ".join((run.message or "").split())
    status = read_status(directory) if directory.is_dir() else None
    if status is None:
        log = folder / run.log
        state = run.state
        if state == "running" and not works:
            status = RunStatus(directory, "killed", message or "no process works on this study")
        elif state == "finished":
            status = RunStatus(directory, "damaged", "its directory is no longer there")
        else:
            status = RunStatus(directory, state, message)
        status = replace(status, seed=run.seed, log=log if log.is_file() else None)
    elif run.state == "pruned" and status.state != "running":
        status = replace(status, state="pruned", message=message)
    elif run.state == "failed" and run.message in (STALE, OTHER_SETTINGS):
        status = replace(status, state="failed", message=message)
    elif run.state in ("failed", "blocked") and status.state in ("killed", "damaged"):
        # If a process crashed, or ended before it wrote anything, only the record has its exit status.
        status = replace(status, state=run.state, message=message or status.message)
    arm = run.arm if run.trial is None else f"{run.arm} (trial {run.trial})"
    return replace(status, stage=run.stage, arm=arm, seed=run.seed)
