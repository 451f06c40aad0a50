"""The report as Markdown, with a footnote per arm that lists its runs."""

from collections.abc import Iterable, Iterator, Sequence

from bert_lightning.checkpoints.plain_text import markdown, markdown_code
from bert_lightning.reports.captions import whole_caption
from bert_lightning.reports.confounds import confound_text
from bert_lightning.reports.number_texts import (
    equivalence_text,
    interval_text,
    is_significant,
    mean_text,
    n_text,
    number,
    overall_rows,
    p_text,
    signed,
)
from bert_lightning.reports.results import (
    ArmResult,
    MetricCell,
    Overall,
    Results,
    ResultTable,
    command_of,
    origin_text,
    published_lines,
    repetition_of,
)
from bert_lightning.studies.comparison import Run


def as_markdown(results: Results) -> str:
    """Return the results as a Markdown document."""
    lines = ["# Report", ""]
    footnotes: list[str] = []
    for table in results.tables:
        lines += _table(table, results.ranges, footnotes)
    for overall in results.overall:
        lines += _overall(overall)
    if results.checklist:
        rows = [[markdown(item.question), markdown(item.answer)] for item in results.checklist]
        lines += ["## Reproducibility checklist", "", *_grid(["item", "answer"], rows), ""]
    return "\n".join([*lines, "\n\n".join(footnotes), ""])


def _table(table: ResultTable, ranges: bool, footnotes: list[str]) -> Iterator[str]:
    yield from (f"## {markdown(table.title)}", "")
    if table.question:
        yield from (markdown(table.question), "")
    yield from _confounds(table)
    if table.arms:
        names = [_footnote(arm, footnotes) if arm.runs else "" for arm in table.arms]
        yield from (*_scores(table, names), "")
        if table.caption:
            yield from (markdown(whole_caption(table)), "")
    yield from _differences(table)
    yield from _matrices(table)
    if ranges:
        yield from _ranges(table)
    yield from _published(table)
    yield from _missing(table)


def _confounds(table: ResultTable) -> Iterator[str]:
    confounds = [each for each in table.confounds if each.explained_by is None]
    consequences = [each for each in table.confounds if each.explained_by is not None]
    if confounds:
        yield from ("**Confounds.** The arms also differ in something besides their axis:", "")
        yield from (*(f"- {markdown(confound_text(each))}" for each in confounds), "")
    if consequences:
        yield from ("Consequences of the axis:", "")
        yield from (*(f"- {markdown(confound_text(each))}" for each in consequences), "")


def _scores(table: ResultTable, footnotes: Sequence[str]) -> list[str]:
    """Return a table with a row per arm, or with a row per metric if there are fewer arms than metrics."""
    names = [metric.name for metric in table.metrics]
    columns = [["", "n", *map(markdown, names), "runs"]]
    for arm, footnote in zip(table.arms, footnotes, strict=True):
        cells = [arm.cells.get(name) for name in names]
        columns.append([markdown(arm.label), str(len(arm.runs)), *(_cell(cell, arm) for cell in cells), footnote])
    if len(table.arms) < len(names):
        columns = [list(line) for line in zip(*columns, strict=True)]
    return _grid(columns[0], columns[1:])


def _cell(cell: MetricCell | None, arm: ArmResult) -> str:
    if cell is None:
        return ""
    text = mean_text(cell) + n_text(cell, len(arm.runs))
    text = f"**{text}**" if cell.best else text
    return text + ("†" if cell.not_worse else "") + (r"\*" if is_significant(cell) else "")


