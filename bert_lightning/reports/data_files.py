"""The report as JSON and CSV: one entry per arm and metric, with the score of each seed."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence

from bert_lightning.reports.confounds import confound_text
from bert_lightning.reports.results import (
    ArmResult,
    Metric,
    MetricCell,
    Overall,
    Results,
    ResultTable,
    repetition_of,
)

_EMPTY = MetricCell("", {})


def as_json(results: Results) -> str:
    """Return the results as a JSON list with an object per arm and metric. Numbers that are not finite are null."""
    return json.dumps([*_entries(results)], indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(results: Results) -> str:
    """Return the results as CSV with a line per arm and metric. Lists and mappings are JSON."""
    nothing = _entry(ResultTable("", "", (), ()), ArmResult("", {}, (), {}), Metric("", None), _EMPTY)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_fields({**nothing, "over_tasks": None})], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_fields, _entries(results)))
    return text.getvalue()


def _fields(entry: Mapping[str, object]) -> dict[str, object]:
    """Return an entry as the fields of a line: bounds and the first published figure become separate fields."""
    row: dict[str, object] = {}
    for key, value in entry.items():
        if key.endswith("interval"):
            low, high = value if isinstance(value, list) else ("", "")
            row |= {f"{key}_low": low, f"{key}_high": high}
        elif key == "published":
            figure = value[0] if isinstance(value, list) and value else {}
            names = ("value", "tolerance", "within", "source")
            row |= {f"published_{name}": _as_field(figure.get(name)) for name in names}
        else:
            row[key] = _as_field(value)
    return row


def _as_field(value: object) -> object:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return "" if value is None else value


def _entries(results: Results) -> Iterator[dict[str, object]]:
    for table in results.tables:
        for arm in table.arms:
            # If no run of an arm has finished, its entries have no numbers.
            for metric in table.metrics:
                cell = arm.cells.get(metric.name, _EMPTY)
                over_tasks = _over_tasks(results.overall, table.title, arm.label, metric.name)
                yield {**_entry(table, arm, metric, cell), "over_tasks": over_tasks}


def _over_tasks(overall: Sequence[Overall], title: str, label: str, metric: str) -> dict[str, object] | None:
    """Return the comparison over several tasks that a number is part of; None if it is part of none."""
    for each in overall:
        arm = next((arm for arm in each.arms if arm.label == label and each.tasks.get(title) == metric), None)
        if arm is None:
            continue
        cell = arm.cell
        return {
            "tasks": dict(each.tasks),
            "values": {str(seed): value for seed, value in cell.values.items()},
            "mean": cell.mean,
            "sd": cell.sd,
            "n": cell.n,
            "difference": cell.difference,
            "interval": _bounds(cell.interval),
            "p": cell.p,
            "p_adjusted": cell.p_adjusted,
            "test": cell.test,
            "exact_p": cell.exact_p,
            "equivalent": cell.equivalent,
            "tasks_better_equal_worse": list(arm.tasks) if arm.tasks is not None else None,
            "notes": list(cell.notes),
        }
    return None


def _entry(table: ResultTable, arm: ArmResult, metric: Metric, cell: MetricCell) -> dict[str, object]:
    of_arms = [id(each) for other in table.arms for each in other.missing]
    missing = [*arm.missing, *(each for each in table.missing if id(each) not in of_arms)]
    runs = [run for run in arm.runs if run.seed in cell.values]
    return {
        "study": table.study,
        "stage": table.stage,
        "task": table.task,
        "table": table.title,
        "label": arm.label,
        "arm": {key: _plain(value) for key, value in arm.values.items()},
        "metric": metric.name,
        "better": metric.better,
        "values": {str(seed): _finite(value) for seed, value in cell.values.items()},
        "mean": cell.mean,
        "sd": cell.sd,
        "n": cell.n,
        "median": cell.median,
        "min": cell.minimum,
        "max": cell.maximum,
        "mean_interval": _bounds(cell.mean_interval),
        "baseline": table.baseline,
        "difference": cell.difference,
        "interval": _bounds(cell.interval),
        "p": cell.p,
        "p_adjusted": cell.p_adjusted,
        "test": cell.test,
        "exact_p": cell.exact_p,
        "exact_test": cell.exact_test,
        "equivalent": cell.equivalent,
        "crossed_interval": _bounds(cell.crossed_interval),
        "best": cell.best,
        "not_worse": cell.not_worse,
        "scored": cell.scored,
        "published": [
            {
                "value": each.figure.value,
                "tolerance": each.figure.tolerance,
                "within": each.within,
                "source": each.figure.source,
            }
            for each in cell.published
        ],
        "notes": list(cell.notes),
        "confounds": [confound_text(each) for each in table.confounds if each.explained_by is None],
        "not_in_table": [
            {
                "arm": each.arm,
                "seed": each.seed,
                "state": each.state,
                "run": str(each.directory),
                "message": each.message,
            }
            for each in missing
        ],
        "failures": table.failures.get(arm.label),
        "runs": [run.name for run in runs],
        "commands": [repetition_of(run) for run in runs],
    }


def _bounds(interval: tuple[float, float] | None) -> list[float] | None:
    return list(interval) if interval is not None else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: object) -> object:
    """Return a value that JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
