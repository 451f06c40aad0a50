"""One side of a comparison, named by a path: a run, a folder of runs with several seeds, or an arm of a study."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.record import FINISHED
from bert_lightning.studies.comparison import Run, group_runs, read_run
from bert_lightning.studies.found_runs import FoundRun, found_run, run_of_record
from bert_lightning.studies.record import RecordedRun, StudyRecord
from bert_lightning.studies.run_folders import run_folders
from bert_lightning.studies.seed_groups import by_seed, finished_runs

_MOST_NAMED = 8


@dataclass(frozen=True)
class Side:
    """Runs that differ only in their seed.

    Attributes:
        name: the path as the user wrote it.
        runs: one per seed, sorted by seed.
        notes: whole sentences about runs that are left out or have not finished.
    """

    name: str
    runs: list[Run]
    notes: list[str]


def side_of(path: Path) -> Side:
    """Return the runs that a path names.

    Args:
        path: a run directory, a folder that holds runs of one experiment with several seeds, or an arm of a study:
            STUDY/ARM, or STUDY/STAGE/ARM if the study has several stages.

    Raises:
        InputError: the path names none of these, or runs with different settings.
    """
    if path.is_file():
        raise InputError(f"{path} is a file: name a run directory, a folder of runs with several seeds, or STUDY/ARM")
    if RunDirectory(path).exists:
        run = read_run(path)
        ended = run.manifest.get("ended")
        unfinished = [] if ended == FINISHED else [f"{path} has not finished: its last step is {_last_step(run):,}."]
        return Side(str(path), [run], unfinished)
    if path.is_dir() and not StudyRecord.exists(path):
        return _of_folder(path)
    for folder in (path, *path.parents):
        if StudyRecord.exists(folder):
            arm = "" if folder == path else os.path.relpath(path, folder)
            return _of_arm(path, folder, arm, StudyRecord.read(folder))
    raise InputError(f"{path} does not exist")


def _last_step(run: Run) -> int:
    return max((int(row["step"]) for row in run.rows if "checkpoint" not in row), default=0)


def _of_folder(path: Path) -> Side:
    folders = [folder for folder in run_folders(path, []) if not StudyRecord.exists(folder)]
    if not folders:
        raise InputError(
            f"{path} holds no run: name a run directory, a folder of runs with several seeds, or STUDY/ARM"
        )
    return _side(path, [found_run(RunDirectory(folder)) for folder in folders])


def _of_arm(path: Path, folder: Path, name: str, record: StudyRecord) -> Side:
    """Return the side for an arm of a study.

    Args:
        path: the path as the user wrote it.
        folder: the folder of the study.
        name: the part of the path after `folder`: ARM, STAGE/ARM, or empty if the study has a single arm.
        record: the record of the study.
    """
    arms: dict[str, list[RecordedRun]] = {}
    for run in record.runs:
        if run.trial is None:
            arms.setdefault(f"{run.stage}/{run.arm}", []).append(run)
    matching = [full for full in arms if name in (full, full.partition("/")[2])]
    if not name and len(arms) == 1:
        matching = [*arms]
    if len(matching) > 1:
        raise InputError(f"{path}: several stages have the arm {name}: name one, such as {folder / matching[0]}")
    if not matching and not name:
        known = ", ".join(str(folder / full) for full in [*arms][:_MOST_NAMED])
        more = ", ..." if len(arms) > _MOST_NAMED else ""
        raise InputError(f"{path} is a study: name one of its arms: {known}{more}")
    if not matching:
        names = dict.fromkeys((*arms, *(full.partition("/")[2] for full in arms)))
        raise InputError(f"{path}: the study {folder} has no arm {name!r}{nearest(name, names)}")
    return _side(path, [run_of_record(folder, run) for run in arms[matching[0]]])


def _side(path: Path, found: Sequence[FoundRun]) -> Side:
    """Make a side of the runs of one arm. A note names each run that is left out: unfinished, or a repeated seed."""
    finished, notes = finished_runs(found)
    if not finished:
        raise InputError(f"{path}: no run has finished")
    groups = group_runs(finished)
    if len(groups) > 1:
        named = "; ".join(f"{group.label}: {group.runs[0].name}" for group in groups[:_MOST_NAMED])
        raise InputError(
            f"{path} holds runs that differ in more than their seed: name a single run, or a folder for each group: "
            f"{named}"
        )
    runs, repeated = by_seed(finished)
    return Side(str(path), [*runs.values()], [*notes, *repeated])