def _differences(table: ResultTable) -> Iterator[str]:
    rows = [(arm, cell) for arm, cell in table.cells() if cell.difference is not None]
    if not rows:
        return
    with_margin = any(cell.equivalent is not None for _, cell in rows)
    with_exact = any(cell.exact_p is not None for _, cell in rows)
    with_examples = any(cell.crossed_interval is not None for _, cell in rows)
    header = ["arm", "metric", "difference", "95 % interval", "p", "p (Holm)", "test"]
    header += (
        ["exact p"] * with_exact + ["equivalent"] * with_margin + ["interval over seeds and examples"] * with_examples
    )
    lines = []
    for arm, cell in rows:
        assert cell.difference is not None, "rows without a difference were left out"
        line = [markdown(arm.label), markdown(cell.metric), signed(cell.difference), interval_text(cell.interval)]
        line += [p_text(cell.p), p_text(cell.p_adjusted), (cell.test or "") if cell.p is not None else "none"]
        line += [p_text(cell.exact_p)] * with_exact
        line += [equivalence_text(cell.equivalent)] * with_margin
        line += [interval_text(cell.crossed_interval)] * with_examples
        lines.append([*map(_interval_escaped, line)])
    yield from (f"### Differences to {markdown(table.baseline or '')}", "", *_grid(header, lines), "")


def _matrices(table: ResultTable) -> Iterator[str]:
    if not table.matrices:
        return
    yield from ("### Each task after each task", "")
    tasks = table.matrices[0].tasks
    header = ["arm", "after", *map(markdown, tasks)]
    rows = [
        [markdown(matrix.label), markdown(learned), *("" if cell is None else mean_text(cell) for cell in cells)]
        for matrix in table.matrices
        for learned, cells in zip(tasks, matrix.cells, strict=True)
    ]
    yield from (*_grid(header, rows), "")


def _interval_escaped(field: str) -> str:
    return field.replace("[", r"\[").replace("]", r"\]") if "[" in field[:1] else field


def _overall(overall: Overall) -> Iterator[str]:
    rows = overall_rows(overall)
    header = ["arm", *rows[0][1]]
    lines = [
        [markdown(arm.label), *(_interval_escaped(each).replace("*", r"\*") for each in fields.values())]
        for arm, fields in rows
    ]
    yield from (
        f"## {markdown(overall.title)}",
        "",
        *_grid(header, lines),
        "",
        markdown(" ".join(overall.caption)),
        "",
    )


def _ranges(table: ResultTable) -> Iterator[str]:
    header = ["arm", "metric", "n", "median", "min", "max", "95 % interval of the mean", "values by seed"]
    rows = []
    for arm, cell in table.cells():
        numbers = [number(each) if each is not None else "" for each in (cell.median, cell.minimum, cell.maximum)]
        interval = cell.mean_interval
        between = f"{number(interval[0])} to {number(interval[1])}" if interval is not None else ""
        values = ", ".join(f"{seed}: {number(value)}" for seed, value in cell.values.items())
        rows.append([markdown(arm.label), markdown(cell.metric), str(cell.n), *numbers, between, values])
    if rows:
        yield from ("### Every value", "", *_grid(header, rows), "")


def _published(table: ResultTable) -> Iterator[str]:
    lines = [f"- {markdown(arm.label)}: {markdown(line)}" for arm in table.arms for line in published_lines(arm)]
    if lines:
        yield from ("### Published figures", "", *lines, "")


def _missing(table: ResultTable) -> Iterator[str]:
    if table.missing:
        rows = [
            [markdown(each.arm), str(each.seed), each.state, markdown(str(each.directory)), markdown(each.message)]
            for each in table.missing
        ]
        header = ["arm", "seed", "state", "run", "last message"]
        yield from ("### Not in the table", "", *_grid(header, rows), "")
    if table.failures:
        yield from (markdown(" ".join(table.failures.values())), "")


def _footnote(arm: ArmResult, footnotes: list[str]) -> str:
    """Add a footnote that lists the runs of an arm, and return the reference to it."""
    reference = f"[^{len(footnotes) + 1}]"
    footnotes.append(f"{reference}: {'; '.join(_origin(run) for run in arm.runs)}.")
    return reference


def _origin(run: Run) -> str:
    command = command_of(run)
    trained = f", trained with {markdown_code(command)}" if command else ""
    return (
        f"seed {run.seed}: {markdown_code(run.name)}, {origin_text(run)}{trained}, "
        f"repeated with {markdown_code(repetition_of(run))}"
    )


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(header), _row(["---"] * len(header)), *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
