"""`ablate`: train all runs of a study that are not finished, in its folder."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bert_lightning.checkpoints.listing import entries
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.lock import DirectoryLock
from bert_lightning.studies.estimates import Estimates
from bert_lightning.studies.launchers import Launcher, LocalLauncher, check_shares, visible_devices
from bert_lightning.studies.plan import MANY_RUNS, RUNS, PlannedRun, count_runs, plan_runs, with_earlier_stages
from bert_lightning.studies.progress import Progress
from bert_lightning.studies.record import (
    DATABASE,
    STALE,
    SUBMITIT,
    SWEEP,
    SWEEP_ARMS,
    UNFINISHED,
    StudyRecord,
    remove_leftovers,
)
from bert_lightning.studies.record import NAME as STUDY
from bert_lightning.studies.runner import PrintedLines, Reporter, Runner
from bert_lightning.studies.study_file import Study, read_study
from bert_lightning.version import __version__
from bert_lightning.wording import count, duration

# The most runs that a message names one by one, and the most lines of a plan.
_NAMED, _LONGEST_PLAN = 5, 40


def ablate(
    study: str | Path,
    directory: str | Path | None = None,
    jobs: int = 1,
    *,
    stages: Sequence[str] = (),
    retry_failed: bool = False,
    many: bool = True,
    launcher: Launcher | None = None,
    reporter: Reporter | None = None,
    allow_modules: Sequence[str] = (),
) -> StudyRecord:
    """Train all runs of a study, as `bert-lightning ablate` does. If it ends early, the same call resumes it.

    Finished runs are not repeated, interrupted runs resume bit for bit, and failed runs are not tried again.

    Args:
        study: the study file.
        directory: the folder of the study; `studies/<name of the study>` by default.
        jobs: how many runs train at the same time. They share the cores and CUDA devices equally.
        stages: names of the stages to train now. The stages that they start from are added. All stages by default.
        retry_failed: whether to train failed runs again.
        many: whether more than 100 runs are allowed.
        launcher: where the runs train; by default on this machine.
        reporter: receives messages about the progress; by default they are printed.
        allow_modules: modules that a `class_path` of an experiment may import.

    Returns:
        The record of the study, which is also in `study.json` of the folder.

    Raises:
        InputError: the file or an experiment has a fault, or the folder belongs to another study. No run was started.

    Example:
        ::

            record = bert_lightning.ablate("nsp.yaml", jobs=2)
            print([run.directory for run in record.of_state("failed")])
    """
    check_jobs(jobs)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError("ablate starts its own processes: set their number with trainer.devices, without torchrun")
    described = read_study(study)
    chosen = with_earlier_stages(described, stages)
    check_number(described, many, chosen)
    plan = plan_runs(described, allow_modules)
    folder = folder_of(described, directory)
    reporter = reporter or PrintedLines()
    launcher = launcher or local_launcher(plan, min(jobs, len(plan)))
    record_in(folder, described)
    with locked(folder):
        remove_leftovers(folder)
        before = record_in(folder, described)
        progress = Progress(folder, plan, before)
        progress.stages = chosen
        if retry_failed:
            progress.retry_failed()
        for line in summary(described, progress, before):
            reporter.line(line)
        progress.reduce_finished()
        record = Runner(progress, launcher, reporter, new_record(described, before), allow_modules).run()
    for line in conclusion(record, folder, chosen):
        reporter.line(line)
    return record


def dry_run(
    study: str | Path,
    directory: str | Path | None,
    jobs: int,
    stages: Sequence[str] = (),
    allow_modules: Sequence[str] = (),
    *,
    is_local: bool = True,
) -> list[str]:
    """Return the lines that describe what `ablate` would do. Nothing is written.

    If the runs train on this machine (`is_local`), its devices are checked.

    Raises:
        InputError: as `ablate`.
    """
    check_jobs(jobs)
    described = read_study(study)
    chosen = with_earlier_stages(described, stages)
    plan = plan_runs(described, allow_modules)
    folder = folder_of(described, directory)
    before = record_in(folder, described)
    jobs = min(jobs, len(plan))
    if is_local:
        local_launcher(plan, jobs)
    progress = Progress(folder, plan, before)
    progress.stages = chosen
    lines = [*summary(described, progress, before), *_table(progress, jobs)]
    if len(progress.chosen) > MANY_RUNS:
        lines.append(f"more than {MANY_RUNS} runs need --yes")
    return lines


def folder_of(study: Study, directory: str | Path | None) -> Path:
    """Return the folder of a study."""
    return Path(directory) if directory is not None else Path("studies") / study.name


def check_jobs(jobs: int) -> None:
    """Check the number of runs that train at the same time.

    Raises:
        InputError: it is less than 1.
    """
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}; it must be at least 1")


def check_number(study: Study, many: bool, stages: Sequence[str] = ()) -> None:
    """Refuse to start more than 100 runs unless the user has allowed it.

    Args:
        study: the study.
        many: whether more than 100 runs are allowed.
        stages: the stages that train; if empty, all stages.

    Raises:
        InputError: the stages have more than 100 runs, and `many` is not set.
    """
    num = count_runs(study, stages)
    if num > MANY_RUNS and not many:
        some = 0 < len(stages) < len(study.stages)
        owner = f"--stage names {', '.join(stages)} with" if some else "the study has"
        study.fail(
            f"{owner} {num:,} runs, and more than {MANY_RUNS} are started only with --yes; "
            "--dry-run shows them and the time that they take"
        )


def local_launcher(plan: Sequence[PlannedRun], jobs: int) -> LocalLauncher:
    """Return the launcher of this machine for a plan.

    Args:
        plan: the runs.
        jobs: how many train at the same time.

    Raises:
        InputError: the CUDA devices are too few for this number of runs.
    """
    on_gpu = [run.experiment.trainer for run in plan if run.experiment.trainer.accelerator != "cpu"]
    devices = visible_devices() if on_gpu else []
    if jobs > 1:
        check_shares(jobs, devices, max((trainer.devices for trainer in on_gpu), default=1))
    return LocalLauncher(jobs, devices if jobs > 1 else ())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a study, so that no other command trains its runs at the same time.

    Raises:
        InputError: another process holds the lock.
    """
    lock = DirectoryLock(folder, "runs a study")
    lock.take()
    try:
        yield
    finally:
        lock.close()


