"""The report as one HTML page. Its only script sorts tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bert_lightning.reports.figures.progress import Progress
from bert_lightning.reports.number_texts import mean_text, overall_rows
from bert_lightning.reports.page_figures import AXIS_NAMES, TableFigures
from bert_lightning.reports.page_sections import Section
from bert_lightning.reports.page_tables import TableView, table_view
from bert_lightning.reports.results import Confound, NotInTable, Results, ResultTable
from bert_lightning.reports.self_contained_page import self_contained_page
from bert_lightning.wording import count


@dataclass(frozen=True)
class _TablePart:
    """One table of the page with its confounds, figures and missing runs."""

    number: int
    title: str
    confounds: Sequence[Confound]
    explained: Sequence[Confound]
    table: TableView
    sections: Sequence[Section]
    missing: Sequence[NotInTable]
    failures: Sequence[str]
    tasks: Sequence[str]
    matrix: Sequence[tuple[str, str, Sequence[str]]]


@dataclass(frozen=True)
class _StudyPart:
    """The tables of one study, or of runs outside studies."""

    question: str
    name: str
    facts: str
    tables: Sequence[_TablePart]


def page(results: Results) -> str:
    """Return results as an HTML page."""
    studies = _studies(results)
    return self_contained_page(
        "page.html.jinja",
        studies[0].question if len(studies) == 1 else "Report",
        styles=["page.css.jinja"],
        scripts=["sorting.js.jinja"],
        studies=studies,
        tables=[table for study in studies for table in study.tables],
        overall=[(each, overall_rows(each)) for each in results.overall],
        checklist=results.checklist,
        axis_names=AXIS_NAMES,
    )


def _studies(results: Results) -> list[_StudyPart]:
    num_runs = sum(len(arm.runs) + len(arm.missing) for table in results.tables for arm in table.arms)
    grouped: dict[object, list[tuple[int, ResultTable]]] = {}
    for number, table in enumerate(results.tables):
        grouped.setdefault((table.study, table.directory), []).append((number, table))
    return [
        _study(
            [table for _, table in members],
            [_part(table, number, num_runs, ranges=results.ranges) for number, table in members],
        )
        for members in grouped.values()
    ]


def _study(tables: Sequence[ResultTable], parts: Sequence[_TablePart]) -> _StudyPart:
    first = tables[0]
    runs = {run.name for table in tables for arm in table.arms for run in arm.runs}
    facts = [count(len(runs), "run")]
    missing = sum(len(table.missing) for table in tables)
    if missing:
        facts.append(f"{missing} not in the table" if len(tables) == 1 else f"{missing} not in the tables")
    if first.directory is not None:
        facts.append(str(first.directory))
    question = first.question or first.study or "Report"
    name = first.study if first.study is not None and first.question else ""
    return _StudyPart(question, name, " · ".join(facts), parts)


def _part(table: ResultTable, number: int, num_runs: int, *, ranges: bool) -> _TablePart:
    runs = [run for arm in table.arms for run in (*arm.runs, *(each.run for each in arm.missing))]
    progress = {id(run): Progress(run) for run in runs if run is not None}
    return _TablePart(
        number,
        table.title,
        [each for each in table.confounds if each.explained_by is None],
        [each for each in table.confounds if each.explained_by is not None],
        table_view(table, number, progress, ranges=ranges),
        list(TableFigures(table, number, progress, num_runs).sections()),
        table.missing,
        [*table.failures.values()],
        table.matrices[0].tasks if table.matrices else (),
        [*_matrix_rows(table)],
    )


def _matrix_rows(table: ResultTable) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield an arm, a task that was learned, and the scores on every task after it."""
    for matrix in table.matrices:
        for learned, cells in zip(matrix.tasks, matrix.cells, strict=True):
            yield matrix.label, learned, ["" if cell is None else mean_text(cell) for cell in cells]
