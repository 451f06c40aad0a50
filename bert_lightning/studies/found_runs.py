"""The runs that a user's paths name: run directories, folders of runs, and studies."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.record import FINISHED
from bert_lightning.runs.status import ending_of
from bert_lightning.studies.comparison import Run, read_run
from bert_lightning.studies.record import NAME as STUDY
from bert_lightning.studies.record import OTHER_SETTINGS, STALE, RecordedRun, StudyRecord
from bert_lightning.studies.run_folders import run_folders
from bert_lightning.wording import first_line


@dataclass(frozen=True)
class FoundRun:
    """A run that a path leads to, finished or not.

    Attributes:
        directory: its run directory. It may not exist yet.
        seed: its seed; 0 if it cannot be read.
        state: `finished` if its results count. Otherwise `failed`, `interrupted`, `unfinished` (still training, or
            killed) or `damaged`. In a study also `waiting`, `running`, `pruned` or `blocked`, as in the record,
            `stale` if its directory holds the result of other weights or settings, or `missing` if it is gone.
        message: why it has not finished, on one line; empty if that is not recorded.
        run: its content; None if it cannot be read.
        recorded: its entry in the record of a study; None if it belongs to none.
    """

    directory: RunDirectory
    seed: int
    state: str
    message: str = ""
    run: Run | None = None
    recorded: RecordedRun | None = None


@dataclass(frozen=True)
class FoundStudy:
    """A study with its runs.

    Attributes:
        directory: the folder that holds `study.json`.
        record: content of `study.json`.
        runs: all runs of the record.
    """

    directory: Path
    record: StudyRecord
    runs: list[FoundRun]


@dataclass(frozen=True)
class Found:
    """All studies and runs that some paths lead to.

    Attributes:
        studies: the studies, in the order of the paths.
        runs: the runs that belong to none of these studies, in the order of the paths.
    """

    studies: list[FoundStudy] = field(default_factory=list)
    runs: list[FoundRun] = field(default_factory=list)

    def finished(self) -> list[FoundRun]:
        """Return all runs that have finished."""
        return [run for runs in (self.runs, *(study.runs for study in self.studies)) for run in runs if is_done(run)]


def is_done(found: FoundRun) -> bool:
    """Return whether a run has finished, so that its results count."""
    return found.state == FINISHED


def find_runs(paths: Sequence[Path]) -> Found:
    """Find the runs that some paths lead to. A run that several paths lead to counts once.

    Args:
        paths: run directories, folders that hold some at any depth, and folders of studies.

    Raises:
        InputError: a path is missing, cannot be read or holds no run, the record of a study is damaged, or a run
            directory that is itself one of the paths is damaged.
    """
    found, seen = Found(), set()
    for path in paths:
        if not path.is_dir():
            problem = "is a file: name its folder" if path.exists() else "does not exist"
            raise InputError(f"{path} is not a run directory: it {problem}")
        problems: list[str] = []
        here = list(run_folders(path, problems))
        if problems:
            raise InputError(problems[0])
        if not here:
            raise InputError(f"{path} is not a run directory, and holds neither a run directory nor a {STUDY}")
        for folder in here:
            place = os.path.realpath(folder)
            if place in seen:
                continue
            seen.add(place)
            if StudyRecord.exists(folder):
                found.studies.append(_read_study(folder))
            else:
                found.runs.append(found_run(RunDirectory(folder), strict=folder == path))
    of_studies = {os.path.realpath(run.directory.path) for study in found.studies for run in study.runs}
    found.runs[:] = [run for run in found.runs if os.path.realpath(run.directory.path) not in of_studies]
    return found


def found_run(directory: RunDirectory, *, strict: bool = False) -> FoundRun:
    """Read a run directory, without the record of a study.

    Args:
        directory: the run.
        strict: whether a damaged run is an error. Otherwise its state is `damaged`.

    Raises:
        InputError: the run is damaged, or has logged nothing, and `strict` is set.
    """
    try:
        run = read_run(directory.path)
    except InputError as error:
        if strict:
            raise
        state, message = _ending(directory)
        if state == FINISHED:
            state, message = "damaged", first_line(error)
        return FoundRun(directory, _seed_of(directory), state, message or first_line(error))
    state, message = _state(run.manifest)
    return FoundRun(directory, run.seed, state, message, run)


def _ending(directory: RunDirectory) -> tuple[str, str]:
    try:
        return _state(directory.read_manifest())
    except InputError as error:
        return "damaged", first_line(error)


def _seed_of(directory: RunDirectory) -> int:
    try:
        seed = directory.read_config().get("seed_everything", 0)
    except InputError:
        return 0
    return seed if isinstance(seed, int) else 0


def _state(manifest: Mapping[str, object]) -> tuple[str, str]:
    """Return the state of a run and why it has not finished, from its manifest."""
    ending = ending_of(manifest)
    if ending is None:
        return "unfinished", "it still trains, or it was killed"
    if ending == FINISHED:
        return ending, ""
    sessions = manifest.get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions else {}
    message = str(last.get("error") or "")
    if ending == "failed":
        return ending, first_line(ValueError(message)) if message else ""
    step, signal = manifest.get("step"), manifest["ended"]
    return ending, f"{signal} at step {step:,}" if isinstance(step, int) else str(signal)


def _read_study(folder: Path) -> FoundStudy:
    record = StudyRecord.read(folder)
    return FoundStudy(folder, record, [run_of_record(folder, recorded) for recorded in record.runs])


def run_of_record(folder: Path, recorded: RecordedRun) -> FoundRun:
    """Read a run that the record of a study names.

    Its own manifest decides whether it has finished, unless the record says that its result does not count.
    """
    directory = RunDirectory(folder / recorded.directory)
    state: str = recorded.state
    message = _one_line(recorded.message)
    if state == "failed" and recorded.message in (STALE, OTHER_SETTINGS):
        run = found_run(directory).run if directory.exists else None
        return FoundRun(directory, recorded.seed, "stale", message.removeprefix("stale: "), run, recorded)
    if not directory.exists:
        if state == FINISHED:
            state, message = "missing", f"{directory.path} is no longer there"
        return FoundRun(directory, recorded.seed, state, message, None, recorded)
    own = found_run(directory)
    if is_done(own):
        return FoundRun(directory, recorded.seed, FINISHED, "", own.run, recorded)
    if state in (FINISHED, "waiting"):
        state = own.state
    return FoundRun(directory, recorded.seed, state, message or own.message, own.run, recorded)


def _one_line(message: str | None) -> str:
    """Return the last line of a message that is not blank."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""
