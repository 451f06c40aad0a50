"""Groups of finished runs that differ only in their seed: the arms of studies, and other runs by their settings."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_lightning.errors import InputError
from bert_lightning.runs.record import FINISHED
from bert_lightning.studies.comparison import Run, group_runs, read_run
from bert_lightning.studies.record import RecordedRun, StudyRecord
from bert_lightning.studies.run_folders import run_folders


@dataclass(frozen=True)
class SeedGroup:
    """Finished runs that differ only in their seed.

    Attributes:
        label: name of the arm, with its stage if the study has several. Outside studies, the settings in which the
            group differs from other groups.
        runs: seed -> run, sorted by seed.
        metrics: the metrics that the study compares; empty for all.
        is_baseline: whether the others of its table are compared with it, by the study's own choice.
        table: the folder of the study, and the stage whose arms are compared, or the arm whose stages are. Groups are
            compared within a table. All runs outside studies are in one.
    """

    label: str
    runs: dict[int, Run]
    metrics: tuple[str, ...] = ()
    is_baseline: bool = False
    table: tuple[str, str] = ("", "")


def seed_groups(paths: Sequence[Path]) -> tuple[list[SeedGroup], list[str]]:
    """Return the groups of all finished runs that some paths lead to, and a sentence about each run that is left out.

    Args:
        paths: run directories, folders that hold some, and studies. Trials of searches are left out.

    Raises:
        InputError: a path does not exist, or a study's record is damaged.
    """
    groups: list[SeedGroup] = []
    notes: list[str] = []
    loose: dict[Path, None] = {}
    seen: set[str] = set()
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is a file: name its folder" if path.exists() else f"{path} does not exist")
        for folder in run_folders(path, notes):
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            if StudyRecord.exists(folder):
                groups += _of_study(folder, StudyRecord.read(folder), notes)
            else:
                loose[folder] = None
    finished, left_out = finished_runs(loose)
    for group in group_runs(finished):
        runs, repeated = by_seed(group.runs)
        groups.append(SeedGroup(str(group.label), runs))
        notes += repeated
    return groups, [*notes, *left_out]


def _of_study(folder: Path, record: StudyRecord, notes: list[str]) -> list[SeedGroup]:
    arms: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in record.runs:
        if run.trial is None:
            arms.setdefault((run.stage, run.arm), []).append(run)
    groups = []
    for (stage, arm), recorded in arms.items():
        finished, left_out = finished_runs(folder / run.directory for run in recorded)
        runs, repeated = by_seed(finished)
        notes += [*left_out, *repeated]
        label = f"{stage}/{arm}" if len(record.stages) > 1 else arm
        compare = record.compare
        table, row = (arm, stage) if stage in compare.stages else (stage, arm)
        if runs:
            is_baseline = row == compare.baseline
            groups.append(SeedGroup(label, runs, compare.metric, is_baseline, (str(folder), table)))
    return groups


def finished_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read the runs that have finished, and return a sentence about each of the others."""
    finished, notes = [], []
    for folder in folders:
        try:
            run = read_run(folder)
        except InputError as error:
            notes.append(f"{folder} is left out: {error}.")
            continue
        if run.manifest.get("ended") == FINISHED:
            finished.append(run)
        else:
            notes.append(f"{folder} is left out: it has not finished.")
    return finished, notes


def by_seed(runs: Iterable[Run]) -> tuple[dict[int, Run], list[str]]:
    """Return the first run of each seed, sorted by seed, and a sentence about each of the others."""
    found: dict[int, Run] = {}
    notes = []
    for run in runs:
        first = found.setdefault(run.seed, run)
        if first is not run:
            notes.append(f"{run.name} is left out: {first.name} has seed {run.seed}, too.")
    return dict(sorted(found.items())), notes
