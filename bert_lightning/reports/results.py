"""Results of runs and studies as values: the content of a report, independent of its format."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bert_lightning.config.published import Published, compared
from bert_lightning.metrics.direction import Better
from bert_lightning.studies.comparison import Run
from bert_lightning.wording import count


@dataclass(frozen=True)
class Metric:
    """A column of a table.

    Attributes:
        name: the metric, such as `val/accuracy`.
        better: the better direction, `max` or `min`; None if it is unknown. Then no value is marked as the best.
    """

    name: str
    better: Better | None


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure beside ours.

    Attributes:
        figure: metric, value, tolerance and source.
        reached: our mean; None if it was not measured or is not finite.
        within: whether `reached` is within the tolerance.
    """

    figure: Published
    reached: float | None
    within: bool | None


@dataclass(frozen=True)
class MetricCell:
    """One metric of one arm, over its seeds.

    Attributes:
        metric: its name.
        values: seed -> value. If a value is not finite, all statistics are None.
        mean: arithmetic mean.
        sd: standard deviation with n - 1; None for a single seed.
        median: middle value.
        minimum: smallest value.
        maximum: largest value.
        mean_interval: t interval of the mean; None for a single seed.
        difference: mean minus that of the baseline; None in the baseline itself, without a baseline, and if a value
            is not finite.
        interval: confidence interval of the difference; None if n is too small.
        p: p-value of the difference, without correction.
        p_adjusted: p-value after Holm's correction over the arms of the table, per metric.
        test: name of the test.
        exact_p: p-value of the exact test of the same values; None if it could not reach the significance level, or
            if there are too many runs to count all cases.
        exact_test: name of the exact test.
        equivalent: whether the arms are shown to be equivalent within the margin of the study; None without a margin.
        crossed_interval: interval of the difference over seeds and examples; None without predictions.
        best: whether this is the best mean of the table.
        not_worse: whether this arm is not the best, but not shown to be worse than the best arm.
        published: published figures for this metric.
        scored: the checkpoint that was scored: `last`, `best`, or a step.
        notes: whole sentences about this number.
    """

    metric: str
    values: Mapping[int, float]
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    mean_interval: tuple[float, float] | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    test: str | None = None
    exact_p: float | None = None
    exact_test: str | None = None
    equivalent: bool | None = None
    crossed_interval: tuple[float, float] | None = None
    best: bool = False
    not_worse: bool = False
    published: tuple[PublishedFigure, ...] = ()
    scored: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)


@dataclass(frozen=True)
class ArmResult:
    """One arm of a table: runs that differ only in their seed.

    Attributes:
        label: its name in the table.
        values: axis -> value. The axes of all arms of a table are the same, unless arms are named.
        runs: its finished runs, by seed.
        cells: metric -> cell. Metrics that no run has are left out.
        is_baseline: whether the others are compared with it.
        missing: its runs that are not in the table.
        trial: its number in a search.
        unmeasured: published figures of metrics that its runs do not have.
    """

    label: str
    values: Mapping[str, object]
    runs: tuple[Run, ...]
    cells: Mapping[str, MetricCell]
    is_baseline: bool = False
    missing: tuple["NotInTable", ...] = ()
    trial: int | None = None
    unmeasured: tuple[PublishedFigure, ...] = ()


@dataclass(frozen=True)
class NotInTable:
    """A run that is not in the table.

    Attributes:
        arm: label of its arm.
        seed: its seed.
        state: `failed`, `interrupted`, `unfinished`, `blocked`, `pruned`, `waiting`, `running`, `damaged`, `missing`,
            `stale`, or `repeated` for a second run of one seed.
        directory: its run directory, which may not exist yet.
        message: its last message, on one line; empty if there is none.
        run: its content, for curves; None if it logged nothing.
    """

    arm: str
    seed: int
    state: str
    directory: Path
    message: str = ""
    run: Run | None = None


@dataclass(frozen=True)
class Confound:
    """A difference between arms besides the axis.

    Attributes:
        what: its name, such as `version of torch`.
        values: label of an arm -> the values of its runs.
        explained_by: the axis or stage that explains it, which makes it a consequence; None for a confound.
    """

    what: str
    values: Mapping[str, tuple[str, ...]]
    explained_by: str | None = None


@dataclass(frozen=True)
class AccuracyMatrix:
    """The scores of one arm on every task after every task of a sequence.

    Attributes:
        label: the arm.
        tasks: the tasks, in the order in which they were learned.
        cells: a row for each task that was learned, and in it a cell for each task; None where nothing was measured.
    """

    label: str
    tasks: tuple[str, ...]
    cells: tuple[tuple[MetricCell | None, ...], ...]