def record_in(folder: Path, study: Study) -> StudyRecord | None:
    """Return the record of a study in its folder; None if there is none yet.

    Raises:
        InputError: the folder holds another study or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: the folder of a study is expected")
    if StudyRecord.exists(folder):
        record = StudyRecord.read(folder)
        if record.study != study.name:
            raise InputError(
                f"{folder} holds the study {record.study!r}, not {study.name!r}: choose another --directory"
            )
        return record
    if RunDirectory(folder).exists:
        raise InputError(f"{folder} is a run directory: choose another --directory for the study")
    others = [path.name for path in entries(folder) if not _is_ours(path.name)] if folder.is_dir() else []
    if others:
        raise InputError(
            f"{folder} is not empty and holds no study ({', '.join(others[:_NAMED])}): choose another --directory"
        )
    return None


def _is_ours(name: str) -> bool:
    """Return whether commands of this package write a file of that name into the folder of a study."""
    return name in (RUNS, SUBMITIT, SWEEP, SWEEP_ARMS) or name.startswith((f"{STUDY}.", DATABASE))


def new_record(study: Study, before: StudyRecord | None) -> StudyRecord:
    """Return the record of a study before its runs are added. It keeps the runs of searches."""
    return StudyRecord(
        study=study.name,
        question=study.question,
        file=study.text,
        version=__version__,
        stages=tuple(stage.name for stage in study.stages),
        runs=before.of_searches if before is not None else (),
        compare=study.compare,
        published=study.published,
        search=before.search if before is not None else None,
    )


def summary(study: Study, progress: Progress, before: StudyRecord | None) -> list[str]:
    """Return the lines printed before a study runs: its question, states of its runs, stale and removed runs."""
    runs = progress.chosen.values()
    states = Counter(run.state for run in runs)
    counts = ", ".join(f"{num} {state}" for state, num in states.items())
    lines = [f"{study.name}: {study.question}" if study.question else study.name]
    others = len(progress.runs) - len(runs)
    lines.append(f"{count(len(runs), 'run')} in {progress.folder}: {counts}")
    if others:
        lines.append(f"{_counted(others, 'run')} in other stages, which do not train now")
    if before is not None and before.version != __version__:
        lines.append(f"the study began with version {before.version} of this package, and this is {__version__}")
    gone = _unplanned(progress, before)
    if gone:
        lines.append(f"{_counted(len(gone), 'run')} no longer in the study, left on the disk: {_named(gone)}")
    stale = [run.directory for run in runs if run.state == "failed" and run.message == STALE]
    if stale:
        lines.append(
            f"{_counted(len(stale), 'run')} stale, because an earlier run was trained again and its weights have "
            f"changed: {_named(stale)}; --retry-failed renames their folders and trains them from the start"
        )
    return lines


def conclusion(record: StudyRecord, folder: Path, stages: Sequence[str]) -> list[str]:
    """Return the lines printed after some stages of a study: how many runs finished, and why the others did not."""
    runs = [run for run in record.of_arms if run.stage in stages]
    finished = [run for run in runs if run.state == "finished"]
    lines = [f"{len(finished)} of {len(runs)} runs finished"]
    for run in runs:
        if run.state in ("failed", "interrupted"):
            log = folder / run.log
            lines.append(f"{run.state}: {run.stage}, {run.arm}, seed {run.seed}: {run.message} ({log})")
    for state in ("blocked", "waiting"):
        if num := len([run for run in runs if run.state == state]):
            lines.append(f"{num} {state}, because an earlier run did not finish")
    return lines


def _unplanned(progress: Progress, before: StudyRecord | None) -> list[str]:
    """Return the run directories in the folder of a study that belong to no run of its plan, nor to a search."""
    known = {run.directory for run in progress.runs.values()}
    known |= {run.directory for run in (before.of_searches if before is not None else ())}
    found = sorted(path.parent for path in (progress.folder / RUNS).glob("*/*/config.yaml"))
    return [name for path in found if (name := str(path.relative_to(progress.folder))) not in known]


def _table(progress: Progress, jobs: int) -> Iterator[str]:
    """Yield a line per stage and arm: number of runs, number of runs left, and the estimated time of these."""
    estimates = Estimates(progress.folder, progress.runs)
    rows: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in progress.chosen:
        rows.setdefault((run.stage, run.arm.name), []).append(run)
    total, num_unknown = estimates.all_seconds_left(progress.chosen)
    for number, ((stage, arm), runs) in enumerate(rows.items()):
        if number == _LONGEST_PLAN:
            yield f"  and {count(len(rows) - _LONGEST_PLAN, 'arm')} more"
            break
        recorded = {run: progress.runs[run] for run in runs}
        num_left = sum(each.state in UNFINISHED for each in recorded.values())
        seconds, unknown = estimates.all_seconds_left(recorded)
        time = "" if num_left == 0 else ", no estimate" if unknown else f", about {duration(seconds)}"
        yield f"  {stage}, {arm}: {count(len(runs), 'run')}, {num_left} to train{time}"
    if num_unknown:
        yield f"no estimate for {count(num_unknown, 'run')}, because no run of the same stage has finished"
    if total:
        yield f"about {duration(math.ceil(total / jobs))} with --jobs {jobs}"


def _counted(num: int, noun: str) -> str:
    return f"{num} {noun} is" if num == 1 else f"{num} {noun}s are"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
