"""The layout of a report before numbers are computed: which runs are in which row of which table."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError
from bert_lightning.reports.results import NotInTable
from bert_lightning.studies.comparison import Run, group_runs, without_seed
from bert_lightning.studies.found_runs import Found, FoundRun, FoundStudy, is_done
from bert_lightning.studies.record import StudyRecord

# The task whose data are token stores. Stores differ between vocabularies, so they do not divide a table.
PRETRAINING = "pretraining"
STAGE = "stage"
"""The axis of a table whose rows are stages."""


@dataclass(frozen=True)
class Arm:
    """A row of a table: runs that differ only in their seed.

    Attributes:
        label: its name, unique in its table.
        values: axis -> value.
        runs: its finished runs, sorted by seed, one per seed.
        missing: its other runs.
        trial: its number in a search; None outside searches.
    """

    label: str
    values: dict[str, object]
    runs: list[Run]
    missing: list[NotInTable] = field(default_factory=list)
    trial: int | None = None


@dataclass(frozen=True)
class Layout:
    """A table without its numbers.

    Attributes:
        title: its title: the study and stage, or the task, and the data set if there are several.
        task: name of the task.
        arms: its rows.
        stage: the stage; None outside studies, and in studies with a single stage.
        directory: folder of the study.
        record: record of the study; None for runs outside studies.
        others: runs that are not in the table and belong to none of its arms.
    """

    title: str
    task: str
    arms: list[Arm]
    stage: str | None = None
    directory: Path | None = None
    record: StudyRecord | None = None
    others: list[NotInTable] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """All finished runs of the table."""
        return [run for arm in self.arms for run in arm.runs]

    @property
    def missing(self) -> list[NotInTable]:
        """All runs that are not in the table."""
        return [each for arm in self.arms for each in arm.missing] + self.others

    @property
    def of_search(self) -> bool:
        """Whether the rows are trials."""
        return any(arm.trial is not None for arm in self.arms)


def layouts_of(found: Found) -> list[Layout]:
    """Arrange runs in tables: one per stage of a study, or per task, and per data set."""
    names = [study.record.study for study in found.studies]
    layouts = []
    for study in found.studies:
        name = study.record.study
        shown = f"{name} ({study.directory})" if names.count(name) > 1 else name
        layouts += _of_study(study, shown)
    return layouts + (_of_runs(found.runs) if found.runs else [])


def find_arm(name: str, arms: Sequence[Arm]) -> Arm | None:
    """Return the arm with a label, or the only arm whose axes have the given values; None if there is none.

    Args:
        name: a label, or some of its parts, such as `optimizer.name=adamw`; a key may be shortened to its last part.
        arms: the arms of one table.
    """
    for arm in arms:
        if arm.label == name:
            return arm
    parts = {part.strip() for part in name.split(", ")}
    fitting = [arm for arm in arms if arm.values and parts <= _parts(arm)]
    return fitting[0] if len(fitting) == 1 else None


def require_arm(name: str, layouts: Iterable[Layout]) -> None:
    """Check that at least one table has an arm.

    Raises:
        InputError: no table has it. The message names the nearest arm.
    """
    layouts = list(layouts)
    if not any(find_arm(name, layout.arms) for layout in layouts):
        labels = list(dict.fromkeys(arm.label for layout in layouts for arm in layout.arms))
        raise InputError(f"--baseline is {name!r}, but no arm has this name{nearest(name, labels)}")


def _parts(arm: Arm) -> set[str]:
    return {f"{name}={value}" for key, value in arm.values.items() for name in {key, key.rpartition(".")[2]}}


# -- studies -----------------------------------------------------------------------------------------------------


def _of_study(study: FoundStudy, shown: str) -> list[Layout]:
    joined = study.record.compare.stages
    layouts = _of_compared_stages(study, shown) if joined else []
    for stage in study.record.stages:
        for of_search in (False, True) if stage not in joined else (True,):
            entries = [run for run in study.runs if _belongs(run, stage, of_search)]
            if not entries:
                continue
            several = len(study.record.stages) > 1
            title = shown + (f": {stage}" if several else "") + (": search" if of_search else "")
            arms = _study_arms(entries)
            for name, task, members in _by_data(arms):
                layouts.append(
                    Layout(
                        title + (f": {name}" if name else ""),
                        task,
                        members,
                        stage if several else None,
                        study.directory,
                        study.record,
                    )
                )
    return layouts


def _of_compared_stages(study: FoundStudy, shown: str) -> list[Layout]:
    """Arrange the runs of stages that are compared with each other: a table per arm of the study, a row per stage."""
    tables: dict[str, dict[str, Arm]] = {}
    for stage in study.record.compare.stages:
        for found in study.runs:
            if _belongs(found, stage, of_search=False):
                assert found.recorded is not None
                rows = tables.setdefault(found.recorded.arm, {})
                _add(rows.setdefault(stage, Arm(stage, {STAGE: stage}, [])), found)
    layouts = []
    for name, rows in tables.items():
        title = f"{shown}: {name}" if len(tables) > 1 else shown
        first = next((run for arm in rows.values() if (run := _first_run(arm)) is not None), None)
        task = first.task if first is not None else ""
        layouts.append(Layout(title, task, [*rows.values()], None, study.directory, study.record))
    return layouts


def _belongs(run: FoundRun, stage: str, of_search: bool) -> bool:
    recorded = run.recorded
    assert recorded is not None, "a run of a study has an entry in its record"
    return recorded.stage == stage and (recorded.trial is not None) == of_search


def _study_arms(entries: Sequence[FoundRun]) -> list[Arm]:
    arms: dict[tuple[str, int | None], Arm] = {}
    for found in entries:
        recorded = found.recorded
        assert recorded is not None, "a run of a study has an entry in its record"
        key = (recorded.arm, recorded.trial)
        arm = arms.setdefault(key, Arm(recorded.arm, dict(recorded.values), [], [], recorded.trial))
        _add(arm, found)
    return _with_unique_labels([*arms.values()])


def _add(arm: Arm, found: FoundRun) -> None:
    """Add a run to its arm: to `runs` if it has finished and its seed is new, otherwise to `missing`."""
    first = next((run for run in arm.runs if run.seed == found.seed), None)
    if not is_done(found) or found.run is None:
        arm.missing.append(_absent(found, arm.label))
    elif first is None:
        arm.runs.append(found.run)
        arm.runs.sort(key=lambda run: run.seed)
    else:
        same = "with equal scores" if first.scores() == found.run.scores() else "with other scores"
        message = f"{first.name} has this seed too, {same}, and is in the table"
        arm.missing.append(replace(_absent(found, arm.label), state="repeated", message=message))


def _absent(found: FoundRun, label: str) -> NotInTable:
    return NotInTable(label, found.seed, found.state, found.directory.path, found.message, found.run)


# -- other runs --------------------------------------------------------------------------------------------------


def _of_runs(found: Sequence[FoundRun]) -> list[Layout]:
    finished = [(each, each.run) for each in found if is_done(each) and each.run is not None]
    by_run = {id(run): each for each, run in finished}
    places = _data_places([run for _, run in finished])
    tables: dict[tuple[str, ...], list[Run]] = {}
    for _, run in finished:
        tables.setdefault(places[id(run)], []).append(run)
    layouts, arms = [], {}
    tasks = [key[0] for key in tables]
    for key, runs in tables.items():
        members = []
        for group in group_runs(runs):
            arm = Arm(group.label, dict(group.values), [])
            for run in group.runs:
                _add(arm, by_run[id(run)])
            members.append(arm)
        title = f"{key[0]}: {_data_name(runs[0])}" if tasks.count(key[0]) > 1 else key[0]
        layouts.append(Layout(title, key[0], _with_unique_labels(members)))
        arms.update({_settings_of(arm.runs[0]): arm for arm in layouts[-1].arms})
    others = []
    for each in found:
        if id(each.run) in by_run:
            continue
        arm_of_run = arms.get(_settings_of(each.run)) if each.run is not None else None
        if arm_of_run is not None:
            _add(arm_of_run, each)
        else:
            label = str(each.run.config.get("experiment", "")) if each.run is not None else ""
            others.append(_absent(each, label))
    if others:
        layouts = layouts or [Layout("runs", "", [])]
        layouts[-1].others.extend(others)
    return layouts


def _settings_of(run: Run) -> str:
    return json.dumps([run.task, without_seed(run.config)], sort_keys=True, default=str)


def _with_unique_labels(arms: Sequence[Arm]) -> list[Arm]:
    """Number labels that occur more than once, such as those of the values 1 and "1"."""
    counts: dict[str, int] = {}
    unique = []
    for arm in arms:
        counts[arm.label] = counts.get(arm.label, 0) + 1
        label = arm.label if counts[arm.label] == 1 else f"{arm.label} ({counts[arm.label]})"
        unique.append(replace(arm, label=label, missing=[replace(each, arm=label) for each in arm.missing]))
    return unique


# -- data sets ---------------------------------------------------------------------------------------------------


def _by_data(arms: Sequence[Arm]) -> list[tuple[str, str, list[Arm]]]:
    """Divide arms by the data that they are scored on: (name of the data, task, arms) for each part.

    The name is empty if there is only one part. Arms without any run go to the first part.
    """
    first_runs = {arm.label: run for arm in arms if (run := _first_run(arm)) is not None}
    places = _data_places(list(first_runs.values()))
    keys = {label: places[id(run)] for label, run in first_runs.items()}
    default = next(iter(keys.values()), ("",))
    parts: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        parts.setdefault(keys.get(arm.label, default), []).append(arm)
    shown = []
    for key, members in parts.items():
        run = next((first_runs[arm.label] for arm in members if arm.label in first_runs), None)
        shown.append((_data_name(run) if len(parts) > 1 and run is not None else "", key[0], members))
    return shown


def _first_run(arm: Arm) -> Run | None:
    return next(iter([*arm.runs, *(each.run for each in arm.missing if each.run is not None)]), None)


def _data_places(runs: Sequence[Run]) -> dict[int, tuple[str, ...]]:
    """Return id of a run -> its task and the location of the data that it is scored on.

    Data are the same if they have the same location or the same fingerprint. Then all get the first of the locations.
    """
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    places = {}
    for run in runs:
        place, fingerprint = data_place(run), run.manifest.get("data", {}).get("validation")
        names = [place] + ([(run.task, "fingerprint", str(fingerprint))] if fingerprint else [])
        shared = next((first[name] for name in names if name in first), place)
        for name in names:
            first.setdefault(name, shared)
        places[id(run)] = shared
    return places


def data_place(run: Run) -> tuple[str, ...]:
    """Return the task of a run and the location of the data that it is scored on; the task alone for pre-training."""
    if run.task == PRETRAINING:
        return (run.task,)
    data = run.config.get("data", {})
    split = "validation" if data.get("validation") else "test"
    return (run.task, *(str(data.get(key)) for key in ("dataset", "folder", split)))


def _data_name(run: Run) -> str:
    data = run.config.get("data", {})
    return str(data.get("dataset") or PurePath(str(data.get("validation") or data.get("folder") or "")).stem)
