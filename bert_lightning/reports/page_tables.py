"""The tables of the page of a report as texts: cells, captions, and the runs that each number comes from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bert_lightning.config.yaml_files import dump_yaml
from bert_lightning.reports.captions import whole_caption
from bert_lightning.reports.figures.progress import Progress
from bert_lightning.reports.number_texts import interval_text, is_significant, n_text, p_text, signed
from bert_lightning.reports.number_texts import number as number_text
from bert_lightning.reports.results import (
    ArmResult,
    Metric,
    MetricCell,
    ResultTable,
    command_of,
    published_lines,
    repetition_of,
)
from bert_lightning.studies.comparison import Run
from bert_lightning.wording import duration

# A table with more rows has its own scroll bar.
_MOST_ROWS = 30
_NO_BREAK_SPACE = "\u00a0"


@dataclass(frozen=True)
class CellView:
    """One number of a table.

    Attributes:
        sort: the value to sort by; empty if there is none.
        score: the mean.
        spread: the standard deviation, after a ±; empty for a single seed.
        n: number of seeds with this metric; empty if it is the number of runs of the arm.
        target: anchor of the part of the page that lists its runs.
        best: whether it is the best mean.
        marks: symbols that the caption explains.
        lines: lines below the mean: difference, p, published figures.
        seeds: the score of each seed, shown while the pointer is over the cell.
    """

    sort: str
    score: str
    spread: str
    n: str
    target: str
    best: bool
    marks: str
    lines: tuple[str, ...]
    seeds: str


@dataclass(frozen=True)
class RunView:
    """One run, in the part of the page that lists the runs from which each number comes.

    Attributes:
        target: its anchor in the page.
        name: its directory.
        seed: its seed.
        state: how it ended, or why it is not in the table.
        steps: steps done.
        scores: metric -> score.
        facts: further names and texts.
        reproduce: the command that trains it again.
        config: its configuration.
        manifest: its manifest.
    """

    target: str
    name: str
    seed: int
    state: str
    steps: str
    scores: dict[str, str]
    facts: dict[str, str]
    reproduce: str
    config: str
    manifest: str


@dataclass(frozen=True)
class ArmView:
    """One row of a table, and its runs.

    Attributes:
        target: anchor of the list of its runs.
        label: its name.
        is_baseline: whether others are compared with it.
        n: number of its runs.
        cells: one per column; None if no run has the metric.
        runs: its runs.
        missing: how many of its runs are not in the table.
    """

    target: str
    label: str
    is_baseline: bool
    n: int
    cells: tuple[CellView | None, ...]
    runs: tuple[RunView, ...]
    missing: int


@dataclass(frozen=True)
class TableView:
    """A table as the page shows it.

    Attributes:
        columns: its metrics, each with an arrow for the better direction, or empty.
        arms: its rows.
        caption: its caption.
        published: label of an arm and a line about a published figure.
        scrolls: whether it is so long that it has its own scroll bar on a screen.
        turned: whether metrics are rows and arms columns, because there are more metrics than arms.
    """

    columns: tuple[tuple[str, str], ...]
    arms: tuple[ArmView, ...]
    caption: str
    published: tuple[tuple[str, str], ...]
    scrolls: bool
    turned: bool


def arm_target(table: int, arm: int) -> str:
    """Return the anchor of the part of the page that lists the runs of an arm."""
    return f"arm-{table}-{arm}"


def run_target(table: int, arm: int, run: int) -> str:
    """Return the anchor of the part of the page that describes a run."""
    return f"run-{table}-{arm}-{run}"


def table_view(table: ResultTable, number: int, progress: Mapping[int, Progress], *, ranges: bool) -> TableView:
    """Return the texts of a table.

    Args:
        table: the table.
        number: its number in the page.
        progress: id of a run -> its progress.
        ranges: whether to show median, smallest and largest value.
    """
    arms = tuple(
        ArmView(
            arm_target(number, row),
            arm.label,
            arm.is_baseline,
            len(arm.runs),
            tuple(_cell(arm, metric, arm_target(number, row), ranges) for metric in table.metrics),
            tuple(
                _run(table, run, run_target(number, row, place), progress[id(run)])
                for place, run in enumerate(arm.runs)
            ),
            len(arm.missing),
        )
        for row, arm in enumerate(table.arms)
    )
    arrows = {"max": "↑", "min": "↓"}
    return TableView(
        columns=tuple((metric.name, arrows.get(metric.better or "", "")) for metric in table.metrics),
        arms=arms,
        caption=whole_caption(table),
        published=tuple((arm.label, line) for arm in table.arms for line in published_lines(arm)),
        scrolls=len(arms) > _MOST_ROWS,
        turned=len(arms) < len(table.metrics),
    )


def _cell(arm: ArmResult, metric: Metric, target: str, ranges: bool) -> CellView | None:
    cell = arm.cells.get(metric.name)
    if cell is None or not cell.values:
        return None
    return CellView(
        sort="" if cell.mean is None else repr(cell.mean),
        score="not finite" if cell.mean is None else number_text(cell.mean),
        spread="" if cell.mean is None or cell.sd is None else f"± {number_text(cell.sd)}",
        n=n_text(cell, len(arm.runs)),
        target=target,
        best=cell.best,
        marks=("†" if cell.not_worse else "") + ("*" if is_significant(cell) else ""),
        lines=tuple(_lines(cell, ranges)),
        seeds="; ".join(f"seed {seed}: {number_text(value)}" for seed, value in cell.values.items()),
    )


def _lines(cell: MetricCell, ranges: bool) -> Iterator[str]:
    if cell.difference is not None:
        # In a narrow column, a line should break before the interval, not within it.
        yield f"{signed(cell.difference)} {interval_text(cell.interval).replace(' ', _NO_BREAK_SPACE)}".rstrip()
    p = cell.p_adjusted if cell.p_adjusted is not None else cell.p
    words = [f"p {p_text(p)}"] if p is not None else []
    words += ["equivalent"] if cell.equivalent else ["equivalence not shown"] if cell.equivalent is False else []
    if words:
        yield ", ".join(words)
    if cell.exact_p is not None:
        yield f"{cell.exact_test}: p {p_text(cell.exact_p)}"
    if cell.crossed_interval is not None:
        yield f"seeds and examples {interval_text(cell.crossed_interval).replace(' ', _NO_BREAK_SPACE)}"
    if ranges and cell.median is not None and cell.minimum is not None and cell.maximum is not None:
        median, low, high = map(number_text, (cell.median, cell.minimum, cell.maximum))
        yield f"median {median}, {low} to {high}"
    for published in cell.published:
        figure = published.figure
        verdict = {True: "within", False: "outside", None: "not measured"}[published.within]
        yield f"published {figure.value:g} ± {figure.tolerance:g}: {verdict}"


def _run(table: ResultTable, run: Run, target: str, progress: Progress) -> RunView:
    session = (run.manifest.get("sessions") or [{}])[-1]
    git = session.get("git") or {}
    commit = str(git.get("commit", ""))[:10] + (" (modified)" if git.get("modified") else "")
    hardware = session.get("hardware") or {}
    devices = [*dict.fromkeys(hardware.get("gpus") or []), hardware.get("processor") or ""]
    seconds = progress.total("seconds")
    facts = {
        "command": command_of(run),
        "commit": commit or "outside a repository",
        "started": str(run.manifest.get("started", "")),
        "trained": duration(seconds) if seconds is not None else "",
        "hardware": ", ".join(filter(None, map(str, devices))),
    }
    scores = run.scores()
    return RunView(
        target=target,
        name=run.name,
        seed=run.seed,
        state=run.manifest.get("ended") or "still running or killed",
        steps=f"{run.manifest.get('step', run.rows[-1].get('step', 0)):,}",
        scores={metric.name: number_text(scores[metric.name]) for metric in table.metrics if metric.name in scores},
        facts={name: text for name, text in facts.items() if text},
        reproduce=repetition_of(run),
        config=dump_yaml(run.config),
        manifest=json.dumps(run.manifest, indent=2, ensure_ascii=False),
    )
