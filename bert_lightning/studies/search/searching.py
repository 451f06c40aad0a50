"""The command `search`: search for the best settings of a study, and train the best trial with fresh seeds."""

import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bert_lightning.config.settings import plain
from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import InputError
from bert_lightning.studies.ablation import folder_of, local_launcher, locked, new_record, record_in
from bert_lightning.studies.comparison import flattened
from bert_lightning.studies.launchers import Launcher, LocalLauncher
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.record import StudyRecord
from bert_lightning.studies.runner import PrintedLines, Reporter, Runner
from bert_lightning.studies.search.arm_search import ArmSearch, in_words
from bert_lightning.studies.search.database import Database, default_url, is_in_memory
from bert_lightning.studies.search.drawing import require_optuna
from bert_lightning.studies.search.planning import SearchedArm, searched_arms
from bert_lightning.studies.search.progress import SearchProgress
from bert_lightning.studies.search.settings import TABLES, SearchSettings, read_search
from bert_lightning.studies.search.space import Space
from bert_lightning.studies.study_file import Study, read_study
from bert_lightning.wording import count

# Keys of the section `search` that may change between two calls. `space` may not: it is compared after it was read.
_FREE = ("trials", "confirm_seeds", "timeout_seconds", "at_once", "space", "stage")


@dataclass(frozen=True)
class _Described:
    """A search, read from its study file.

    Attributes:
        study: the study.
        settings: its section `search`.
        arms: the searched arms, each with its space.
    """

    study: Study
    settings: SearchSettings
    arms: Sequence[tuple[SearchedArm, Space]]


def search(
    study: str | Path,
    directory: str | Path | None = None,
    jobs: int = 1,
    *,
    retry_failed: bool = False,
    storage: str | None = None,
    launcher: Launcher | None = None,
    reporter: Reporter | None = None,
    allow_modules: Sequence[str] = (),
) -> StudyRecord:
    """Search for the best settings of a study, as `bert-lightning search` does. The same call continues a search.

    The draw of a trial depends on the scores of earlier trials. Each trial is trained once per seed. The best trial
    is trained again with fresh seeds, because its own score, the best of several, is too good by chance.

    Args:
        study: the study file, with a section `search`.
        directory: the folder of the study; `studies/<name of the study>` by default.
        jobs: how many runs train at the same time. They share the cores and CUDA devices equally.
        retry_failed: whether the best trial trains again with those fresh seeds whose runs failed. Failed trials stay
            as they are, because the draws of later trials depend on the failure.
        storage: URL of the database; by default `search.db` in the folder.
        launcher: where the runs train; by default on this machine. Only this machine can stop trials early.
        reporter: receives messages about the progress; by default they are printed.
        allow_modules: modules that a `class_path` of an experiment may import.

    Returns:
        The record of the study, which is also in `study.json` of the folder. Its `search` holds the results.

    Raises:
        InputError: the file or an experiment has a fault, the folder or the database belongs to another study, or the
            search began with other settings.

    Example:
        ::

            record = bert_lightning.search("rates.yaml", jobs=2)
            print(record.search["arms"]["searched"]["best"])
    """
    described = _described(study, jobs, allow_modules)
    folder = folder_of(described.study, directory)
    url = _url(folder, storage)
    reporter = reporter or PrintedLines()
    record_in(folder, described.study)
    launcher = launcher or _launcher(described, jobs)
    with locked(folder):
        before = record_in(folder, described.study)
        known = {"id": uuid.uuid4().hex, **((before.search or {}) if before is not None else {})}
        record = replace(
            new_record(described.study, before),
            runs=before.of_arms if before is not None else (),
            search={**_entry(described), "id": known["id"], "arms": {}},
        )
        if before is None:
            # Mark the folder as that of this study, before the database is made in it.
            replace(record, search=None).write(folder)
        progress = SearchProgress(folder, before, described.settings.metric, retry_failed)
        courses = []
        upstreams: dict[tuple[str, str, int], PlannedRun] = {}
        for arm, space in described.arms:
            database = Database(url, arm.name, storage is None)
            settings = _begun(described, arm, space, database, jobs, known, is_own=storage is None)
            courses.append(ArmSearch(arm, settings, space, database, progress, upstreams, reporter.line))
        progress.courses = courses
        assert record.search is not None, "made above"
        record.search["at_once"] = courses[0].at_once
        for line in _first_lines(described, folder, courses, jobs):
            reporter.line(line)
        record = _SearchRunner(progress, launcher, reporter, record, courses, allow_modules).run()
    for line in _last_lines(record, folder):
        reporter.line(line)
    return record


