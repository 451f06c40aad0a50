"""The command `report`: tables, statistics and curves of runs and studies, and the runs that they come from."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bert_lightning.checkpoints.files import write_text
from bert_lightning.errors import InputError
from bert_lightning.reports.data_files import as_csv, as_json
from bert_lightning.reports.latex_report import as_latex
from bert_lightning.reports.markdown_report import as_markdown
from bert_lightning.reports.page import page
from bert_lightning.reports.results import Results
from bert_lightning.reports.tabulation import tabulate
from bert_lightning.studies.found_runs import find_runs

# Formats for other programs, which contain only numbers.
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
        output: the file. Its ending decides the format: .html, .md, .tex, .csv or .json.
        baseline: the arm that the others are compared with, see `tabulate`.
        metrics: the columns; empty for those that the study compares, or else all.
        checklist: whether to add the reproducibility checklist.
        ranges: whether to show median, smallest and largest value. CSV and JSON always have them.

    Returns:
        The results that the report shows.

    Raises:
        InputError: the ending is unknown, a path holds no run, no run has finished, an arm or metric is unknown, or a
            checklist is asked for in CSV or JSON.
    """
    if output.suffix not in _FORMS:
        raise InputError(f"--output is {output}; a report ends in {', '.join([*_FORMS][:-1])} or {[*_FORMS][-1]}")
    if checklist and output.suffix in _FOR_PROGRAMS:
        raise InputError(f"--checklist is not possible in {output}: only .html, .md and .tex can contain it")
    results = tabulate(find_runs(paths), baseline, metrics, checklist=checklist, ranges=ranges)
    write_text(output, _FORMS[output.suffix](results))
    return results


_FORMS: dict[str, Callable[[Results], str]] = {
    ".html": page,
    ".md": as_markdown,
    ".tex": as_latex,
    ".csv": as_csv,
    ".json": as_json,
}
