"""The measures of continual learning of a study whose stages are the tasks of a sequence."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from bert_lightning.metrics.continual import Matrix, Row, measures
from bert_lightning.metrics.direction import Better, better
from bert_lightning.reports.arms import Arm, Layout
from bert_lightning.reports.captions import caption_of
from bert_lightning.reports.cells import compared, summarised
from bert_lightning.reports.results import AccuracyMatrix, ArmResult, Metric, MetricCell, ResultTable
from bert_lightning.runs.sequence_end import KNOWN, SequenceScores
from bert_lightning.studies.comparison import Run

_MEASURES: Mapping[str, Better] = {
    "average accuracy": "max",
    "forgetting": "min",
    "backward transfer": "max",
    "forward transfer": "max",
    "learning accuracy": "max",
}
# The score that a matrix holds, if every task has it; otherwise the first one that every task has.
_USUAL = "accuracy"


def of_sequence(layout: Layout) -> bool:
    """Return whether the runs of a table belong to a sequence."""
    return any(_place(run) is not None for run in layout.runs)


def sequence_tables(layouts: Sequence[Layout], tables: Sequence[ResultTable]) -> list[ResultTable]:
    """Return the tables of measures of every sequence: one in which the task is known, and one in which it is not.

    Args:
        layouts: the tables of all stages without their numbers.
        tables: the same with their numbers, in the same order.
    """
    pairs = [pair for pair in zip(layouts, tables, strict=True) if of_sequence(pair[0]) and not pair[0].of_search]
    found: list[ResultTable] = []
    for _, group in groupby(pairs, key=lambda pair: pair[0].directory):
        members = list(group)
        found += _tables_of([layout for layout, _ in members], [table for _, table in members])
    return found


def _tables_of(layouts: Sequence[Layout], tables: Sequence[ResultTable]) -> Iterator[ResultTable]:
    rows = _Rows(layouts)
    metric = rows.metric(_wanted(tables[0]))
    if metric is None or len(rows.tasks) < 2:
        return
    known = f"{KNOWN}{metric}"
    forms = [("scores if the task is known", known), ("scores among the labels of all tasks", metric)]
    for name, form in forms if rows.has(known) else [("scores over the sequence", metric)]:
        yield _table(layouts, tables[-1], rows, form, name)


def _wanted(table: ResultTable) -> list[str]:
    return [metric.name.rpartition("/")[2] for metric in table.metrics]


class _Rows:
    """The scores of all runs of a sequence.

    Args:
        layouts: the tables of its stages.
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.arms: dict[str, Arm] = {}
        # Label of the arm -> seed -> task that was learned -> its scores.
        self._scores: dict[str, dict[int, dict[str, SequenceScores]]] = {}
        self.tasks: list[str] = []
        for layout in layouts:
            for arm in layout.arms:
                self.arms[arm.label] = arm
                for run in arm.runs:
                    scores = SequenceScores.read(run.directory.path)
                    if scores is not None:
                        self.tasks = self.tasks or scores.tasks
                        self._scores.setdefault(arm.label, {}).setdefault(run.seed, {})[scores.task] = scores

    def metric(self, wanted: Sequence[str]) -> str | None:
        """Return the score to compare: the first wanted one that all tasks have, or the usual one, or the first.

        Scores that are better when lower are left out, because the measures take a falling score for forgetting.
        """
        own = [
            set(of.scores.get(task, {}))
            for seeds in self._scores.values()
            for stages in seeds.values()
            for task, of in stages.items()
        ]
        shared = set.intersection(*own) if own else set()
        ordered = [*wanted, _USUAL, *sorted(shared)]
        usable = {name for name in shared if not name.startswith(KNOWN) and better(name) != "min"}
        return next((name for name in ordered if name in usable), None)

    def has(self, metric: str) -> bool:
        """Return whether any run has a score."""
        return any(
            metric in of_task
            for seeds in self._scores.values()
            for stages in seeds.values()
            for of in stages.values()
            for of_task in of.scores.values()
        )

    def matrices(self, label: str, metric: str) -> dict[int, tuple[Matrix, Row | None]]:
        """Return the matrix and the row before training of each seed that has every task."""
        found: dict[int, tuple[Matrix, Row | None]] = {}
        for seed, stages in self._scores.get(label, {}).items():
            if set(stages) == set(self.tasks):
                first = stages[self.tasks[0]].untrained
                before = [self._score(first, task, metric) for task in self.tasks] if first is not None else None
                rows = [
                    [self._score(stages[each].scores, task, metric) for task in self.tasks] for each in self.tasks
                ]
                found[seed] = (rows, before)
        return found

    def cell(self, label: str, metric: str, learned: str, task: str) -> MetricCell | None:
        """Return the scores on a task after another one was learned, over all seeds that have them."""
        values = {
            seed: value
            for seed, stages in self._scores.get(label, {}).items()
            if learned in stages and (value := self._score(stages[learned].scores, task, metric)) is not None
        }
        return summarised(f"{task} after {learned}", values) if values else None

    @staticmethod
    def _score(scores: Mapping[str, Mapping[str, float]], task: str, metric: str) -> float | None:
        """Return a score; None if it was not measured.

        If a task has all labels, it makes no difference whether the task is known, so only the plain score is stored.
        """
        of_task = scores.get(task, {})
        return of_task.get(metric, of_task.get(metric.removeprefix(KNOWN)))