def dry_run(
    study: str | Path,
    directory: str | Path | None,
    jobs: int,
    storage: str | None = None,
    allow_modules: Sequence[str] = (),
) -> list[str]:
    """Return the lines that describe what `search` would do. Nothing is written.

    Raises:
        InputError: as `search`.
    """
    described = _described(study, jobs, allow_modules)
    folder = folder_of(described.study, directory)
    _url(folder, storage)
    _launcher(described, jobs)
    before = record_in(folder, described.study)
    settings, num_seeds = described.settings, len(described.settings.trial_seeds)
    lines = [f"{described.study.name}: {described.study.question}".removesuffix(": ")]
    for arm, space in described.arms:
        done = ((before.search or {}) if before is not None else {}).get("arms", {}).get(arm.label, {})
        num = len([trial for trial in done.get("trials", []) if trial["state"] != "running"])
        lines.append(
            f"{arm.label}: {settings.trials} trials of {count(num_seeds, 'seed')}, {num} done; then "
            f"{count(len(settings.fresh_seeds), 'fresh seed')} of the best"
        )
        lines += [f"  {name}: {flow_yaml(part)}" for name, part in space.described().items()]
    lines.append(f"{settings.direction} {settings.metric}")
    return lines


def is_complete(record: StudyRecord) -> bool:
    """Return whether each searched arm has a best trial, and all of its fresh seeds finished."""
    assert record.search is not None, "the record of a search"
    arms = record.search["arms"]
    fresh = [run for run in record.runs if run.trial is None and run.arm in arms]
    return all(arm["best"] is not None for arm in arms.values()) and all(run.state == "finished" for run in fresh)


class _SearchRunner(Runner):
    """The runner of a search. It also records the results of the search so far."""

    def __init__(
        self,
        progress: SearchProgress,
        launcher: Launcher,
        reporter: Reporter,
        record: StudyRecord,
        courses: Sequence[ArmSearch],
        allowed: Sequence[str],
    ) -> None:
        super().__init__(progress, launcher, reporter, record, allowed)
        self._courses = courses
        self._found: list[dict[str, Any]] = []

    def _start(self, pool: ThreadPoolExecutor) -> None:
        """Start runs until the launcher trains as many as it can, and record new results of the search."""
        super()._start(pool)
        found = [each.outcome for each in self._courses]
        if any(now is not before for now, before in zip_longest(found, self._found)):
            self._found = found
            self._write()

    def _current_record(self) -> StudyRecord:
        runs = self._progress.recorded()
        known = {(run.stage, run.arm, run.seed) for run in runs}
        others = [run for run in self._others if (run.stage, run.arm, run.seed) not in known]
        assert self._record.search is not None, "the record of a search"
        found = {**self._record.search, "arms": {each.arm.label: each.outcome for each in self._courses}}
        return replace(self._record, runs=(*runs, *others), search=found)


def _described(study: str | Path, jobs: int, allowed: Sequence[str]) -> _Described:
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}; it must be at least 1")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError("search starts its own processes: set their number with trainer.devices, without torchrun")
    require_optuna()
    read = read_study(study)
    settings = read_search(read)
    arms = searched_arms(read, settings, allowed)
    return _Described(read, settings, [(arm, arm.space(settings)) for arm in arms])


def _url(folder: Path, storage: str | None) -> str:
    """Return the URL of the database.

    Raises:
        InputError: it is empty, or names a database in memory.
    """
    if storage is None:
        return default_url(folder)
    if not storage:
        raise InputError("--storage is empty: is a variable of the shell not set?")
    if is_in_memory(storage):
        raise InputError(f"--storage {storage} is in memory, and would end with this command: name a file")
    return storage


def _launcher(described: _Described, jobs: int) -> LocalLauncher:
    """Return the launcher of this machine, for the number of devices in the settings of the study file."""
    arms = [arm for arm, _ in described.arms]
    seed = described.settings.trial_seeds[0]
    return local_launcher([arm.run(arm.arm.name, {}, seed, {}) for arm in arms], jobs)


def _entry(described: _Described) -> dict[str, Any]:
    """Return the settings of a search for the record."""
    settings = described.settings
    values = plain(settings, "search", TABLES)
    values |= {"seeds": settings.trial_seeds, "confirm_seeds": settings.fresh_seeds}
    return {name: value for name, value in values.items() if value is not None}


