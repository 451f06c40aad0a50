"""The tables of a report's page as texts: cells, captions, and the runs that each number comes from."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from bert_lightning.config.yaml_files import dump_yaml
from bert_lightning.reports.figures.progress import Progress
from bert_lightning.reports.figures.scales import duration, score
from bert_lightning.reports.results import (
    ArmResult,
    Metric,
    MetricCell,
    ResultTable,
    command_of,
    repetition_of,
)
from bert_lightning.studies.comparison import Run

_BEST = "Bold: the best mean of the column."
_NOT_WORSE = "≈: the seeds do not show that the arm is worse than the best one."


@dataclass(frozen=True)
class CellView:
    """One number of a table.

    Attributes:
        sort: the value to sort by; empty if there is none.
        score: mean and deviation.
        spread: the deviation with its sign; empty for a single seed.
        target: the place of the page that tells where it comes from.
        best: whether it is the best mean.
        not_worse: whether the seeds do not show that it is worse.
        lines: what stands below it: difference, p, published figures.
        notes: letters of the notes below the table.
        seeds: the values of the seeds, shown while the pointer is over it.
    """

    sort: str
    score: str
    spread: str
    target: str
    best: bool
    not_worse: bool
    lines: tuple[str, ...]
    notes: str
    seeds: str


@dataclass(frozen=True)
class RunView:
    """One run in the part of the page on where numbers come from.

    Attributes:
        target: its place in the page.
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
        target: its place in the part on runs.
        label: its name.
        is_baseline: whether others are compared with it.
        n: number of its runs.
        cells: one per column; None where nothing was measured.
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
        columns: its metrics, with an arrow for the better direction.
        arms: its rows.
        caption: whole sentences.
        notes: letter and text of each note.
        scrolls: whether it is so long that it scrolls by itself on a screen.
    """

    columns: tuple[tuple[str, str], ...]
    arms: tuple[ArmView, ...]
    caption: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]
    scrolls: bool


def arm_target(table: int, arm: int) -> str:
    """Return the place of the page that lists the runs of an arm."""
    return f"arm-{table}-{arm}"


def run_target(table: int, arm: int, run: int) -> str:
    """Return the place of the page that describes a run."""
    return f"run-{table}-{arm}-{run}"


def table_view(table: ResultTable, number: int, progress: Mapping[int, Progress]) -> TableView:
    """Return the texts of a table.

    Args:
        table: the table.
        number: its number in the page.
        progress: identity of each run -> its progress.
    """
    notes = list(dict.fromkeys(note for arm in table.arms for cell in arm.cells.values() for note in cell.notes))
    arms = tuple(
        ArmView(
            arm_target(number, row),
            arm.label,
            arm.is_baseline,
            len(arm.runs),
            tuple(_cell(arm, metric, arm_target(number, row), notes) for metric in table.metrics),
            tuple(
                _run(table, run, run_target(number, row, place), progress[id(run)])
                for place, run in enumerate(arm.runs)
            ),
            len(arm.missing),
        )
        for row, arm in enumerate(table.arms)
    )
    cells = [cell for arm in arms for cell in arm.cells if cell is not None]
    caption = [*table.caption]
    caption += [_BEST] if any(cell.best for cell in cells) else []
    caption += [_NOT_WORSE] if any(cell.not_worse and not cell.best for cell in cells) else []
    arrows = {"max": "↑", "min": "↓"}
    columns = tuple((metric.name, arrows.get(metric.better or "", "")) for metric in table.metrics)
    lettered = tuple((_letter(place), note) for place, note in enumerate(notes))
    return TableView(columns, arms, tuple(caption), lettered, len(arms) > 30)


def _letter(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    letters = ascii_lowercase
    return letters[number] if number < len(letters) else _letter(number // len(letters) - 1) + letters[number % 26]


def _cell(arm: ArmResult, metric: Metric, target: str, notes: Sequence[str]) -> CellView | None:
    cell = arm.cells.get(metric.name)
    if cell is None or not cell.values:
        return None
    mean = cell.mean if cell.mean is not None else math.nan
    return CellView(
        sort="" if math.isnan(mean) else repr(mean),
        score="not finite" if math.isnan(mean) else score(mean),
        spread="" if cell.sd is None else f"± {score(cell.sd)}",
        target=target,
        best=cell.best,
        not_worse=cell.not_worse,
        lines=tuple(_lines(cell)),
        notes=" ".join(_letter(notes.index(note)) for note in cell.notes),
        seeds="; ".join(f"seed {seed}: {score(value)}" for seed, value in cell.values.items()),
    )


def _lines(cell: MetricCell) -> Iterator[str]:
    if cell.difference is not None:
        ends = "" if cell.interval is None else f" [{_signed(cell.interval[0])}, {_signed(cell.interval[1])}]"
        yield f"{_signed(cell.difference)}{ends}"
    words = []
    if cell.p_adjusted is not None or cell.p is not None:
        words.append(p_value(cell.p_adjusted if cell.p_adjusted is not None else cell.p))
    if cell.equivalent:
        words.append("equivalent")
    if words:
        yield ", ".join(words)
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
        scores={metric.name: score(scores[metric.name]) for metric in table.metrics if metric.name in scores},
        facts={name: text for name, text in facts.items() if text},
        reproduce=repetition_of(run),
        config=dump_yaml(run.config),
        manifest=json.dumps(run.manifest, indent=2, ensure_ascii=False),
    )


def _signed(value: float) -> str:
    return score(value) if value < 0 else f"+{score(value)}"


def p_value(p: float | None) -> str:
    """Return a p-value with three decimals.

    >>> p_value(0.0312), p_value(2e-7)
    ('p 0.031', 'p < 0.001')
    """
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"