def _table(layouts: Sequence[Layout], last: ResultTable, rows: _Rows, metric: str, name: str) -> ResultTable:
    layout, labels = layouts[-1], list(rows.arms)
    of_arms = {label: rows.matrices(label, metric) for label in labels}
    found = {label: {seed: measures(*of_seed) for seed, of_seed in seeds.items()} for label, seeds in of_arms.items()}
    columns = [
        Metric(measure, direction)
        for measure, direction in _MEASURES.items()
        if any(measure in values for seeds in found.values() for values in seeds.values())
    ]
    margin = layout.record.compare.equivalence if layout.record is not None else None
    cells = {
        column.name: compared(
            column,
            {
                label: {seed: values[column.name] for seed, values in seeds.items() if column.name in values}
                for label, seeds in found.items()
            },
            last.baseline,
            margin,
        )
        for column in columns
    }
    ends = {arm.label: arm.runs for arm in layout.arms}
    arms = tuple(
        ArmResult(
            label,
            rows.arms[label].values,
            _whole(ends.get(label, ()), of_arms[label]),
            {column: by_arm[label] for column, by_arm in cells.items() if label in by_arm},
            label == last.baseline,
        )
        for label in labels
    )
    return ResultTable(
        title=f"{layout.record.study if layout.record is not None else layout.title}: {name}",
        task=layout.task,
        metrics=tuple(columns),
        arms=arms,
        study=last.study,
        stage=last.stage,
        question=last.question,
        directory=last.directory,
        baseline=last.baseline,
        caption=(*_caption(rows, metric), *caption_of(columns, arms, last.baseline, margin, None)),
        matrices=tuple(_matrix(rows, label, metric) for label in labels if of_arms[label]),
    )


def _whole(runs: Sequence[Run], seeds: Mapping[int, object]) -> tuple[Run, ...]:
    return tuple(run for run in runs if run.seed in seeds)


def _matrix(rows: _Rows, label: str, metric: str) -> AccuracyMatrix:
    cells = tuple(tuple(rows.cell(label, metric, learned, task) for task in rows.tasks) for learned in rows.tasks)
    return AccuracyMatrix(label, tuple(rows.tasks), cells)


def _caption(rows: _Rows, metric: str) -> Iterator[str]:
    yield (
        f"The tasks are {', then '.join(rows.tasks)}. After each of them, the {metric.removeprefix(KNOWN)} on the "
        "validation data of every task was measured."
    )
    if metric.startswith(KNOWN):
        yield "Of the labels, only those of the example's own task could be chosen."
    yield (
        "Average accuracy is the mean over all tasks at the end. Forgetting is the best score before the end minus "
        "the score at the end, over all tasks except the last (Chaudhry et al. 2018). Backward transfer is the score "
        "at the end minus the score right after the task was learned. Forward transfer is the score right before a "
        "task was learned minus that of the untrained model (Lopez-Paz and Ranzato 2017). Learning accuracy is the "
        "score right after each task was learned."
    )


def _place(run: Run) -> object:
    return run.config.get("sequence")