def _begun(
    described: _Described,
    arm: SearchedArm,
    space: Space,
    database: Database,
    jobs: int,
    known: Mapping[str, Any],
    is_own: bool,
) -> SearchSettings:
    """Begin the search of an arm, or check that it began with the same settings; return these with `at_once`.

    Args:
        described: the search.
        arm: the arm.
        space: the space of the arm.
        database: the database of the arm's trials.
        jobs: how many runs train at the same time.
        known: the entry `search` of the record of the study.
        is_own: whether the database is the default one, in the folder of the study.

    Raises:
        InputError: it began with other settings, or in another folder. The message names the key.
    """
    settings = described.settings
    noted = database.settings
    at_once = settings.at_once or (noted or known).get("at_once") or _usual_at_once(settings, jobs)
    decides = _deciding(settings, arm, space)
    now = {"id": known["id"], "at_once": at_once, "decides": decides}
    if noted is not None and any(trial.state.is_finished() for trial in database.trials):
        if noted["id"] != known["id"] and not is_own:
            raise InputError(
                f"the database holds the search {arm.name!r} of another folder: continue it there, name another "
                "--storage, or give this study another name"
            )
        before = {**flattened(noted["decides"]), "search.at_once": noted["at_once"]}
        for key, value in {**flattened(decides), "search.at_once": at_once}.items():
            _check_same(described.study, key, before.pop(key, None), value)
        for key, value in before.items():
            _check_same(described.study, key, value, None)
        database.note(now)
    elif noted != now:
        # No trial has ended, so the search may begin again.
        database.begin(now, settings.direction)
    return replace(settings, at_once=at_once)


def _check_same(study: Study, key: str, before: object, now: object) -> None:
    if before != now:
        study.fail(
            f"{key} was {_shown(before)} when this search began, and is {_shown(now)} now, so the trials cannot be "
            "compared: restore the old value, or give the study another name or --directory",
            *(key.split(".")[:2] if key.startswith("search.") else []),
        )


def _shown(value: object) -> str:
    return "not set" if value is None else flow_yaml(value)


def _deciding(settings: SearchSettings, arm: SearchedArm, space: Space) -> dict[str, Any]:
    """Return all settings that influence the values and the scores of trials, as dotted keys in sections."""
    values = plain(settings, "search", TABLES)
    chosen = {name: value for name, value in values.items() if name not in _FREE}
    return {"search": {**chosen, "seeds": settings.trial_seeds, "space": space.described()}, **arm.fixed(settings)}


def _usual_at_once(settings: SearchSettings, jobs: int) -> int:
    """Return how many trials keep the jobs busy. Without a pruner, all seeds of a trial train at the same time."""
    return math.ceil(jobs / (1 if settings.pruner.over is not None else len(settings.trial_seeds)))


def _first_lines(described: _Described, folder: Path, courses: Sequence[ArmSearch], jobs: int) -> Iterator[str]:
    """Yield the lines printed before the search."""
    study, settings = described.study, described.settings
    yield f"{study.name}: {study.question}" if study.question else study.name
    seeds = ", ".join(map(str, settings.trial_seeds))
    arms = f" for each of {len(courses)} arms" if len(courses) > 1 else ""
    trials = f"{count(settings.trials, 'trial')}{arms}"
    yield f"{trials} in {folder}: {settings.direction} {settings.metric} over seeds {seeds}"
    for course in courses:
        if course.num_done:
            yield f"{course.arm.label}: {count(course.num_done, 'trial')} ended in earlier sessions"
    at_once = courses[0].at_once
    if settings.at_once is None and (at_once > 1 or _usual_at_once(settings, jobs) > 1):
        yield (
            f"at_once is {at_once} from now on, whatever --jobs is, because the draws depend on it; "
            f"`at_once: {at_once}` in the section search gives the same draws on another machine"
        )


def _last_lines(record: StudyRecord, folder: Path) -> Iterator[str]:
    """Yield the lines printed after the search: its results."""
    assert record.search is not None, "the record of a search"
    metric = record.search["metric"]
    for label, found in record.search["arms"].items():
        states = [trial["state"] for trial in found["trials"]]
        counts = {"complete": "complete", "pruned": "stopped early", "failed": "failed", "running": "not ended"}
        parts = [f"{states.count(state)} {words}" for state, words in counts.items() if state in states]
        yield f"{label}: {count(len(states), 'trial')}, {', '.join(parts)}"
        for trial in found["trials"]:
            if trial["state"] == "failed":
                yield f"failed: trial {trial['trial']}: {trial['message']}"
        best, fresh = found["best"], found["confirmation"]
        if best is None:
            yield "no trial is complete, so there is no best one"
            continue
        yield f"best: trial {best['trial']}, {metric} {best['score']:.4f}: {in_words(best['values'])}"
        for run in record.runs:
            if run.arm == label and run.trial is None and run.state != "finished":
                yield f"{run.state}: fresh seed {run.seed}: {run.message} ({folder / run.log})"
        if fresh is not None:
            amount = abs(fresh["optimism"])
            side = "worse than in the search" if fresh["optimism"] > 0 else "better than in the search"
            seeds = ", ".join(fresh["scores"])
            yield f"with fresh seeds {seeds}: {metric} {fresh['score']:.4f}, which is {amount:.4f} {side}"