@dataclass(frozen=True)
class ResultTable:
    """Arms and metrics of one stage, task and data set.

    Attributes:
        title: its study and stage, or its task, such as `nsp: rte`.
        task: name of the task.
        metrics: its columns.
        arms: its rows.
        study: name of the study; None for runs outside studies.
        stage: stage of the study; None if it has only one.
        question: the question that the study asks.
        directory: folder of the study, which contains `study.json`.
        baseline: label of the arm that the others are compared with.
        caption: whole sentences: spread, test, correction, n, and the checkpoint that was scored. Each format adds
            the meaning of its marks, and the notes of the cells.
        confounds: differences between arms; those with `explained_by` are consequences of the axis.
        missing: runs that are not in the table.
        search: the entry `search` of `study.json`, if the rows are trials.
        failures: label of an arm -> a sentence that compares its failed runs with those of the baseline.
        matrices: the scores of each arm on every task of a sequence, if the columns are measures of them.
        margin: the margin of equivalence, in units of the metrics; None if the study has none.
    """

    title: str
    task: str
    metrics: tuple[Metric, ...]
    arms: tuple[ArmResult, ...]
    study: str | None = None
    stage: str | None = None
    question: str | None = None
    directory: Path | None = None
    baseline: str | None = None
    caption: tuple[str, ...] = ()
    confounds: tuple[Confound, ...] = ()
    missing: tuple[NotInTable, ...] = ()
    search: Mapping[str, Any] | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    matrices: tuple[AccuracyMatrix, ...] = ()
    margin: float | None = None

    def cells(self) -> Iterator[tuple[ArmResult, MetricCell]]:
        """Yield each arm with its cell, metric after metric."""
        for metric in self.metrics:
            for arm in self.arms:
                if metric.name in arm.cells:
                    yield arm, arm.cells[metric.name]


@dataclass(frozen=True)
class OverallArm:
    """One arm over several tasks.

    Attributes:
        label: its name, the same in the tables of all tasks.
        cell: the average over tasks of each seed, and its difference to the baseline. A seed that lacks a task is not
            among its values.
        tasks: the numbers of tasks on which its mean is better than that of the baseline, equal, and worse; None for
            the baseline, and if there is no difference.
        is_baseline: whether the others are compared with it.
    """

    label: str
    cell: MetricCell
    tasks: tuple[int, int, int] | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class Overall:
    """The comparison of the arms of several tables over all of their tasks.

    Attributes:
        title: its title, such as `glue: over all tasks`.
        tasks: title of the table of each task -> the metric that represents the task.
        arms: the arms, in the order of the first table.
        baseline: label of the arm that the others are compared with.
        caption: whole sentences.
    """

    title: str
    tasks: Mapping[str, str]
    arms: tuple[OverallArm, ...]
    baseline: str
    caption: tuple[str, ...]


@dataclass(frozen=True)
class ChecklistItem:
    """One line of the reproducibility checklist.

    Attributes:
        question: the item.
        answer: the answer, from the records of the runs.
    """

    question: str
    answer: str


@dataclass(frozen=True)
class Results:
    """Everything that a report shows.

    Attributes:
        tables: one per stage, task and data set.
        checklist: the reproducibility checklist; empty unless it was asked for.
        ranges: whether to show median, smallest and largest value besides mean and standard deviation.
        overall: the comparisons of arms over several tasks, for tables with the same arms.
    """

    tables: tuple[ResultTable, ...]
    checklist: tuple[ChecklistItem, ...] = ()
    ranges: bool = False
    overall: tuple[Overall, ...] = ()

    @property
    def unexplained(self) -> tuple[Confound, ...]:
        """The confounds that no axis explains."""
        return tuple(each for table in self.tables for each in table.confounds if each.explained_by is None)


def command_of(run: Run) -> str:
    """Return the command that trained a run, from its manifest; empty if it is not recorded."""
    command = str((run.manifest.get("sessions") or [{}])[-1].get("command", ""))
    # Manifests of earlier versions hold the name of the file that `python -m bert_lightning` runs.
    return command.replace("__main__.py", "bert-lightning", 1) if command.startswith("__main__.py ") else command


def repetition_of(run: Run) -> str:
    """Return the command that trains a run again and compares every metric."""
    return shlex.join(["bert-lightning", "reproduce", run.name])


def origin_text(run: Run) -> str:
    """Return the number of steps and the commit of a run as text."""
    git = (run.manifest.get("sessions") or [{}])[-1].get("git") or {}
    commit = f"commit {git['commit'][:10]}" if git.get("commit") else "outside a repository"
    steps = count(run.manifest.get("step", run.rows[-1]["step"]), "step")
    return f"{steps}, {commit}" + (" with changed files" if git.get("modified") else "")


def published_lines(arm: ArmResult) -> list[str]:
    """Return a line per published figure of an arm: value, tolerance, source, our mean and whether it is within."""
    figures = [each for cell in arm.cells.values() for each in cell.published] + list(arm.unmeasured)
    means = {name: cell.mean for name, cell in arm.cells.items() if cell.mean is not None}
    return list(compared([each.figure for each in figures], means))
