"""Groups of finished runs that differ only in their seed: the arms of studies, and other runs by their settings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_lightning.studies.comparison import Run, group_runs
from bert_lightning.studies.found_runs import FoundRun, FoundStudy, find_runs, is_done


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
        InputError: a path does not exist or leads to no run, or a study's record is damaged.
    """
    found = find_runs(paths)
    notes: list[str] = []
    groups = [group for study in found.studies for group in _of_study(study, notes)]
    finished, left_out = finished_runs(found.runs)
    for group in group_runs(finished):
        runs, repeated = by_seed(group.runs)
        groups.append(SeedGroup(str(group.label), runs))
        notes += repeated
    return groups, [*notes, *left_out]


def _of_study(study: FoundStudy, notes: list[str]) -> list[SeedGroup]:
    record = study.record
    arms: dict[tuple[str, str], list[FoundRun]] = {}
    for run in study.runs:
        assert run.recorded is not None, "the record of the study names it"
        if run.recorded.trial is None:
            arms.setdefault((run.recorded.stage, run.recorded.arm), []).append(run)
    groups = []
    for (stage, arm), of_arm in arms.items():
        finished, left_out = finished_runs(of_arm)
        runs, repeated = by_seed(finished)
        notes += [*left_out, *repeated]
        label = f"{stage}/{arm}" if len(record.stages) > 1 else arm
        compare = record.compare
        table, row = (arm, stage) if stage in compare.stages else (stage, arm)
        if runs:
            is_baseline = row == compare.baseline
            groups.append(SeedGroup(label, runs, compare.metric, is_baseline, (str(study.directory), table)))
    return groups


def finished_runs(found: Iterable[FoundRun]) -> tuple[list[Run], list[str]]:
    """Return the runs that have finished, and a sentence about each of the others."""
    finished, notes = [], []
    for each in found:
        if each.run is not None and is_done(each):
            finished.append(each.run)
        else:
            reason = f" ({each.message})" if each.message else ""
            notes.append(f"{each.directory.path} is left out: its state is {each.state}{reason}.")
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
