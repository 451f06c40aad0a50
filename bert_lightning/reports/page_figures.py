"""The figures of one table of a report's page."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count

from bert_lightning.reports.figures.curves import (
    BASELINES,
    Learner,
    Learners,
    distance,
    draw_curves,
    has_curve,
    known_axes,
    legend_mark,
    unit_of,
)
from bert_lightning.reports.figures.points import Cost, SeedRow, draw_front, draw_seeds
from bert_lightning.reports.figures.progress import Axis, Progress
from bert_lightning.reports.figures.scales import short
from bert_lightning.reports.figures.sequences import draw_task
from bert_lightning.reports.figures.svg import Style
from bert_lightning.reports.page_search import search_sections
from bert_lightning.reports.page_sections import Picture, Section, picture_of
from bert_lightning.reports.page_tables import arm_target, run_target
from bert_lightning.reports.results import ArmResult, Metric, MetricCell, ResultTable
from bert_lightning.studies.comparison import Run
from bert_lightning.training.throughput import THROUGHPUT_METRICS

# With more arms, the colour shows the rank, because there are not enough colours, dashes and marks.
_MOST_STYLES = 16
# A figure of points with more rows is folded away. This many figures of curves are shown, and this many folded.
_MOST_ROWS, _MOST_CURVES, _MOST_FOLDED = 24, 6, 24
# The most points in all curves of a page, which limits it to a few megabytes, and the limits for one curve.
_POINTS_OF_PAGE, _FEWEST_POINTS, _MOST_POINTS = 120_000, 12, 120
AXIS_NAMES: Mapping[str, str] = {
    "steps": "steps",
    "tokens": "tokens",
    "seconds": "wall clock",
    "parameters": "parameters",
    "trained": "trained parameters",
    "memory": "GB of memory",
}
# Costs that are numbers in the manifest -> their keys there.
_COUNTS = {"parameters": "parameters", "trained": "trained_parameters"}
# Costs that do not measure how far a training has come, unlike steps, tokens and seconds.
_SIZES = (*_COUNTS, "memory")
_MEMORY = "train/peak_memory_gb"


class TableFigures:
    """The figures of a table.

    Args:
        table: the table.
        number: its number in the page.
        progress: id of a run -> its progress.
        num_runs: number of runs in all tables of the page, among which its points are divided.
    """

    def __init__(self, table: ResultTable, number: int, progress: Mapping[int, Progress], num_runs: int) -> None:
        self._table, self._number, self._progress, self._num_runs = table, number, progress, num_runs
        self._styles = _styles(table)
        self._ranked = len(table.arms) > _MOST_STYLES
        self._learners = [self._arm(arm, row) for row, arm in enumerate(table.arms)]

    def sections(self) -> Iterator[Section]:
        """Yield the sections that have at least one figure."""
        if self._table.matrices:
            yield self._sequence()
            yield self._seeds()
            return
        candidates = [*search_sections(self._table, self._number), self._seeds(), self._curves(), self._front()]
        yield from (section for section in candidates if section.pictures or section.folded)

    @property
    def _legend(self) -> tuple[tuple[str, str], ...]:
        if self._ranked or len(self._table.arms) < 2:
            return ()
        arms = zip(self._table.arms, self._styles, strict=True)
        return tuple((arm.label, legend_mark(style)) for arm, style in arms if arm.runs)

    def _arm(self, arm: ArmResult, row: int) -> Learners:
        runs = [
            Learner(f"{arm.label}, seed {run.seed}", run_target(self._number, row, place), self._progress[id(run)])
            for place, run in enumerate(arm.runs)
        ]
        others = [
            Learner(f"{arm.label}, seed {other.seed}, {other.state}", f"missing-{self._number}", Progress(other.run))
            for other in arm.missing
            if other.run is not None
        ]
        return Learners(arm.label, self._styles[row], runs, others)

    # -- one point per seed ----------------------------------------------------------------------------------------

    def _seeds(self) -> Section:
        arms, guesses = self._table.arms, {name for names in BASELINES.values() for name in names}
        cells = [cell for arm in arms for cell in arm.cells.values()]
        pictures = tuple(
            self._points(metric)
            for metric in self._table.metrics
            if metric.name not in guesses and sum(cell.n for cell in cells if cell.metric == metric.name) > 1
        )
        caption = "A point is a run."
        if any(cell.mean_interval for cell in cells):
            caption += (
                " The tall line is the mean of an arm, and the thin one its 95 % interval. An arrow marks an interval"
                " that is cut because it is much wider than the range of the points."
            )
        if len(arms) > 1 and any(arm.is_baseline and arm.runs for arm in arms):
            caption += " The dashed line is the mean of the baseline."
        if any(cell.published for cell in cells):
            caption += " The shaded box is a published figure with its tolerance."
        long = len(self._table.arms) > _MOST_ROWS or any(arm.trial is not None for arm in self._table.arms)
        return Section("One point per seed", () if long else pictures, pictures if long else (), caption=caption)

    def _points(self, metric: Metric) -> Picture:
        rows = []
        for row, (arm, style) in enumerate(zip(self._table.arms, self._styles, strict=True)):
            cell = arm.cells.get(metric.name)
            if cell is not None and cell.values:
                rows.append(SeedRow(arm.label, style, cell, self._target_of(row, arm.runs), arm.is_baseline))
        return picture_of(metric.name, {"": lambda: draw_seeds(metric.name, rows)})

    def _target_of(self, row: int, runs: Sequence[Run]) -> Callable[[int], str]:
        places = {run.seed: run_target(self._number, row, place) for place, run in enumerate(runs)}
        return lambda seed: places.get(seed, arm_target(self._number, row))

    # -- sequences of tasks --------------------------------------------------------------------------------------

    def _sequence(self) -> Section:
        matrices = self._table.matrices
        by_label = {arm.label: style for arm, style in zip(self._table.arms, self._styles, strict=True)}
        styles = [by_label[matrix.label] for matrix in matrices]

        def drawing(number: int) -> Callable[[], str]:
            return lambda: draw_task(number, matrices, styles)

        tasks = matrices[0].tasks
        return Section(
            "Each task over the sequence",
            tuple(picture_of(task, {"": drawing(number)}) for number, task in enumerate(tasks)),
            caption="A figure shows one task, after each task that was learned; the upright line marks where this "
            "task was learned. A line is the mean over the seeds of an arm, and its band reaches from the lowest to "
            "the highest of them.",
            legend=self._legend,
        )

    # -- learning curves -------------------------------------------------------------------------------------------

    def _curves(self) -> Section:
        shown, folded = (
            [name for name in names if has_curve(name, self._learners)] for names in curve_quantities(self._table)
        )
        found = [*shown, *folded][: _MOST_CURVES + _MOST_FOLDED]
        num_shown = min(len(shown), _MOST_CURVES)
        axes = known_axes(self._learners)
        lines = 2 * max(1, len(found)) * max(1, len(axes)) * max(1, self._num_runs)
        points = max(_FEWEST_POINTS, min(_MOST_POINTS, _POINTS_OF_PAGE // lines))
        pictures = [self._curve(name, axes, points) for name in found]
        several = any(len(arm.runs) > 1 for arm in self._learners)
        return Section(
            "Learning curves",
            tuple(pictures[:num_shown]),
            tuple(pictures[num_shown:]),
            tuple(axes),
            self._curves_caption(axes, several),
            several or any(arm.unfinished for arm in self._learners),
            self._legend,
        )

    def _curve(self, quantity: str, axes: Sequence[Axis], points: int) -> Picture:
        def drawing(axis: Axis) -> Callable[[], str]:
            return lambda: draw_curves(quantity, self._learners, axis, points)

        return picture_of(quantity, {axis: drawing(axis) for axis in axes})

    def _curves_caption(self, axes: Sequence[str], several: bool) -> str:
        sentences = []
        if several:
            sentences.append(
                "A line is the mean over the seeds of an arm, and its band reaches from the lowest to the highest "
                "seed. Both end where the first seed ended."
            )
        sentences.append(
            "Faint lines are training, if validation is shown too. The vertical axis fits the curves after the first "
            "fifth."
        )
        if self._ranked:
            sentences.append("The stronger the colour of an arm, the better its mean; the best arm is orange.")
        if "seconds" in axes:
            sentences.append("Wall clock is training time, without pauses and without work that a kill lost.")
        if "tokens" in axes:
            sentences.append("Tokens are counted without padding.")
            lacking = [arm.name for arm in self._learners if arm.runs and not _all_have("tokens", arm)]
            if lacking:
                sentences.append(f"The records of {', '.join(lacking)} do not give the number of tokens.")
        return " ".join(sentences)

    # -- score against cost ----------------------------------------------------------------------------------------

    def _front(self) -> Section:
        axes = [axis for axis in ("seconds", "tokens", "steps", *_SIZES) if len(self._costs(axis)) > 1]
        # Costs that are equal for all arms are left out.
        axes = [axis for axis in axes if _differ(self._costs(axis).values())]
        metrics = [metric for metric in self._table.metrics if metric.better is not None]
        pictures = [self._front_of(metric, axes) for metric in metrics] if axes else []
        pictures = [picture for picture in pictures if picture.drawings]
        return Section(
            "Score against cost",
            tuple(pictures[:_MOST_CURVES]),
            tuple(pictures[_MOST_CURVES:]),
            tuple(axes),
            "A point has the mean score and the mean cost of an arm. The line is the Pareto front: the arms that no "
            "other arm beats at the same or lower cost. The other points are hollow.",
            legend=self._legend,
        )

    def _costs(self, axis: str) -> dict[int, float]:
        """Return the mean cost of each arm whose runs all have one, by its row."""
        costs = {}
        for row, (arm, learners) in enumerate(zip(self._table.arms, self._learners, strict=True)):
            values = [
                _cost(axis, run, learner.progress) for run, learner in zip(arm.runs, learners.runs, strict=True)
            ]
            known = [value for value in values if value is not None]
            if known and len(known) == len(values):
                costs[row] = sum(known) / len(known)
        return costs

    def _front_of(self, metric: Metric, axes: Sequence[str]) -> Picture:
        def drawing(axis: str, points: Sequence[Cost]) -> Callable[[], str]:
            def words(value: float) -> str:
                return f"{short(value)} {AXIS_NAMES[axis]}" if axis in _SIZES else distance(_as_axis(axis), value)

            unit, label = unit_of(_as_axis(axis), max(point.cost for point in points))
            label = AXIS_NAMES[axis] if axis in _SIZES else label
            return lambda: draw_front(metric, points, label, words, unit)

        drawings = {}
        for axis in axes:
            points = [
                Cost(arm.label, self._styles[row], cost, mean, arm_target(self._number, row))
                for row, cost in self._costs(axis).items()
                if (mean := _mean((arm := self._table.arms[row]).cells.get(metric.name))) is not None
            ]
            if len(points) > 1:
                drawings[axis] = drawing(axis, points)
        return picture_of(metric.name, drawings)


def _styles(table: ResultTable) -> list[Style]:
    """Return the style of each arm: by its number, or by the rank of its first metric if there are many arms."""
    arms = table.arms
    if len(arms) <= _MOST_STYLES:
        # The baseline has the colour of the text.
        numbers = count(1 if any(arm.is_baseline for arm in arms) else 0)
        return [Style.of(0 if arm.is_baseline else next(numbers)) for arm in arms]
    metric = next((metric for metric in table.metrics if metric.better is not None), None)
    means = {row: _mean(arm.cells.get(metric.name)) if metric else None for row, arm in enumerate(arms)}
    scored = {row: mean for row, mean in means.items() if mean is not None}
    sign = -1.0 if metric is not None and metric.better == "min" else 1.0
    ranks = {row: rank for rank, row in enumerate(sorted(scored, key=lambda row: sign * scored[row]))}
    return [
        Style.of(0) if arm.is_baseline else Style.ranked(ranks[row], len(ranks)) if row in ranks else Style("q0")
        for row, arm in enumerate(arms)
    ]


def curve_quantities(table: ResultTable) -> tuple[list[str], list[str]]:
    """Return the names of metrics with curves: those of the table and losses, then the rest, which is folded away.

    Scores of guessing are left out, because they are lines in the figures of other metrics.
    """
    hidden = {name.partition("/")[2] for names in BASELINES.values() for name in names}
    # Of the metrics of speed, only these two help to compare runs.
    hidden |= {name.partition("/")[2] for name in THROUGHPUT_METRICS} - {"tokens_per_second", "mfu"}
    runs = [run for arm in table.arms for run in (*arm.runs, *(each.run for each in arm.missing if each.run))]
    names = [name.partition("/")[2] for run in runs for stage in ("train/", "val/") for name in run.metrics(stage)]
    known = [name for name in dict.fromkeys(names) if name not in hidden]
    first = [metric.name.partition("/")[2] for metric in table.metrics]
    shown = dict.fromkeys([*(name for name in first if name in known), *(name for name in known if "loss" in name)])
    return list(shown), [name for name in known if name not in shown]


def _mean(cell: MetricCell | None) -> float | None:
    return cell.mean if cell is not None else None


def _cost(axis: str, run: Run, progress: Progress) -> float | None:
    if axis in _COUNTS:
        parameters = run.manifest.get(_COUNTS[axis])
        return float(parameters) if isinstance(parameters, int) else None
    if axis == "memory":
        return max((float(row[_MEMORY]) for row in run.rows if _MEMORY in row), default=None)
    return progress.total(_as_axis(axis))


def _as_axis(name: str) -> Axis:
    return "tokens" if name == "tokens" else "seconds" if name == "seconds" else "steps"


def _all_have(axis: Axis, arm: Learners) -> bool:
    return all(axis in run.progress.at for run in arm.runs)


def _differ(costs: Collection[float]) -> bool:
    return max(costs) > 1.01 * min(costs)
