"""The command `report`: tables, statistics and curves of runs and studies, with the origin of each number."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from bert_lightning.checkpoints.files import write_text
from bert_lightning.config.published import Published, compared
from bert_lightning.config.yaml_files import dump_yaml
from bert_lightning.errors import InputError
from bert_lightning.reports.curves import BASELINES, draw
from bert_lightning.reports.data_files import as_csv, as_json
from bert_lightning.reports.latex_report import as_latex
from bert_lightning.reports.markdown_report import as_markdown
from bert_lightning.reports.results import Results
from bert_lightning.reports.tabulation import tabulate
from bert_lightning.runs.figures import drawn
from bert_lightning.studies.comparison import Group, Run, as_table
from bert_lightning.studies.found_runs import find_runs
from bert_lightning.training.throughput import THROUGHPUT_METRICS
from bert_lightning.version import __version__

# Forms that hold numbers alone, for other programs.
_FOR_PROGRAMS = (".csv", ".json")


def write_report(
    paths: Sequence[Path],
    output: Path,
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    *,
    checklist: bool = False,
    ranges: bool = False,
) -> Results:
    """Write a report over runs and studies.

    Args:
        paths: run directories, folders that hold some, and folders of studies. A run counts once.
        output: the file; its suffix decides the form.
        baseline: the arm with which the others are compared, see `tabulate`.
        metrics: the columns; empty for those that the study compares, or all.
        checklist: whether to add the reproducibility checklist.
        ranges: whether to show median, smallest and largest value, which CSV and JSON always hold.

    Returns:
        What the report shows.

    Raises:
        InputError: the suffix is unknown, a path holds no run, no run has finished, or an arm or metric is unknown.
    """
    if output.suffix not in _FORMS:
        raise InputError(f"--output is {output}; a report ends in {', '.join([*_FORMS][:-1])} or {[*_FORMS][-1]}")
    if checklist and output.suffix in _FOR_PROGRAMS:
        raise InputError(f"--checklist needs a page to stand on, and {output} holds numbers alone")
    results = tabulate(find_runs(paths), baseline, metrics, checklist=checklist, ranges=ranges)
    write_text(output, _FORMS[output.suffix](results))
    return results


def _html(results: Results) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("bert_lightning.reports", "."),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tasks = []
    for table in results.tables:
        groups = [Group(arm.label, table.task, list(arm.runs)) for arm in table.arms if arm.runs]
        tasks.append(
            {
                "name": table.title,
                "table": as_table(groups),
                "curves": [_curve(metric, groups) for metric in _curve_metrics(groups)],
                "runs": [_details(run) for group in groups for run in group.runs],
            }
        )
    return environment.get_template("report.html.jinja").render(tasks=tasks, version=__version__)


def _curve(metric: str, groups: Sequence[Group]) -> dict[str, str | None]:
    return {"metric": metric, "picture": drawn(f"the curve of {metric}", lambda: draw(metric, groups))}


def _curve_metrics(groups: Sequence[Group]) -> list[str]:
    """Return the metrics to draw. Baselines are left out, because they are lines in the curves of other metrics."""
    hidden = {name.partition("/")[2] for names in BASELINES.values() for name in names}
    # Of the throughput metrics, only these two are useful to compare runs.
    hidden |= {name.partition("/")[2] for name in THROUGHPUT_METRICS} - {"tokens_per_second", "mfu"}
    names = [
        name.partition("/")[2]
        for group in groups
        for run in group.runs
        for name in (*run.metrics("train/"), *run.metrics("val/"))
    ]
    return [name for name in dict.fromkeys(names) if name not in hidden]


def _details(run: Run) -> dict[str, object]:
    session = (run.manifest.get("sessions") or [{}])[-1]
    git = session.get("git") or {}
    commit = git.get("commit", "")[:10] + (" (modified)" if git.get("modified") else "")
    scores = run.scores()
    return {
        "name": run.name,
        "seed": run.seed,
        "step": run.manifest.get("step", run.rows[-1].get("step", "")),
        "ended": run.manifest.get("ended") or "still running or killed",
        "started": run.manifest.get("started", ""),
        "finished": session.get("finished", ""),
        "commit": commit or "outside a repository",
        "command": session.get("command", ""),
        "hardware": session.get("hardware", {}).get("processor", ""),
        "scores": {name: f"{value:.4f}" for name, value in scores.items()},
        "published": list(compared([Published(**entry) for entry in run.config.get("published", [])], scores)),
        "config": dump_yaml(run.config),
        "manifest": json.dumps(run.manifest, indent=2, ensure_ascii=False),
    }


_FORMS: dict[str, Callable[[Results], str]] = {
    ".html": _html,
    ".md": as_markdown,
    ".tex": as_latex,
    ".csv": as_csv,
    ".json": as_json,
}
