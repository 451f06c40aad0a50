"""The command `report`: scores over seeds, curves and the origin of each number, as HTML or Markdown."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bert_lightning.checkpoints.files import write_text
from bert_lightning.checkpoints.plain_text import markdown, markdown_code
from bert_lightning.config.published import Published, compared
from bert_lightning.config.yaml_files import dump_yaml
from bert_lightning.errors import InputError
from bert_lightning.reports.curves import BASELINES, draw
from bert_lightning.runs.figures import drawn
from bert_lightning.studies.comparison import Group, Run, as_table, group_runs, read_run
from bert_lightning.training.throughput import THROUGHPUT_METRICS
from bert_lightning.version import __version__


class _RunDetails(NamedTuple):
    """Texts about one run, as the templates show them."""

    name: str
    seed: int
    step: int | str
    ended: str
    started: str
    finished: str
    commit: str
    command: str
    hardware: str
    scores: dict[str, str]
    published: list[str]
    config: str
    manifest: str


def write_report(paths: Sequence[Path], output: Path) -> None:
    """Write a report over run directories.

    Args:
        paths: run directories. A run that is named twice counts once.
        output: the file; its suffix, `.html` or `.md`, decides the format.

    Raises:
        InputError: the suffix is unknown, or a path is not a run directory.
    """
    if output.suffix not in _FORMATS:
        raise InputError(f"--output is {output}; a report ends in {' or '.join(_FORMATS)}")
    groups = group_runs([read_run(path) for path in {os.path.realpath(path): path for path in paths}.values()])
    write_text(output, _FORMATS[output.suffix](groups))


def _by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return tasks


def _html(groups: Sequence[Group]) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("bert_lightning.reports", "."),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tasks = [
        {
            "name": task,
            "table": as_table(members),
            "curves": [_curve(metric, members) for metric in _curve_metrics(members)],
            "runs": [_details(run) for group in members for run in group.runs],
        }
        for task, members in _by_task(groups).items()
    ]
    return environment.get_template("report.html.jinja").render(tasks=tasks, version=__version__)


def _curve(metric: str, groups: Sequence[Group]) -> dict[str, str | None]:
    return {"metric": metric, "picture": drawn(f"the curve of {metric}", lambda: draw(metric, groups))}


def _markdown(groups: Sequence[Group]) -> str:
    lines = ["# Report", ""]
    for task, members in _by_task(groups).items():
        header, rows = as_table(members)
        lines += [f"## {markdown(str(task))}", "", "Scores: mean ± standard deviation (n - 1) over seeds.", ""]
        lines += [_row(map(markdown, header)), _row(["---"] * len(header))]
        lines += [*(_row(map(markdown, row)) for row in rows), ""]
        runs = [_details(member) for group in members for member in group.runs]
        lines += [_row(["run", "seed", "steps", "ended", "commit", "command"]), _row(["---"] * 6)]
        lines += [
            _row(
                [
                    *(markdown(str(text)) for text in (run.name, run.seed, run.step, run.ended, run.commit)),
                    markdown_code(run.command, in_table=True),
                ]
            )
            for run in runs
        ]
        lines.append("")
        lines += [f"- {markdown(run.name)}: {markdown(line)}" for run in runs for line in run.published]
        lines.append("")
    return "\n".join(lines)


_FORMATS: dict[str, Callable[[Sequence[Group]], str]] = {".html": _html, ".md": _markdown}


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


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


def _details(run: Run) -> _RunDetails:
    session = (run.manifest.get("sessions") or [{}])[-1]
    git = session.get("git") or {}
    commit = git.get("commit", "")[:10] + (" (modified)" if git.get("modified") else "")
    scores = run.scores()
    return _RunDetails(
        name=run.name,
        seed=run.seed,
        step=run.manifest.get("step", run.rows[-1].get("step", "")),
        ended=run.manifest.get("ended") or "still running or killed",
        started=run.manifest.get("started", ""),
        finished=session.get("finished", ""),
        commit=commit or "outside a repository",
        command=session.get("command", ""),
        hardware=session.get("hardware", {}).get("processor", ""),
        scores={name: f"{value:.4f}" for name, value in scores.items()},
        published=list(compared([Published(**entry) for entry in run.config.get("published", [])], scores)),
        config=dump_yaml(run.config),
        manifest=json.dumps(run.manifest, indent=2, ensure_ascii=False),
    )
